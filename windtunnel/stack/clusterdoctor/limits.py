"""LimitRanges of the namespace: what they would refuse of our pods and claims, and what they would write into them.

Rules: Kubernetes' admission plug-in LimitRanger. A container's missing limits and requests become the range's defaults
(a request first its own limit), then every container is held against the items of type ``Container``, and the sum of
the containers, or the largest of those that run before them, against those of type ``Pod``. What a claim requests of
storage is held against those of type ``PersistentVolumeClaim``.

Claims are made for model servers on Seldon Core 2 alone, by Seldon's operator as the ServerConfig says, one for each
replica. Those that ``training.pod.volumes`` names are made by people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from windtunnel.errors import WindtunnelError
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import LIMIT_RANGE, Kind
from windtunnel.stack.clusterdoctor import needs
from windtunnel.stack.clusterdoctor.looking import Cluster
from windtunnel.stack.finding import Finding
from windtunnel.tracking.pods.capacity import quantity, words

Amounts = dict[str, float]
#: Which side of a container each bound holds for: requests may not be below ``min``, limits not above ``max``.
_SIDES = ("requests", "limits")
_SERVER_CONFIG = Kind("mlops.seldon.io", "v1alpha1", "serverconfigs", "ServerConfig")
_CLAIM = "PersistentVolumeClaim"


def limit_ranges(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """A finding per LimitRange."""
    items = client.list(LIMIT_RANGE).get("items") or []
    if not items:
        yield Finding("limits", "ok", "none")
        return
    made = needs.pods(cluster, client.namespace)
    bounded = any(one.get("type") == _CLAIM for item in items for one in (item.get("spec") or {}).get("limits") or [])
    claimed = _claims(cluster, client) if bounded else {}
    for item in items:
        yield judge_range(item, made, client.namespace, claimed)


def _claims(cluster: Cluster, client: Client) -> dict[str, Amounts]:
    """What servers on Core 2 claim, where the ServerConfig may be read; else nothing is known of claims."""
    if "releases-core2" not in cluster.parts or (
        cluster.models and not any(one.target == "kubernetes" for one in cluster.models)
    ):
        return {}
    name = getattr(cluster.seldon, "server_config", "mlserver")
    try:
        return claims_of(name, client.get(_SERVER_CONFIG, name))
    except WindtunnelError:
        return {}


def claims_of(name: str, config: Mapping[str, Any] | None) -> dict[str, Amounts]:
    """Who, in words -> what each claim of a server's replica requests.

    Args:
        config: a ServerConfig (``mlops.seldon.io/v1alpha1``), which has StatefulSets' ``volumeClaimTemplates``; None:
            there is none.
    """
    found = ((config or {}).get("spec") or {}).get("volumeClaimTemplates") or []
    out: dict[str, Amounts] = {}
    for at, one in enumerate(found):
        called = (one.get("metadata") or one).get("name") or at
        asked = ((one.get("spec") or {}).get("resources") or {}).get("requests") or {}
        out[f"claim {called} of a server (ServerConfig {name})"] = {k: quantity(v) for k, v in asked.items()}
    return out


def judge_range(
    item: Mapping[str, Any],
    made: Sequence[needs.Made],
    namespace: str = "default",
    claimed: Mapping[str, Amounts] | None = None,
) -> Finding:
    """What one LimitRange does to our pods and claims.

    Args:
        made: the pods.
        claimed: as ``claims_of``.
    """
    name = item["metadata"]["name"]
    refused: list[str] = []
    changed: list[str] = []
    for bounds in (item.get("spec") or {}).get("limits") or []:
        if bounds.get("type") == _CLAIM:
            both = {who: dict.fromkeys(_SIDES, amounts) for who, amounts in (claimed or {}).items()}
            refused += [f"{who}: {text}" for who, sides in both.items() for text in _outside(sides, bounds)]
        if bounds.get("type") not in ("Container", "Pod"):
            continue
        for one in made:
            containers = [Container(each) for each in one.spec.get("containers") or []]
            before = [Container(each) for each in one.spec.get("initContainers") or []]
            if bounds["type"] == "Pod":
                refused += [f"{one.who}: {text}" for text in _outside(whole(containers, before), bounds)]
                continue
            for each in (*containers, *before):
                changed += [f"{one.who}, container {each.name}: {text}" for text in each.fill(bounds)]
                refused += [f"{one.who}, container {each.name}: {text}" for text in _outside(each.sides, bounds)]
    edit = f"kubectl edit limitrange {name} -n {namespace}"
    found = f"limits {name}"
    if refused:
        return Finding(
            found,
            "fail",
            f"refuses {few(refused)}",
            f"{edit}, or ask for less: training.resources, serving.cpu, memory",
        )
    if changed:
        mend = f"{edit}: take that default out, unless it is meant for these pods"
        return Finding(found, "warn", f"writes into our pods what nobody asked for: {few(changed)}", mend)
    looked = f"{len(made)} kinds of pod" if len(made) != 1 else made[0].who
    return Finding(found, "ok", f"lets {looked} in as they are" if made else "nothing of ours is held against it")


class Container:
    """A container's amounts, as Kubernetes has them once it has read the pod."""

    def __init__(self, plain: Mapping[str, Any]) -> None:
        self.name = str(plain.get("name"))
        given = plain.get("resources") or {}
        self.sides: dict[str, Amounts] = {
            side: {what: quantity(amount) for what, amount in (given.get(side) or {}).items()} for side in _SIDES
        }
        for what, amount in self.sides["limits"].items():
            self.sides["requests"].setdefault(what, amount)

    def fill(self, bounds: Mapping[str, Any]) -> Iterator[str]:
        """Write defaults as the cluster would; what was written."""
        for side, key in (("limits", "default"), ("requests", "defaultRequest")):
            for what, amount in (bounds.get(key) or {}).items():
                if what not in self.sides[side]:
                    self.sides[side][what] = quantity(amount)
                    yield f"{what} {amount} in {side}"


