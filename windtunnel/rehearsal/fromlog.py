"""A champion's rows of the prediction log, read for a rehearsal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from windtunnel.errors import DataError, WindtunnelError
from windtunnel.home import Home

if TYPE_CHECKING:
    from windtunnel.rehearsal.recorded import Recording
    from windtunnel.rollout.plan import Plan
    from windtunnel.stats.betting import FloatArray


def recording_for(home: Home, model: str | None, plan: Plan) -> Recording | None:
    """The rows of ``--from-log MODEL``; None without it."""
    if model is None:
        return None
    losses = [gate.loss for gate in plan.gates if gate.metric == "quality"]
    return read_recording(home, model, losses[0] if losses else None, _champion(home, model))


def _champion(home: Home, model: str) -> str | None:
    """As the registry has it; None where it cannot be asked, or has none."""
    from windtunnel.registry.connect import from_home

    try:
        with from_home(home) as registry:
            found = registry.champion(model)
    except WindtunnelError:
        return None
    return None if found is None else str(found.version)


def read_recording(home: Home, model: str, loss: str | None, champion: str | None = None) -> Recording:
    """One version's rows of the prediction log, and when requests came for any; without mirrored ones.

    Requests are counted once, however many rows they had; losses and predictions are of rows. While a candidate is
    on its way the champion answers only a part of the requests, so how many come is told by all versions together.

    Args:
        loss: per-row loss of the plan's quality gate; None: labels are not read.
        champion: the version whose rows are taken; with too few of its own, or None: the version with most rows.

    Raises:
        DataError: there is no row.
    """
    import numpy as np

    from windtunnel.names import check_model_name
    from windtunnel.rehearsal.recorded import ENOUGH_ROWS, Recording
    from windtunnel.serving.predictions import PredictionLog
    from windtunnel.serving.predictions.labels import Labels, joined

    log = PredictionLog(home.predictions)
    wanted = [
        "prediction_id",
        "request_id",
        "time",
        "version",
        "arm",
        "latency_ms",
        "error",
        "status",
        "shadow",
        "prediction",
    ]
    frame = joined(log, Labels(home.labels), check_model_name(model), 0.0, time.time(), columns=wanted).frame
    frame = frame[~frame["shadow"].fillna(False).astype(bool)]
    rows = frame.loc[frame["arm"].fillna("champion") != "candidate", "version"].value_counts()
    if not len(rows):
        raise DataError(
            f"the prediction log of {model!r} in {home.predictions} has no rows of a champion",
            hint="serve some traffic first, or rehearse without --from-log",
        )
    version = str(champion if champion is not None and rows.get(champion, 0) >= ENOUGH_ROWS else rows.index[0])
    came = frame.groupby(frame["request_id"].fillna(frame["prediction_id"]), sort=False)["time"].min().sort_values()
    frame = frame[(frame["version"] == version) & (frame["arm"].fillna("champion") != "candidate")].sort_values("time")
    status = frame["status"].fillna(0)
    failed = (status >= 500) | (frame["error"].notna() & ~status.between(400, 499))  # 4xx are the client's
    answered = frame[~failed & frame["prediction"].notna()]
    kind = answered["prediction"].dtype
    predictions = (
        answered["prediction"].to_numpy(dtype=np.float64)
        if kind.kind in "fiub"
        else answered["prediction"].astype(str).to_numpy(dtype=np.str_)
    )
    requests = frame.assign(failed=failed).groupby(frame["request_id"].fillna(frame["prediction_id"]), sort=False)
    once = requests.agg(time=("time", "first"), failed=("failed", "any"), latency_ms=("latency_ms", "max"))
    once = once.sort_values("time")
    return Recording(
        time=_seconds(once["time"]),
        failed=once["failed"].to_numpy(dtype=bool),
        latency_ms=once["latency_ms"].to_numpy(dtype=np.float64),
        predictions=predictions,
        losses=_losses(answered, loss),
        arrivals=_seconds(came),
        version=version,
    )


def _seconds(column: Any) -> FloatArray:
    import numpy as np

    found: FloatArray = (column.astype("int64").to_numpy() / _per_second(column)).astype(np.float64)
    return found


def _per_second(column: Any) -> float:
    return {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[str(getattr(column.dt, "unit", "ns"))]


def _losses(answered: Any, loss: str | None) -> Any:
    import numpy as np

    from windtunnel.evaluation.metrics import row_loss

    labelled = answered[answered["label"].notna()] if loss is not None and "label" in answered else answered[:0]
    if not len(labelled) or loss is None:
        return np.zeros(0)
    found = row_loss(loss, labelled["label"].to_numpy(), labelled["prediction"].to_numpy())
    return found[np.isfinite(found)]
