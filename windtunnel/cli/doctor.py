"""``windtunnel doctor``: what is wrong, and how to mend it."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home
from windtunnel.errors import DescriptionError

if TYPE_CHECKING:
    from windtunnel.stack.finding import Finding

NAME = "doctor"


class Target(StrEnum):
    """What is looked at."""

    LOCAL = "local"
    KUBERNETES = "kubernetes"


def command(
    context: typer.Context,
    target: Annotated[Target, typer.Option(help="This machine's stack, or a cluster.")] = Target.LOCAL,
    kube_context: Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Namespace of models and trainings.")] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="Look at what this part needs: training, releases, guard (-core2 for Core 2) [all]."),
    ] = None,
    user: Annotated[
        str | None, typer.Option("--as", help="Whose rights: system:serviceaccount:NAMESPACE:NAME [ours].")
    ] = None,
    seldon: Annotated[Path | None, typer.Option(help="Settings of Seldon (TOML): cluster, addresses.")] = None,
    model: Annotated[
        list[Path] | None, typer.Option(help="Description of a model (YAML) whose needs are looked for; several times.")
    ] = None,
    store: Annotated[str | None, typer.Option(help="Object store: s3://BUCKET/PREFIX or file:///FOLDER.")] = None,
    prometheus: Annotated[str | None, typer.Option(help="URL of the Prometheus that scrapes Seldon.")] = None,
    gateway: Annotated[str | None, typer.Option(help="URL that callers use, up to but without /v2.")] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Find what is wrong and say how to mend it.

    Looks at versions, environments, ports, disk, permissions, clock, memory and servers; with --target kubernetes at
    a cluster: access, version, clock, rights, what is installed, namespace, limits, nodes, storage, Prometheus,
    gateway, collector.
    Exit code 1 if any fails.
    """
    if target is Target.KUBERNETES:
        where, findings = _cluster(kube_context, namespace, part, user, seldon, model, store, prometheus, gateway)
    else:
        given = {
            "--context": kube_context, "--namespace": namespace, "--part": part, "--as": user, "--seldon": seldon,
            "--model": model, "--store": store, "--prometheus": prometheus, "--gateway": gateway,
        }  # fmt: skip
        if named := [name for name, value in given.items() if value]:
            raise DescriptionError(f"{', '.join(named)}: of a cluster only", hint="add --target kubernetes")
        from windtunnel.stack.doctor import examine

        found = the_home(context, home)
        where, findings = {"home": str(found.root)}, examine(found)
    failed = any(finding.result == "fail" for finding in findings)
    if json:
        whole = {**where, "ok": not failed, "findings": [asdict(finding) for finding in findings]}
        talk.data_json("windtunnel.doctor/1", whole)
    else:
        talk.table(
            [["check", "result", "found"], *([one.name, one.result, one.found] for one in findings)], colour_column=1
        )
        for one in findings:
            if one.mend:
                talk.data(f"\n{one.name}: {one.mend}")
    if failed:
        raise SystemExit(talk.FAILED)


def _cluster(
    context: str | None,
    namespace: str | None,
    parts: list[str] | None,
    user: str | None,
    seldon: Path | None,
    models: list[Path] | None,
    store: str | None,
    prometheus: str | None,
    gateway: str | None,
) -> tuple[dict[str, str], list[Finding]]:
    """Where it was looked, and what was found. What an option says goes before what the file says."""
    from windtunnel.kube.access import Access
    from windtunnel.kube.rights import PARTS, PARTS_CORE2
    from windtunnel.serving.core2 import Core2
    from windtunnel.serving.seldon import Seldon
    from windtunnel.spec.load import load_model
    from windtunnel.stack.clusterdoctor import Cluster, examine

    told = Seldon.read(seldon) if seldon else None
    access = told.access if told else Access()
    access = Access(access.kubeconfig, context or access.context, namespace or access.namespace)
    cluster = Cluster(
        access,
        parts=tuple(parts or (PARTS_CORE2 if isinstance(told, Core2) else PARTS)),
        user=user,
        store=store,
        prometheus=prometheus or (told.prometheus if told else None),
        gateway=gateway or (told.gateway if told else None),
        seldon=told,
        models=tuple(load_model(path) for path in models or ()),
    )
    return {"target": "kubernetes"}, examine(cluster)