def whole(containers: Sequence[Container], before: Sequence[Container]) -> dict[str, Amounts]:
    """A pod's own amounts: the sum of its containers, or the largest of those that run before them."""
    out: dict[str, Amounts] = {}
    for side in _SIDES:
        total: Amounts = {}
        for each in containers:
            for what, amount in each.sides[side].items():
                total[what] = total.get(what, 0.0) + amount
        for each in before:
            for what, amount in each.sides[side].items():
                total[what] = max(total.get(what, 0.0), amount)
        out[side] = total
    return out


def _outside(sides: Mapping[str, Amounts], bounds: Mapping[str, Any]) -> Iterator[str]:
    """Why the cluster would not take it."""
    requests, limits = sides["requests"], sides["limits"]
    for what, text in (bounds.get("min") or {}).items():
        least = quantity(text)
        if what not in requests:
            yield f"no request of {what}, at least {text}"
        elif requests[what] < least:
            yield f"asks for {words(what, requests[what])}, at least {text}"
    for what, text in (bounds.get("max") or {}).items():
        most = quantity(text)
        if what not in limits:
            yield f"no limit of {what}, at most {text}"
        elif limits[what] > most:
            yield f"may use {words(what, limits[what])}, at most {text}"
        elif requests.get(what, 0.0) > most:
            yield f"asks for {words(what, requests[what])}, at most {text}"
    for what, text in (bounds.get("maxLimitRequestRatio") or {}).items():
        if not requests.get(what) or not limits.get(what):
            yield f"no limit of {what}, at most {text} times the request"
        elif limits[what] / requests[what] > quantity(text):
            yield f"{what}: its limit is {limits[what] / requests[what]:g} times its request, at most {text}"


def few(texts: Sequence[str]) -> str:
    """The first of many sentences, each once."""
    told = list(dict.fromkeys(texts))
    return "; ".join(told[:4]) + (f"; and {len(told) - 4} more" if len(told) > 4 else "")
