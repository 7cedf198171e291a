"""What a version must show before it is registered (EVL-1, EVL-2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from windtunnel.spec.base import Code, Part

#: Known metrics and whether lower is better.
KNOWN_METRICS: dict[str, Literal["lower", "higher"]] = {
    "rmse": "lower",
    "mae": "lower",
    "poisson_deviance": "lower",
    "log_loss": "lower",
    "brier": "lower",
    "r2": "higher",
    "accuracy": "higher",
    "f1": "higher",
    "roc_auc": "higher",
    "average_precision": "higher",
}


class Metric(Part):
    """One rule on one number.

    Attributes:
        name: a known metric, or ``package.module:function`` of ``(y_true, y_pred) -> float``.
        direction: whether lower or higher is better; needed only for a function of your own.
        minimum, maximum: absolute bounds.
        margin: how much worse than the champion it may be on the same rows, as a fraction of the champion's value.
    """

    name: str
    direction: Literal["lower", "higher"] | None = None
    minimum: float | None = None
    maximum: float | None = None
    margin: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _bounds(self) -> Metric:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} is above maximum {self.maximum:g}")
        return self

    @property
    def better(self) -> Literal["lower", "higher"]:
        if self.direction:
            return self.direction
        return KNOWN_METRICS[self.name]


class Slice(Part):
    """Groups of rows that must each be good enough by themselves: the values of a column.

    Attributes:
        by: the column.
        metric: one of ``evaluation.metrics``.
        minimum, maximum: bounds for each group.
        maximum_gap: largest difference of the metric between any two groups (fairness).
        min_rows: a smaller group is not judged.
    """

    by: str
    metric: str
    maximum: float | None = None
    minimum: float | None = None
    maximum_gap: float | None = Field(None, ge=0)
    min_rows: int = Field(50, gt=0)


class Benchmark(Part):
    """What the version must do in its own server before approval (EVL-2).

    Attributes:
        requests: how many are sent.
        rows_per_request: rows in each.
        p99_ms: slowest allowed 99th percentile of latency, milliseconds.
        memory_mb: most memory its server may hold, MiB.
        load_s: longest time from start to ready, seconds.
    """

    requests: int = Field(200, gt=0)
    rows_per_request: int = Field(1, gt=0)
    p99_ms: float | None = Field(None, gt=0)
    memory_mb: float | None = Field(None, gt=0)
    load_s: float | None = Field(None, gt=0)


class Evaluation(Part):
    """Rules; with none, a missing metric or too few rows the verdict is INCONCLUSIVE, which does not pass.

    Attributes:
        holdout: newest fraction of the rows, by time, kept from training.
        metrics: the rules.
        slices: the same for groups of rows.
        min_rows: a smaller holdout is INCONCLUSIVE.
        benchmark: limits in the version's own server; null for none.
        tests: ``package.module:function`` of ``(predict, frame)`` that raise or return False to fail.
        leakage: look for rows of the holdout in the training rows and for features that give the target away.
    """

    holdout: float = Field(0.2, gt=0, lt=1)
    metrics: list[Metric] = Field(default_factory=list)
    slices: list[Slice] = Field(default_factory=list)
    tests: list[Code] = Field(default_factory=list)
    min_rows: int = Field(100, gt=0)
    leakage: bool = True
    benchmark: Benchmark | None = Benchmark()
