"""The API itself: which context, whether it answers, its version and clock, what we may, what is installed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from windtunnel.errors import ForbiddenError, UnavailableError
from windtunnel.kube.client import Client
from windtunnel.kube.extensions import EXTENSIONS, Extension
from windtunnel.kube.kinds import Kind
from windtunnel.kube.rights import Part, Right, part
from windtunnel.stack.clusterdoctor.looking import Cluster
from windtunnel.stack.finding import Finding

#: First version that works (the chart's ``kubeVersion``), newest that was tried.
OLDEST, TRIED = (1, 30), (1, 36)
#: Leases and the ends of windows are compared across machines; a ``Date`` header is whole seconds.
CLOCK_WARN_S, CLOCK_FAIL_S = 2.0, 5.0


def context(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """Credentials can be read, and the context is there."""
    access = cluster.access
    try:
        namespace = client.namespace
    except ForbiddenError as error:
        names = _contexts(cluster)
        there = f"; its contexts: {', '.join(names)}" if names else ""
        yield Finding("context", "fail", error.message + there, error.hint or "")
        return
    where = "the pod's service account" if access.in_pod else f"context {access.context or _current(cluster)}"
    yield Finding("context", "ok", f"{where}, namespace {namespace}")


def reached(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """The API answers, and its version is one that works."""
    try:
        answer = client.look("/version")
    except UnavailableError as error:
        yield Finding("api", "fail", error.message, error.hint or "")
        return
    told = answer.body if isinstance(answer.body, dict) else {}
    if not client.verified:
        mend = "name the cluster's authority in the kubeconfig (certificate-authority), not insecure-skip-tls-verify"
        yield Finding("api certificate", "warn", "nobody checks that this is the cluster it says it is", mend)
    yield judge_version(str(told.get("major", "")), str(told.get("minor", "")), str(told.get("gitVersion", "")))


def judge_version(major: str, minor: str, whole: str) -> Finding:
    """Whether Windtunnel works with that version of Kubernetes.

    Args:
        major, minor, whole: as ``/version`` says: ``1``, ``30+``, ``v1.30.2-eks``.
    """
    numbers = re.match(r"\d+", major), re.match(r"\d+", minor)
    if not numbers[0] or not numbers[1]:
        return Finding("api", "fail", f"/version says no version: {whole or 'nothing'!r}", "is this a Kubernetes API?")
    found = int(numbers[0][0]), int(numbers[1][0])
    text = f"Kubernetes {found[0]}.{found[1]}" + (f" ({whole})" if whole else "")
    if found < OLDEST:
        return Finding("api", "fail", f"{text} is too old", f"upgrade it to {_dotted(OLDEST)} or newer")
    if found > TRIED:
        return Finding(
            "api", "warn", f"{text} is newer than what was tried", f"tried up to {_dotted(TRIED)}; try a release first"
        )
    return Finding("api", "ok", text)


def clock(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """The API's clock and ours agree."""
    before, started = cluster.clock(), time.monotonic()
    date = client.look("/version").headers.get("date")
    took = time.monotonic() - started
    if not date:
        yield Finding("clock", "warn", "the API tells no time", "compare clocks by hand; leases depend on them")
        return
    # It was read somewhere between, and cut to the second.
    earliest, latest = before - 1.0, before + took
    told = parsedate_to_datetime(date).timestamp()
    skew = max(earliest - told, told - latest, 0.0)
    result = "fail" if skew > CLOCK_FAIL_S else "warn" if skew > CLOCK_WARN_S else "ok"
    ahead = "ahead" if told > before else "behind"
    text = "agrees with ours within a second" if skew < 0.05 else f"{skew:.0f} s {ahead} of ours"
    yield Finding("clock", result, text, "" if result == "ok" else "set the clocks of both by NTP: leases end by them")


