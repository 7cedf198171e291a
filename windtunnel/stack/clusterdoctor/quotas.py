"""ResourceQuotas of the namespace: what is left of them, and whether the pods that we would make could be in it.

Rules: Kubernetes' quota of pods. ``cpu``, ``memory`` and ``ephemeral-storage`` are sums of requests, as
``requests.NAME``; ``limits.NAME`` are sums of limits. A quota on CPU or memory refuses every pod with a container that
says nothing of it. LimitRanges have written their defaults by then. Seldon adds a container of its own to servers,
which is not counted here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from windtunnel.errors import ForbiddenError
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import LIMIT_RANGE, QUOTA
from windtunnel.stack.clusterdoctor import needs
from windtunnel.stack.clusterdoctor.limits import Container, few, whole
from windtunnel.stack.clusterdoctor.looking import Cluster
from windtunnel.stack.finding import Finding
from windtunnel.tracking.pods.capacity import quantity, words

#: From this share on a quota is told.
NEARLY = 0.9
#: What a quota on it demands of every container.
_DEMANDED = ("cpu", "memory")
_PODS = ("pods", "count/pods")


def quotas(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """A finding per ResourceQuota."""
    items = client.list(QUOTA).get("items") or []
    if not items:
        yield Finding("quotas", "ok", "none")
        return
    ranges: list[Mapping[str, Any]] = []
    with contextlib.suppress(ForbiddenError):  # told by ``limits``
        ranges = client.list(LIMIT_RANGE).get("items") or []
    made = needs.pods(cluster, client.namespace)
    for item in items:
        yield judge_quota(item, made, ranges)


def judge_quota(
    item: Mapping[str, Any], made: Sequence[needs.Made] = (), ranges: Sequence[Mapping[str, Any]] = ()
) -> Finding:
    """One ResourceQuota, by its status: what the cluster's own count says is used.

    Args:
        made: our pods; of a quota that is for some pods only (scopes) nothing is said about them.
        ranges: LimitRanges, whose defaults the pods get before they are counted.
    """
    name, spec, status = f"quota {item['metadata']['name']}", item.get("spec") or {}, item.get("status") or {}
    hard, used = status.get("hard") or spec.get("hard") or {}, status.get("used") or {}
    shares = {what: _share(used.get(what, "0"), limit) for what, limit in hard.items()}
    told = {what: f"{what} {used.get(what, '0')} of {hard[what]}" for what in sorted(shares)}
    full = [told[what] for what in told if shares[what] >= 1]
    tight = [told[what] for what in told if NEARLY <= shares[what] < 1]
    refused: list[str] = []
    waiting: list[str] = []
    if not spec.get("scopes") and not spec.get("scopeSelector"):
        for one in made:
            for never, text in _held(one, hard, used, ranges):
                (refused if never else waiting).append(f"{one.who}{text}")
    mend = "raise it, or remove what is no longer needed"
    if refused:
        ask = "or ask for less (training.resources, serving), or let a LimitRange write the limits that it demands"
        return Finding(name, "fail", f"would never let in {few(refused)}", f"raise it, {ask}")
    if full:
        return Finding(name, "fail", f"used up: {', '.join(full)}", mend)
    if tight or waiting:
        said = [f"nearly used up: {', '.join(tight)}"] if tight else []
        said += [f"no room now for {few(waiting)}"] if waiting else []
        return Finding(name, "warn", "; ".join(said), mend)
    return Finding(name, "ok", ", ".join(told.values()) or "limits nothing")


def _held(
    one: needs.Made, hard: Mapping[str, Any], used: Mapping[str, Any], ranges: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[bool, str]]:
    """Whether it could never be, and why the quota would not take these pods."""
    containers = [Container(each) for each in one.spec.get("containers") or []]
    before = [Container(each) for each in one.spec.get("initContainers") or []]
    for each in (*containers, *before):
        for bounds in (each for item in ranges for each in (item.get("spec") or {}).get("limits") or []):
            if bounds.get("type") == "Container":
                list(each.fill(bounds))
    sums = whole(containers, before)
    for key, limit in hard.items():
        side, what = _of(key)
        if what in _DEMANDED and (lacking := [c.name for c in (*containers, *before) if what not in c.sides[side]]):
            yield True, f", container {', '.join(lacking)}: no {side[:-1]} of {what}, which a quota on {key} demands"
            continue
        each_pod = 1.0 if key in _PODS else sums[side].get(what, 0.0)
        asked, most = each_pod * one.count, quantity(limit)
        if not asked:
            continue
        text = f": {one.count} pods with " if one.count > 1 and key not in _PODS else ": "
        text += f"{asked:g} pods" if key in _PODS else f"{words(what, each_pod)} ({side})"
        if asked > most:
            yield True, f"{text}, of {limit}"
        elif asked > most - quantity(used.get(key, "0")):
            yield False, f"{text}, {used.get(key)} of {limit} are used"


def _of(key: str) -> tuple[str, str]:
    """Side and resource that a quota's key is about."""
    for side in ("limits", "requests"):
        if key.startswith(f"{side}."):
            return side, key.removeprefix(f"{side}.")
    return "requests", key


def _share(used: str, hard: str) -> float:
    limit = quantity(hard)
    if limit == 0:  # forbids something, perhaps for ever: told when it is used
        return 0.0 if quantity(used) == 0 else 1.0
    return quantity(used) / limit
