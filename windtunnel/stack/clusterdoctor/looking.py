"""What is looked at, in which order."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from windtunnel.errors import ForbiddenError, WindtunnelError
from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.kube.rights import PARTS
from windtunnel.stack.finding import Finding

if TYPE_CHECKING:
    from windtunnel.serving.seldon import Seldon
    from windtunnel.spec import Model


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which cluster, as whom, for what.

    Attributes:
        parts: names of parts (``windtunnel.kube.rights``) whose rights and extensions are looked at.
        user: whose rights, where not those of the credentials: ``system:serviceaccount:NAMESPACE:NAME``.
        store: URL of the object store of trainings; None: not looked at.
        prometheus: URL of the Prometheus that scrapes Seldon's executors; None: not looked at.
        gateway: as ``Seldon.gateway``; None: not looked at.
        seldon: the settings of Seldon, for what they name and what they cannot do; None: not looked at.
        models: whose needs are looked for; none: what nobody is known to need is told and not asked for.
        clock: ours, seconds since the epoch.
    """

    access: Access = field(default_factory=Access)
    parts: tuple[str, ...] = tuple(PARTS)
    user: str | None = None
    store: str | None = None
    prometheus: str | None = None
    gateway: str | None = None
    seldon: Seldon | None = None
    models: tuple[Model, ...] = ()
    clock: Callable[[], float] = time.time


Check = Callable[[Cluster, Client], Iterator[Finding]]


def examine(cluster: Cluster, client: Client | None = None) -> list[Finding]:
    """Look at everything. Where the API cannot be reached, what needs it is not looked at.

    Args:
        client: another one than that of ``cluster.access``.

    Raises:
        DescriptionError: there is no such part.
    """
    from windtunnel.kube.rights import part

    for name in cluster.parts:
        part(name)
    with warnings.catch_warnings():
        # Said once, as a finding, not with every request.
        warnings.filterwarnings("ignore", message="Unverified HTTPS request")
        return _examine(cluster, client or Client(cluster.access, patience_s=5.0))


def _examine(cluster: Cluster, client: Client) -> list[Finding]:
    from windtunnel.stack.clusterdoctor import (
        api,
        around,
        collecting,
        limits,
        machines,
        namespace,
        needs,
        placing,
        queues,
        quotas,
        secrets,
    )  # fmt: skip

    findings = _run(api.context, cluster, client)
    if not _failed(findings):
        findings += _run(api.reached, cluster, client)
    if not _failed(findings):
        checks: tuple[Check, ...] = (
            api.clock, api.rights, api.extensions, needs.runtimes, queues.queues, namespace.exists, quotas.quotas,
            limits.limit_ranges, machines.gpus, placing.nodes_for_pods, machines.storage_classes,
            secrets.given_to_servers, secrets.given_to_trainings, collecting.collector,
        )  # fmt: skip
        for check in checks:
            findings += _run(check, cluster, client)
    for check in (needs.releases, around.object_store, around.prometheus, around.gateway):
        findings += _run(check, cluster, client)
    return findings


def _failed(findings: list[Finding]) -> bool:
    return any(one.result == "fail" for one in findings)


def _run(check: Check, cluster: Cluster, client: Client) -> list[Finding]:
    name = check.__name__.replace("_", " ")
    found: list[Finding] = []
    try:
        for one in check(cluster, client):
            found.append(one)
    except ForbiddenError as error:
        mend = error.hint or ""
        if " list " in error.message or " read " in error.message:
            mend = "without that right this is not looked at; ask somebody who has it to run the doctor"
        # Not to be allowed to look is no fault of what is looked at; not to be known at all is.
        unknown = check.__name__ in ("context", "reached") or "does not know these credentials" in error.message
        found.append(Finding(name, "fail" if unknown else "warn", error.message, error.hint or "" if unknown else mend))
    except WindtunnelError as error:
        found.append(Finding(name, "fail", error.message, error.hint or ""))
    except Exception as error:
        found.append(Finding(name, "fail", f"could not be checked: {error!r}", "report this"))
    return found
