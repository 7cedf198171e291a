"""Removing pods and sets of ours that nobody comes back for, in one namespace: those that ended long ago, and those
that wait for a node, or go on, while their task is over (``windtunnel.tracking.pods.orphans``).

Of what did not end it is written down why it goes, then it goes. What waits for a node stays when it has changed since
it was looked at; what has one is looked at again after a pause, for whoever ended its task may be removing it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from windtunnel.errors import AbsentError, ConflictError, ForbiddenError, WindtunnelError
from windtunnel.tracking.pods import gang, naming, orphans
from windtunnel.tracking.pods.ends import classify
from windtunnel_airflow.pods.gangflight import client_of

if TYPE_CHECKING:
    from windtunnel.kube.client import Client
    from windtunnel.kube.kinds import Kind
    from windtunnel_airflow.hook import WindtunnelHook

log = logging.getLogger(__name__)

#: Seconds between two looks at what has a node: a person's cancel takes up to 30.
PAUSE_S = 60.0

SELECTOR = ",".join(f"{key}={value}" for key, value in sorted(naming.COMMON.items()))


def installation(hook: WindtunnelHook) -> str:
    """A word for this Airflow, the same on each of its workers: another one's tasks are not looked for here."""
    from airflow.sdk.configuration import conf

    from windtunnel.kube.access import own_namespace

    urls = (conf.get("api", "base_url", fallback=""), conf.get("core", "execution_api_server_url", fallback=""))
    said = "\n".join([*(str(url) for url in urls), hook.url, str(own_namespace() or "")])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclass(slots=True)
class Swept:
    """What became of a namespace.

    Attributes:
        removed: names of what is gone.
        waiting: of what waits and was left, why, in words.
        left: how many pods and sets of ours are there.
    """

    removed: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    left: int = 0


def sweep(
    kubernetes_conn_id: str,
    namespace: str,
    older_than: float,
    word: Callable[[orphans.Task], orphans.Word],
    depart: Callable[[Mapping[str, Any], str, dict[str, Any]], bool],
) -> Swept:
    """Remove what nobody comes back for.

    Args:
        older_than: seconds since an end.
        word: what Airflow says of a task.
        depart: write down why something that waited goes; False: it could not be, so it stays for now.

    Raises:
        WindtunnelError: the namespace may not be listed, or the API does not answer.
    """
    from windtunnel.kube.kinds import JOB_SET, POD, TRAIN_JOB

    client, out = client_of(kubernetes_conn_id, namespace), Swept()
    found, said = client.listed(POD, labels=SELECTOR)
    now = time.time() if said is None else said
    pods = list(found.get("items") or [])
    left_alone: list[tuple[Kind, dict[str, Any]]] = []
    for pod in pods:
        ended = orphans.ended_at(pod)
        if ended is not None:
            old = now - ended >= older_than
            _delete(client, POD, pod, out) if old else _left(out)
        elif not _owned(pod):
            _orphan(client, POD, {**pod, "kind": "Pod"}, [], now, word, depart, out, left_alone)
        else:
            _left(out)
    for kind in (JOB_SET, TRAIN_JOB):
        for one in _sets(client, kind):
            ended = gang.ended_at(one)
            if ended is not None and kind is TRAIN_JOB and now - ended >= older_than:
                _delete(client, kind, one, out)  # a JobSet of ours removes itself
            else:
                mine = [pod for pod in pods if _same(pod, one)]
                _orphan(client, kind, {**one, "kind": kind.name}, mine, now, word, depart, out, left_alone)
    if left_alone:
        time.sleep(PAUSE_S)
    for kind, thing in left_alone:
        _again(client, kind, thing, word, depart, out)
    return out


