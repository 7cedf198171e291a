"""What a training in pods cost, on its MLflow run (TRN-6): from the evidence that each attempt left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from windtunnel.errors import DescriptionError

if TYPE_CHECKING:
    from windtunnel.spec import Model, Prices
    from windtunnel.tracking.cost import Cost, Spell
    from windtunnel.tracking.pods.depot import Depot
    from windtunnel.tracking.server import Tracking


def prices_of(hook: Any, model: Model) -> Prices | None:
    """The description's table, else the installation's (extra ``prices`` of the connection); None where there is none.

    Raises:
        DescriptionError: the connection's is no table of prices.
    """
    from pydantic import ValidationError

    from windtunnel.spec import Prices

    if model.training.prices is not None:
        return model.training.prices
    found = hook.connection.extra_dejson.get("prices")
    if not found:
        return None
    try:
        return Prices.model_validate(found)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'prices'}: {one['msg']}" for one in error.errors())
        raise DescriptionError(
            f"extra 'prices' of connection {hook.windtunnel_conn_id!r} is no table of prices: {said}",
            hint='write one such as {"currency": "EUR", "cpu": 0.04, "memory": 0.005, "gpu": {"NVIDIA-H200": 4.1}}',
        ) from None


def spells(depot: Depot, attempts: int, nodes: int, *, spot: bool, now: float | None = None) -> list[Spell]:
    """How long each attempt had its nodes: by its pods, else by its own word."""
    from windtunnel import canonical
    from windtunnel.tracking.cost import Spell, pod_seconds

    moment, out = time.time() if now is None else now, []
    for attempt in range(1, attempts + 1):
        raw = depot.objects.get_bytes(f"{depot.key}/attempts/{attempt}/evidence.json")
        evidence: Mapping[str, Any] = canonical.loads(raw) if raw is not None else {}
        pods = [pod for pod in evidence.get("pods") or [evidence.get("pod")] if pod]
        said = depot.outcome(attempt)
        seconds: float | None = None
        if pods:
            seconds = sum(pod_seconds(pod, moment) for pod in pods)
            # Pods that were gone when somebody looked had their nodes as long as those that were not.
            seconds *= max(1.0, nodes / len(pods))
        elif said is not None and said.started_at and said.ended_at:
            seconds = nodes * (said.ended_at - said.started_at)
        out.append(Spell(attempt, seconds, spot))
    return out


def bill_of(hook: Any, model: Model) -> dict[str, Any] | None:
    """By what a run of this model in pods is charged, as plain values: for whoever has no description; None: no prices.

    Raises:
        DescriptionError: the connection's is no table of prices.
    """
    prices = prices_of(hook, model)
    if prices is None:
        return None
    training = model.training
    return {
        "prices": prices.model_dump(mode="json"),
        "resources": training.resources.model_dump(mode="json"),
        "nodes": training.nodes,
        "spot": training.pod is not None and training.pod.spot is not None,
    }


def charge(tracking: Tracking, bill: Mapping[str, Any], depot: Depot, attempts: int) -> Cost:
    """Put what a run has cost so far on its MLflow run.

    Args:
        bill: as ``bill_of`` says.

    Raises:
        WindtunnelError: the store or the server does not answer.
    """
    from windtunnel.spec import Prices
    from windtunnel.tracking.cost import METRIC, cost
    from windtunnel.tracking.server import MetricPoint

    counted = spells(depot, attempts, int(bill["nodes"]), spot=bool(bill["spot"]))
    found = cost(Prices.model_validate(bill["prices"]), bill["resources"], counted)
    points = [] if found.amount is None else [MetricPoint(METRIC, found.amount, int(time.time() * 1000), attempts)]
    tracking.log_batch(depot.run_id, points, {}, found.tags())
    return found
