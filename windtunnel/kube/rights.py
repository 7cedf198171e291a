"""Who needs which rights in a cluster: one table for the pages, the chart's roles and ``windtunnel doctor``.

Tests hold ``docs/reference/kubernetes-permissions.md``, ``docs/reference/seldon.md`` and the chart's rendered roles
against it, so a right that is added in one place only is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.errors import DescriptionError

_SELDON = "machinelearning.seldon.io"
_CORE2 = "mlops.seldon.io"


@dataclass(frozen=True, slots=True)
class Right:
    """Verbs on one resource.

    Attributes:
        group: API group; empty for the core group.
        resource: as a role names it, ``pods`` or ``pods/log``.
        verbs: in alphabetical order.
        purpose: what it is for, as the pages and the doctor say it.
        everywhere: asked for the whole cluster, not in a namespace.
        optional: everything works without it; something is told less well.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    purpose: str
    everywhere: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One part of Windtunnel that speaks to a cluster's API.

    Attributes:
        name: as the doctor's ``--part`` takes it.
        who: whose credentials it uses.
    """

    name: str
    who: str
    rights: tuple[Right, ...]


TRAINING = Part(
    "training",
    "Airflow's workers, scheduler and triggerer",
    (
        Right(
            "", "pods", ("create", "delete", "get", "list", "patch", "watch"),
            "start, find again, watch and remove training pods",
        ),
        Right("", "pods/log", ("get",), "the task's log"),
        Right("", "events", ("list", "watch"), "why a pod does not start"),
        Right(
            "jobset.x-k8s.io", "jobsets", ("create", "delete", "get", "list"), "training on several nodes",
            optional=True,
        ),
        Right(
            "trainer.kubeflow.org", "trainjobs", ("create", "delete", "get", "list"),
            "training on several nodes by Kubeflow Trainer", optional=True,
        ),
        Right("trainer.kubeflow.org", "trainingruntimes", ("get",), "look at the runtime of a TrainJob", optional=True),
        Right("kueue.x-k8s.io", "workloads", ("list",), "why a queue makes it wait", optional=True),
        Right(
            "", "nodes", ("list",), "what the nodes have, told of a training that none can take",
            everywhere=True, optional=True,
        ),
        Right(
            "trainer.kubeflow.org", "clustertrainingruntimes", ("get",), "look at the cluster's runtime of a TrainJob",
            everywhere=True, optional=True,
        ),
    ),
)  # fmt: skip
RELEASES = Part(
    "releases",
    "whoever releases on Seldon Core 1: Airflow's workers and triggerer",
    (
        Right(_SELDON, "seldondeployments", ("create", "get", "list", "patch", "watch"), "everything"),
        Right("", "pods", ("list",), "why a version is not ready"),
        Right("", "services/proxy", ("create", "get"), "a version's first answer, past the gateway"),
    ),
)
PAGE = Part(
    "page",
    "Airflow's API server, for the models page",
    (Right(_SELDON, "seldondeployments", ("list",), "show each release's last look"),),
)
GUARD = Part(
    "guard",
    "the guard",
    (
        Right(_SELDON, "seldondeployments", ("get", "list", "patch", "watch"), "see leases end, take candidates back"),
        Right("", "pods", ("list",), "why a version is not ready"),
        Right("", "services/proxy", ("create", "get"), "a version's answer, past the gateway"),
    ),
)

RELEASES_CORE2 = Part(
    "releases-core2",
    "whoever releases on Seldon Core 2: Airflow's workers and triggerer",
    (
        Right(_CORE2, "experiments", ("create", "get", "list", "patch", "watch"), "everything"),
        Right(_CORE2, "models", ("create", "delete", "get", "list", "patch", "watch"), "each version's"),
        Right(_CORE2, "servers", ("create", "delete", "get", "list", "patch", "watch"), "each version's"),
        Right("", "pods", ("list",), "why a version is not ready"),
        Right("", "services/proxy", ("create", "get"), "a version's first answer, under its own name"),
    ),
)
PAGE_CORE2 = Part(
    "page-core2",
    "Airflow's API server, for the models page, where Seldon Core 2 serves",
    (Right(_CORE2, "experiments", ("list",), "show each release's last look"),),
)
GUARD_CORE2 = Part(
    "guard-core2",
    "the guard of models on Seldon Core 2",
    (
        Right(_CORE2, "experiments", ("get", "list", "patch", "watch"), "see leases end, take candidates back"),
        Right(_CORE2, "models", ("delete", "list", "watch"), "remove what was taken back"),
        Right(_CORE2, "servers", ("delete", "list", "watch"), "remove what was taken back"),
        Right("", "pods", ("list",), "why a version is not ready"),
        Right("", "services/proxy", ("create", "get"), "a version's answer, under its own name"),
    ),
)

#: By name.
PARTS = {part.name: part for part in (TRAINING, RELEASES, PAGE, GUARD)}
#: By name, where Seldon Core 2 serves.
PARTS_CORE2 = {part.name: part for part in (TRAINING, RELEASES_CORE2, PAGE_CORE2, GUARD_CORE2)}


def part(name: str) -> Part:
    """The part of that name.

    Raises:
        DescriptionError: there is none.
    """
    known = PARTS | PARTS_CORE2
    if name not in known:
        raise DescriptionError(f"no part {name!r} speaks to a cluster", hint=f"expected one of {', '.join(known)}")
    return known[name]


def rules(of: Part) -> list[dict[str, list[str]]]:
    """Rules of a ``Role`` that gives what the part must have in its namespace, and no more."""
    return [
        {"apiGroups": [one.group], "resources": [one.resource], "verbs": list(one.verbs)}
        for one in of.rights
        if not one.everywhere
    ]
