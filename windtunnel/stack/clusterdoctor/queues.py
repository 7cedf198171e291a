"""Queues of Kueue that models name: there, open to this namespace, and such that their trainings can be admitted.

What is asked is what Kueue counts: the requests of a pod, of all nodes of a training together. It admits a training
only where the ClusterQueue covers every resource that is requested, and some flavor of each group has room for all of
it. Fields are those of ``kueue.x-k8s.io``, ``v1beta1`` and ``v1beta2`` (which differ in the name of the cohort).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from windtunnel.errors import ForbiddenError
from windtunnel.kube.client import Client
from windtunnel.kube.extensions import EXTENSIONS
from windtunnel.kube.kinds import NAMESPACE, Kind
from windtunnel.stack.clusterdoctor import needs
from windtunnel.stack.clusterdoctor.looking import Cluster
from windtunnel.stack.finding import Finding
from windtunnel.tracking.pods.capacity import quantity, words

_KUEUE = next(one for one in EXTENSIONS if one.name == "Kueue")
PAGE = "docs/how-to/train-in-a-pod.md"


@dataclass(frozen=True, slots=True)
class Asked:
    """What one training needs of its queue.

    Attributes:
        who: in words.
        amounts: by resource, of all its pods.
    """

    who: str
    amounts: Mapping[str, float]


def queues(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """A finding per queue that models name; none where they name none, or Kueue is not there (``api.extensions``)."""
    asked: dict[str, list[Asked]] = {}
    for one in needs.pods(cluster, client.namespace):
        if one.queue is not None:
            asked.setdefault(one.queue, []).append(Asked(one.who, _requests(one)))
    version = _version(client) if asked else None
    if version is None:
        return
    for name, trainings in asked.items():
        yield _look(client, name, trainings, version)


def _look(client: Client, name: str, trainings: Sequence[Asked], version: str) -> Finding:
    local = client.get(Kind(_KUEUE.group, version, "localqueues", "LocalQueue"), name)
    if (found := judge_local(name, local, client.namespace, trainings)) is not None:
        return found
    behind = str(((local or {}).get("spec") or {}).get("clusterQueue") or "")
    try:
        whole = client.get(Kind(_KUEUE.group, version, "clusterqueues", "ClusterQueue", namespaced=False), behind)
    except ForbiddenError as error:
        mend = "ask somebody who may get clusterqueues.kueue.x-k8s.io to run the doctor"
        return Finding(
            f"queue {name}", "warn", f"it is active; whether trainings fit cannot be seen: {error.message}", mend
        )
    return judge_cluster(name, behind, whole, _labels(client), client.namespace, trainings)


def judge_local(
    name: str, item: Mapping[str, Any] | None, namespace: str, trainings: Sequence[Asked]
) -> Finding | None:
    """What is wrong with a LocalQueue itself; None: nothing.

    Args:
        item: as the API has it; None: it has none.
        trainings: that name it.
    """
    found = f"queue {name}"
    if item is None:
        text = f"there is no LocalQueue {name} in namespace {namespace}; {trainings[0].who} names it"
        mend = f"kubectl get localqueues -n {namespace}; make it, or name another (training.pod.queue): {PAGE}"
        return Finding(found, "fail", text, mend)
    if (item.get("metadata") or {}).get("deletionTimestamp"):
        return Finding(found, "fail", f"LocalQueue {name} is being deleted", "wait until it is gone, and make it again")
    if (policy := (item.get("spec") or {}).get("stopPolicy") or "None") != "None":
        mend = f"kubectl edit localqueue {name} -n {namespace}: stopPolicy None"
        return Finding(found, "fail", f"LocalQueue {name} is stopped (stopPolicy {policy}): nothing is admitted", mend)
    state = _active(item)
    if state is None:
        mend = "kubectl get pods -n kueue-system: its controller has to run"
        return Finding(found, "warn", f"Kueue has not said yet whether LocalQueue {name} is active", mend)
    if state:
        behind = (item.get("spec") or {}).get("clusterQueue")
        text = f"LocalQueue {name} is not active: {state}"
        return Finding(found, "fail", text, f"kubectl describe clusterqueue {behind}")
    return None


def judge_cluster(
    name: str,
    behind: str,
    item: Mapping[str, Any] | None,
    labels: Mapping[str, str] | None,
    namespace: str,
    trainings: Sequence[Asked],
) -> Finding:
    """Whether the ClusterQueue behind a LocalQueue could ever admit these trainings.

    Args:
        name, behind: of the LocalQueue, of the ClusterQueue.
        item: the ClusterQueue as the API has it; None: it has none.
        labels: of the namespace; None: they cannot be seen.
    """
    found, edit = f"queue {name}", f"kubectl edit clusterqueue {behind}"
    if item is None:
        return Finding(found, "fail", f"its ClusterQueue {behind} is not there", "make it, or name another queue")
    if state := _active(item):
        return Finding(
            found,
            "fail",
            f"its ClusterQueue {behind} is not active: {state}",
            f"kubectl describe clusterqueue {behind}",
        )
    spec = item.get("spec") or {}
    if labels is not None and not selected(spec.get("namespaceSelector"), labels):
        text = f"its ClusterQueue {behind} takes nothing from namespace {namespace}"
        return Finding(found, "fail", text, f"{edit}: namespaceSelector (none at all selects no namespace)")
    refused = [f"{one.who}: {why}" for one in trainings for why in _unfit(spec, one.amounts)]
    if refused:
        more = f"; and {len(refused) - 4} more" if len(refused) > 4 else ""
        mend = f"{edit}: resourceGroups; or ask for less (training.resources), or name another queue"
        text = f"ClusterQueue {behind} would never admit {'; '.join(refused[:4])}{more}"
        return Finding(found, "fail", text, mend)
    count = f"{len(trainings)} trainings and steps fit" if len(trainings) != 1 else f"{trainings[0].who} fits"
    return Finding(found, "ok", f"ClusterQueue {behind}; {count} while it is empty")


def selected(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects what has these labels; none at all selects nothing."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_holds(one, labels) for one in selector.get("matchExpressions") or [])


def _holds(one: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = str(one.get("key")), one.get("values") or []
    by = {
        "In": labels.get(key) in values,
        "NotIn": labels.get(key) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }
    return by.get(str(one.get("operator")), True)


def _unfit(spec: Mapping[str, Any], asked: Mapping[str, float]) -> Iterator[str]:
    """Why a ClusterQueue with this spec never admits it, however empty it is."""
    groups = spec.get("resourceGroups") or []
    covered = {what for group in groups for what in group.get("coveredResources") or []}
    # Kueue counts pods only where the queue does.
    if uncovered := sorted(what for what, amount in asked.items() if amount and what not in covered | {"pods"}):
        yield f"{', '.join(uncovered)} is in none of its resourceGroups, and requested"
    lends = bool(spec.get("cohort") or spec.get("cohortName"))
    for group in groups:
        wanted = {what: asked[what] for what in group.get("coveredResources") or [] if asked.get(what)}
        flavors = [_most(one, lends) for one in group.get("flavors") or []]
        if not wanted or any(all(most.get(what, 0.0) >= n for what, n in wanted.items()) for most in flavors):
            continue
        short = [what for what, n in wanted.items() if all(most.get(what, 0.0) < n for most in flavors)]
        if short:
            best = {what: max((most.get(what, 0.0) for most in flavors), default=0.0) for what in short}
            yield " and ".join(
                f"asks for {words(what, wanted[what])}, no flavor has more than {words(what, best[what])}"
                for what in short
            )
        else:
            both = " and ".join(words(what, n) for what, n in wanted.items())
            yield f"no flavor has {both} together"


def _most(flavor: Mapping[str, Any], lends: bool) -> dict[str, float]:
    """The most that one flavor may have in use, by resource; without end where its cohort sets no bound."""
    found = {}
    for one in flavor.get("resources") or []:
        most, borrowed = quantity(one.get("nominalQuota") or 0), one.get("borrowingLimit")
        if lends:
            most = most + quantity(borrowed) if borrowed is not None else float("inf")
        found[str(one["name"])] = most
    return found


def _active(item: Mapping[str, Any]) -> str | None:
    """Why it is not active; empty where it is, None where nobody has said."""
    for one in (item.get("status") or {}).get("conditions") or []:
        if one.get("type") == "Active":
            return "" if one.get("status") == "True" else f"{one.get('reason')}: {one.get('message')}"
    return None


def _requests(made: needs.Made) -> dict[str, float]:
    """What Kueue counts of a training: its pods' requests, the larger of what runs together and of what runs before."""
    total: dict[str, float] = {}
    for one in made.spec.get("containers") or []:
        for what, amount in _of(one).items():
            total[what] = total.get(what, 0.0) + amount
    for one in made.spec.get("initContainers") or []:
        for what, amount in _of(one).items():
            total[what] = max(total.get(what, 0.0), amount)
    return {"pods": float(made.count), **{what: amount * made.count for what, amount in total.items()}}


def _of(container: Mapping[str, Any]) -> dict[str, float]:
    resources = container.get("resources") or {}
    both = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {what: quantity(amount) for what, amount in both.items()}


def _labels(client: Client) -> dict[str, str] | None:
    try:
        found = client.get(NAMESPACE, client.namespace)
    except ForbiddenError:
        return None
    return dict(((found or {}).get("metadata") or {}).get("labels") or {})


def _version(client: Client) -> str | None:
    """The version of Kueue's API that is served and that we know; None where it has none such."""
    answer = client.look(f"/apis/{_KUEUE.group}")
    if answer.status != 200 or not isinstance(answer.body, dict):
        return None
    served = {str(one.get("version")) for one in answer.body.get("versions") or []}
    return next((version for version in _KUEUE.versions if version in served), None)
