"""How a model in production is watched, and what happens then."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from windtunnel.spec.base import Duration, Part


class Drift(Part):
    """Drift of features and predictions against the reference (the champion's training rows).

    Attributes:
        false_alarms: expected false alarms per feature and month, over all windows.
        min_effect: smallest Kolmogorov (numeric) or total-variation (categorical) distance worth a verdict.
        features: only these; null for all.
        predictions: judge the predictions as well.
    """

    false_alarms: float = Field(0.05, gt=0)
    min_effect: float = Field(0.1, ge=0, le=1)
    features: list[str] | None = None
    predictions: bool = True


class Performance(Part):
    """Loss on labelled rows against the loss at evaluation.

    Attributes:
        metric: a known metric (see ``windtunnel.spec.evaluation.KNOWN_METRICS``).
        tolerance: how much worse than at evaluation is still fine, as a fraction.
        min_coverage: share of a window's rows that must have labels before it is judged.
        confidence: how sure a loss must be before it is FAIL, in each window.
    """

    metric: str
    tolerance: float = Field(0.2, ge=0)
    min_coverage: float = Field(0.2, ge=0, le=1)
    confidence: float = Field(0.95, gt=0.5, lt=1)


class Retrain(Part):
    """When a finding starts ``MODEL.train``.

    Attributes:
        on: which findings do.
        cooldown: no second retraining within this time, so that drift does not retrain in a loop.
    """

    on: list[Literal["drift", "performance"]] = Field(["drift", "performance"])
    cooldown: Duration = timedelta(hours=24)


class Monitoring(Part):
    """Windows, what is judged in each, and the reaction.

    Attributes:
        window: length of a window.
        every: how often ``MODEL.watch`` runs, the window's length unless told; where more than one window waits it runs
            again at once.
        lateness: how long to wait for stragglers after a window's end.
        min_rows: fewer rows than this is INCONCLUSIVE.
        label_delay: how late labels usually are.
        drift: how drift is judged; null for not at all.
        performance: how labelled rows are judged; null for not at all.
        retrain: when a finding starts training; null for never.
        report: write the Evidently report of each window.
    """

    window: Duration = timedelta(minutes=15)
    every: Duration | None = None
    lateness: Duration = timedelta(seconds=60)
    min_rows: int = Field(200, gt=0)
    label_delay: Duration = timedelta(0)
    drift: Drift | None = Drift()
    performance: Performance | None = None
    retrain: Retrain | None = Retrain()
    report: bool = True
