"""A champion's rows of the prediction log, read for a rehearsal."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from windtunnel.errors import DataError
from windtunnel.home import Home

if TYPE_CHECKING:
    from windtunnel.rehearsal.recorded import Recording
    from windtunnel.rollout.plan import Plan


def recording_for(home: Home, model: str | None, plan: Plan) -> Recording | None:
    """The rows of ``--from-log MODEL``; None without it."""
    if model is None:
        return None
    losses = [gate.loss for gate in plan.gates if gate.metric == "quality"]
    return read_recording(home, model, losses[0] if losses else None)


def read_recording(home: Home, model: str, loss: str | None, versions: Iterable[str] | None = None) -> Recording:
    """The champion's rows of the prediction log: the version with most rows, without mirrored and candidate's ones.

    Requests are counted once, however many rows they had; losses and predictions are of rows.

    Args:
        loss: per-row loss of the plan's quality gate; None: labels are not read.

    Raises:
        DataError: there is no row.
    """
    import numpy as np

    from windtunnel.names import check_model_name
    from windtunnel.serving.labels import Labels, joined
    from windtunnel.serving.predictions import PredictionLog

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
    frame = joined(
        log, Labels(home.labels), check_model_name(model), 0.0, time.time(), columns=wanted, versions=versions
    ).frame
    frame = frame[~frame["shadow"].fillna(False).astype(bool) & (frame["arm"].fillna("champion") != "candidate")]
    if not len(frame):
        raise DataError(
            f"the prediction log of {model!r} in {home.predictions} has no rows of a champion",
            hint="serve some traffic first, or rehearse without --from-log",
        )
    champion = frame["version"].value_counts().index[0]
    frame = frame[frame["version"] == champion].sort_values("time")
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
    return _recording(once.sort_values("time"), predictions, _losses(answered, loss))


def _recording(frame: Any, predictions: Any, losses: Any) -> Recording:
    import numpy as np

    from windtunnel.rehearsal.recorded import Recording

    seconds = frame["time"].astype("int64").to_numpy() / _per_second(frame["time"])
    latency = frame["latency_ms"].to_numpy(dtype=np.float64)
    return Recording(seconds.astype(np.float64), frame["failed"].to_numpy(dtype=bool), latency, predictions, losses)


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
