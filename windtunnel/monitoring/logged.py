"""What a round reads of the prediction log and of labels, and from when on it needs them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from windtunnel.home import Home
from windtunnel.monitoring import performance
from windtunnel.spec import Model

if TYPE_CHECKING:
    from windtunnel.serving.predictions import PredictionLog

_PERFORMANCE_COLUMNS = ("prediction_id", "time", "version", "shadow", "prediction")
#: Where no window was closed yet, so much more than two of them is looked at for the first row (seconds).
_AT_FIRST_S = 3600.0


def first_time(log: PredictionLog, model: str, after: float | None) -> float | None:
    """Time of the first row at or after ``after`` (of the whole log when None), or None."""
    start = -math.inf if after is None else after
    for folder in sorted((log.root / model).glob("date=*/hour=*")):
        try:
            hour = datetime.strptime(
                folder.parent.name.removeprefix("date=") + folder.name.removeprefix("hour="), "%Y-%m-%d%H"
            ).replace(tzinfo=UTC)
        except ValueError:
            continue  # not a partition of ours
        end = (hour + timedelta(hours=1)).timestamp()
        if end <= start:
            continue
        times = log.read(model, max(start, hour.timestamp()), end, columns=["time"])["time"]
        if len(times):
            return float(times.min().timestamp())
    return None


def rows(home: Home, window: Mapping[str, Any]) -> Any:
    """The window's rows, a DataFrame."""
    from windtunnel.serving.predictions import PredictionLog

    return PredictionLog(home.predictions).read(window["model"], float(window["start"]), float(window["end"]))


def spans(home: Home, model: Model, window: Mapping[str, Any]) -> list[Any]:
    """Trailing frames of the champion's rows with their newest labels, the shortest first."""
    import pandas as pd

    from windtunnel.serving.predictions import PredictionLog
    from windtunnel.serving.predictions.labels import Labels, joined

    length = model.monitoring.window.total_seconds()
    end = _labelled_until(model, window)
    found = joined(
        PredictionLog(home.predictions),
        Labels(home.labels),
        model.name,
        end - max(performance.SPANS) * length,
        end,
        columns=_PERFORMANCE_COLUMNS,
        versions=[window["version"]],
    ).frame
    found = found[~found["shadow"].fillna(False).astype(bool)]
    since = [pd.Timestamp(end - count * length, unit="s", tz="UTC") for count in performance.SPANS]
    return [found[found["time"] >= moment] for moment in since]


def _labelled_until(model: Model, window: Mapping[str, Any]) -> float:
    return float(window["end"]) - model.monitoring.label_delay.total_seconds()


def needed_to_choose(model: Model, closed_end: float | None, now: float) -> float:
    """The log is needed from this moment on (seconds since the epoch) to say which window is next.

    Args:
        closed_end: end of the last window that was closed.
    """
    monitoring = model.monitoring
    recent = now - (2 * monitoring.window + monitoring.lateness).total_seconds() - _AT_FIRST_S
    return recent if closed_end is None else min(closed_end, recent)


def needed_to_judge(model: Model, window: Mapping[str, Any]) -> float:
    """And to judge ``window`` by all that the description asks for."""
    start = float(window["start"])
    if model.monitoring.performance is None:
        return start
    length = model.monitoring.window.total_seconds()
    return min(start, _labelled_until(model, window) - max(performance.SPANS) * length)
