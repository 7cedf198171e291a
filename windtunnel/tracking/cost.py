"""What a run cost: the hours of each attempt at what it was given, by a price table. Pure.

    cost = sum over attempts of hours * nodes * (cpu * P_cpu + GiB * P_memory + gpus * P_gpu) * (1 - spot, where it was)

Given is what was asked for: a pod has its CPU, memory and GPUs for itself, used or not. Hours are from when a pod was
bound to its node, images and inputs included, to when its container ended; on a machine, from start to end of the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windtunnel.spec.prices import Prices

METRIC = "windtunnel.cost"


@dataclass(frozen=True, slots=True)
class Spell:
    """One attempt, as far as it is known.

    Attributes:
        attempt: from 1.
        seconds: of all its nodes together; None: nobody knows.
        spot: on nodes that may be taken away.
    """

    attempt: int
    seconds: float | None
    spot: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run cost so far.

    Attributes:
        amount: of ``currency``; None where it cannot be told.
        attempts: amount of each attempt that was counted.
        unknown: attempts of which nobody knows how long they ran.
        missing: why there is no amount.
    """

    amount: float | None
    currency: str
    attempts: Mapping[int, float]
    unknown: Sequence[int] = ()
    missing: str = ""

    def tags(self) -> dict[str, str]:
        """For the MLflow run; the amount itself is the metric."""
        out = {"wt.cost.currency": self.currency}
        if self.amount is None:
            return {**out, "wt.cost": f"unknown: {self.missing}"}
        said = f"{self.amount:.4f} {self.currency} for {len(self.attempts)} attempt{'s' * (len(self.attempts) != 1)}"
        if self.unknown:
            said += f"; not counted, for nobody knows how long they ran: {', '.join(map(str, self.unknown))}"
        rounded = {str(attempt): round(amount, 6) for attempt, amount in self.attempts.items()}
        return {**out, "wt.cost": said, "wt.cost.attempts": json.dumps(rounded)}


def hourly(prices: Prices, resources: Mapping[str, Any]) -> float | str:
    """One hour of one node of a run; or, as text, the price that is missing.

    Args:
        resources: ``RunSpec.resources``: cores, bytes, GPUs.
    """
    gpus = int(resources.get("gpu") or 0)
    price = prices.of_gpu(resources.get("gpu_type"), resources.get("mig")) if gpus else 0.0
    if price is None:
        what = "/".join(str(part) for part in (resources.get("gpu_type"), resources.get("mig")) if part)
        return f"no price for GPU {what or 'of any type'}; there is one for {', '.join(sorted(prices.gpu)) or 'none'}"
    memory = (int(resources.get("memory") or 0) + int(resources.get("shared_memory") or 0)) / 2**30
    return float(resources.get("cpu") or 0) * prices.cpu + memory * prices.memory + gpus * price


def cost(prices: Prices, resources: Mapping[str, Any], spells: Sequence[Spell]) -> Cost:
    """What the attempts cost together."""
    rate = hourly(prices, resources)
    if isinstance(rate, str):
        return Cost(None, prices.currency, {}, missing=rate)
    counted = {
        one.attempt: one.seconds / 3600 * rate * (1 - prices.spot if one.spot else 1)
        for one in spells
        if one.seconds is not None
    }
    unknown = [one.attempt for one in spells if one.seconds is None]
    return Cost(sum(counted.values()), prices.currency, counted, unknown)


def pod_seconds(pod: Mapping[str, Any], now: float) -> float:
    """For how long a pod had its node.

    Args:
        pod: as the Kubernetes API has it.
        now: seconds since the epoch, for one that goes on.
    """
    status: Mapping[str, Any] = pod.get("status") or {}
    bound = next(
        (
            one.get("lastTransitionTime")
            for one in status.get("conditions") or []
            if one.get("type") == "PodScheduled" and one.get("status") == "True"
        ),
        None,
    )
    began = _time(bound) or _time(status.get("startTime"))
    if began is None:
        return 0.0
    ends = [
        _time(((one.get("state") or {}).get("terminated") or {}).get("finishedAt"))
        for one in status.get("containerStatuses") or []
    ]
    # One that was told to go has its node until then at most, by the clock that said when it was bound, whenever it is
    # counted.
    told = _time((pod.get("metadata") or {}).get("deletionTimestamp"))
    over = max((end for end in ends if end is not None), default=told)
    return max(0.0, (now if over is None else over) - began)


def _time(text: Any) -> float | None:
    return datetime.fromisoformat(str(text)).timestamp() if text else None