def _orphan(
    client: Client,
    kind: Kind,
    thing: Mapping[str, Any],
    pods: list[dict[str, Any]],
    now: float,
    word: Callable[[orphans.Task], orphans.Word],
    depart: Callable[[Mapping[str, Any], str, dict[str, Any]], bool],
    out: Swept,
    left_alone: list[tuple[Kind, dict[str, Any]]],
) -> None:
    name = str(thing["metadata"]["name"])
    whose = orphans.task_of(thing)
    if orphans.runs(thing, pods):
        if whose is not None and word(whose) in ("over", "gone"):
            left_alone.append((kind, dict(thing)))
        return _left(out)
    if not orphans.waits(thing, pods):
        return _left(out)
    heard = word(whose) if whose is not None else None
    reason = orphans.why(thing, heard, now)
    if reason is None:
        if heard is None:
            unknown = "Airflow says nothing of its task" if whose is not None else "it does not say whose it is"
            out.waiting.append(f"{kind.name} {name}: {unknown}")
        return _left(out)
    events = _events(client, name)
    evidence: dict[str, Any] = {"pod": thing if kind.name == "Pod" else (pods[0] if pods else None), "events": events}
    if kind.name != "Pod":
        evidence |= {"gang": dict(thing), "pods": pods}
    if not depart(thing, f"{_end(kind, thing, events)}; {reason}", evidence):
        return _left(out)
    log.warning("%s %s/%s is removed: %s", kind.name, client.namespace, name, reason)
    return _delete(client, kind, thing, out, unless_changed=True)


def _again(
    client: Client,
    kind: Kind,
    before: Mapping[str, Any],
    word: Callable[[orphans.Task], orphans.Word],
    depart: Callable[[Mapping[str, Any], str, dict[str, Any]], bool],
    out: Swept,
) -> None:
    """The second look at what has a node while its task is over."""
    from windtunnel.kube.kinds import POD

    name, whose = str(before["metadata"]["name"]), orphans.task_of(before)
    found = client.get(kind, name)
    if found is None or whose is None or found["metadata"].get("uid") != before["metadata"].get("uid"):
        return
    thing = {**found, "kind": kind.name}
    pods = [] if kind is POD else [pod for pod in client.list(POD, labels=SELECTOR)["items"] if _same(pod, thing)]
    reason = orphans.why(thing, word(whose), 0.0)
    if reason is None or not orphans.runs(thing, pods):
        return
    evidence: dict[str, Any] = {"kind": "deleted", "pod": thing if kind is POD else (pods[0] if pods else None)}
    evidence["events"] = _events(client, name)
    if kind is not POD:
        evidence |= {"gang": thing, "pods": pods}
    if depart(thing, f"it was running, and {reason}", evidence):
        log.warning("%s %s/%s is removed while it runs: %s", kind.name, client.namespace, name, reason)
        out.left -= 1
        _delete(client, kind, thing, out)


def _end(kind: Kind, thing: Mapping[str, Any], events: list[dict[str, Any]]) -> str:
    """What it waited for, in words."""
    if kind.name == "Pod":
        return classify(thing, events, given_up=True).message
    return gang.judge(thing, [], {}, given_up=True).message


def _delete(client: Client, kind: Kind, thing: Mapping[str, Any], out: Swept, *, unless_changed: bool = False) -> None:
    meta = thing["metadata"]
    version = str(meta["resourceVersion"]) if unless_changed and meta.get("resourceVersion") else None
    try:
        client.delete(kind, str(meta["name"]), resource_version=version)
    except ConflictError:  # it may have found its node: the next round looks again
        return _left(out)
    out.removed.append(str(meta["name"]))
    return None


def _left(out: Swept) -> None:
    out.left += 1


def _sets(client: Client, kind: Kind) -> list[dict[str, Any]]:
    try:
        return list(client.list(kind, labels=SELECTOR).get("items") or [])
    except AbsentError:
        return []  # nobody can have made one
    except ForbiddenError as error:
        log.info("%ss that nobody came back for are not looked for: %s", kind.name, error.message)
        return []


def _events(client: Client, name: str) -> list[dict[str, Any]]:
    from windtunnel.kube.kinds import EVENT

    try:
        return list(client.list(EVENT, fields=f"involvedObject.name={name}").get("items") or [])
    except WindtunnelError as error:
        log.info("Events of %s cannot be read: %s", name, error.message)
        return []


def _owned(pod: Mapping[str, Any]) -> bool:
    """Whether a set has made it: then that is what is looked at."""
    return bool(pod["metadata"].get("ownerReferences"))


def _same(pod: Mapping[str, Any], one: Mapping[str, Any]) -> bool:
    labels, wanted = pod["metadata"].get("labels") or {}, one["metadata"].get("labels") or {}
    return all(labels.get(key) == wanted.get(key) for key in (naming.RUN, naming.ATTEMPT))