def rights(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """A finding per part: what it may not and should."""
    for name in cluster.parts:
        of = part(name)
        lacking: list[tuple[Right, list[str]]] = []
        for right in of.rights:
            refused = [verb for verb in right.verbs if not _may(client, right, verb, cluster.user)]
            if refused:
                lacking.append((right, refused))
        yield judge_rights(of, lacking, client.namespace, cluster.user)


def judge_rights(
    of: Part, lacking: Sequence[tuple[Right, Sequence[str]]], namespace: str, user: str | None = None
) -> Finding:
    """One part's finding.

    Args:
        lacking: rights with the verbs that were refused.
    """
    name = f"rights of {of.name}"
    who = user or "these credentials"
    if not lacking:
        count = sum(len(right.verbs) for right in of.rights)
        return Finding(name, "ok", f"{who} may do all {count} things that {of.who} must")
    needed = [one for one in lacking if not one[0].optional]
    said = "; ".join(
        f"{', '.join(verbs)} {_resource(right)} ({right.purpose}{'; can be done without' if right.optional else ''})"
        for right, verbs in lacking
    )
    commands = " && ".join(_command(of, right, verbs, namespace, n) for n, (right, verbs) in enumerate(lacking, 1))
    bind = "and bind it; or let the chart do it: docs/reference/kubernetes-permissions.md"
    return Finding(name, "fail" if needed else "warn", f"{who} may not {said}", f"{commands}, {bind}")


def _resource(right: Right) -> str:
    return f"{right.resource}.{right.group}" if right.group else right.resource


def _command(of: Part, right: Right, verbs: Sequence[str], namespace: str, n: int) -> str:
    resource, _, sub = right.resource.partition("/")
    whole = f"{resource}.{right.group}" if right.group else resource
    kind = "clusterrole" if right.everywhere else f"role -n {namespace}"
    return f"kubectl create {kind} windtunnel-{of.name}-{n} --verb={','.join(verbs)} --resource={whole}" + (
        f"/{sub}" if sub else ""
    )


def _may(client: Client, right: Right, verb: str, user: str | None) -> bool:
    resource, _, sub = right.resource.partition("/")
    kind = Kind(right.group, "", resource, resource, namespaced=not right.everywhere)
    return client.may(verb, kind, sub, user=user)


def extensions(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """What is installed beside Kubernetes, by the API's own discovery, which everybody may read."""
    from windtunnel.stack.clusterdoctor import needs

    wanted = needs.extensions_of(cluster.models, cluster.parts, cluster.seldon)
    for one in EXTENSIONS:
        group = client.look(f"/apis/{one.group}")
        versions = _versions(group.body) if group.status == 200 else []
        usable = next((version for version in one.versions if version in versions), None)
        served: set[str] = set()
        if usable:
            answer = client.look(f"/apis/{one.group}/{usable}")
            if answer.status == 200 and isinstance(answer.body, dict):
                served = {str(kind.get("name")) for kind in answer.body.get("resources") or []}
        yield judge_extension(one, versions, usable, served, cluster.parts, wanted.get(one.name, ()))


def judge_extension(
    one: Extension,
    versions: Sequence[str],
    usable: str | None,
    served: set[str],
    parts: Sequence[str],
    models: Sequence[str] = (),
) -> Finding:
    """One extension's finding.

    Args:
        versions: of its group that the API serves; empty where it knows no such group.
        usable: which of them we use.
        served: kinds of that version, by plural.
        parts: that are looked at.
        models: that cannot do without, in words.
    """
    need = [*(name for name in one.parts if name in parts), *models]
    if not versions:
        text = f"not installed; for {one.purpose}" + (f"; needed by {', '.join(models)}" if models else "")
        return Finding(one.name, "fail" if need else "ok", text, one.install if need else "")
    worse = "fail" if need else "warn"
    if usable is None:
        text = f"{one.group} is served as {', '.join(versions)}, expected {' or '.join(one.versions)}"
        return Finding(one.name, worse, text, f"upgrade it; without it there are no {one.purpose}")
    missing = [plural for plural in one.plurals if plural not in served]
    if missing:
        text = f"{one.group}/{usable} has no {', '.join(missing)}"
        return Finding(one.name, worse, text, f"its CRDs are incomplete: {one.install}")
    return Finding(one.name, "ok", f"{one.group}/{usable}")


def _versions(body: Any) -> list[str]:
    return [str(one.get("version")) for one in body.get("versions") or []] if isinstance(body, dict) else []


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


def _listed(cluster: Cluster) -> tuple[list[str], str | None]:
    from kubernetes import config

    try:
        contexts, current = config.list_kube_config_contexts(cluster.access.path)
    except (config.ConfigException, OSError, ValueError, TypeError):
        return [], None
    return [str(one["name"]) for one in contexts], str(current["name"]) if current else None


def _contexts(cluster: Cluster) -> list[str]:
    return _listed(cluster)[0]


def _current(cluster: Cluster) -> str:
    return _listed(cluster)[1] or "none"
