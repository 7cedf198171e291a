"""The run, as the user's code sees it."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from windtunnel.errors import UnavailableError
from windtunnel.tracking import nodes
from windtunnel.tracking.contract import RunSpec
from windtunnel.tracking.server import MetricPoint, Tracking
from windtunnel.tracking.spool import Spool

if TYPE_CHECKING:
    import pandas as pd

_METRIC = re.compile(r"[A-Za-z0-9_\-. /]{1,250}")

#: What a machine measures (MLflow's prefix) and what a run cost; the training's own metrics have other names.
NOT_ITS_OWN = ("system/", "windtunnel.")


def own_metrics(spool: Spool) -> dict[str, float]:
    """The newest value of each metric that the training logged itself."""
    return {key: point.value for key, point in spool.last().items() if not key.startswith(NOT_ITS_OWN)}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Run:
    """What a training function gets: ``def train(run: windtunnel.Run) -> model``.

    Attributes:
        model: the model's name.
        params: the description's parameters.
        seed: for every random generator.
        inputs: name -> path; ``inputs["rows"]`` is the Parquet file of the training rows, sorted by time.
        outputs: name -> path to write, for a step of the team's own.
        features, target, time: column names, as described.
        checkpoint: folder that survives a restart of this run; write into it with atomic renames.
        folder: scratch folder of this run, gone with the run's retention.
        item: the item of a fan-out.
        correlation_id, cause: the story this run belongs to and why it was started.
        attempt: 1 the first time, one more after each restart.
        rank, nodes: which of the training's nodes this is, from 0, and how many there are. What node 0 returns is the
            model, what it logs are the metrics, what it keeps in ``checkpoint`` comes back to all.
    """

    def __init__(self, spec: RunSpec, folder: Path, *, attempt: int = 1, tracking: Tracking | None = None) -> None:
        self.run_id = spec.run_id
        self.model = spec.model
        self.params: Mapping[str, Any] = MappingProxyType(dict(spec.params))
        self.seed = spec.seed
        self.inputs: Mapping[str, Path] = MappingProxyType({name: given.path for name, given in spec.inputs.items()})
        self.features: list[str] = [str(feature["name"]) for feature in spec.features]
        self.target = spec.target
        self.time = spec.time
        self.item = spec.item
        self.correlation_id = spec.correlation_id
        self.cause = spec.cause
        self.attempt = attempt
        self.rank, self.nodes = nodes.rank(), nodes.count()
        self.checkpoint = folder / "checkpoint"
        self.folder = folder / "work"
        results = folder / "outputs"
        for part in (self.checkpoint, self.folder, results):
            part.mkdir(parents=True, exist_ok=True)
        self.outputs: Mapping[str, Path] = MappingProxyType({name: results / name for name in spec.outputs})
        # Other nodes' metrics stay with them: the same series from several would be none.
        self._spool = Spool(folder if self.rank == 0 else _made(folder / "unsent"))
        self._tracking = tracking if self.rank == 0 else None
        self._lock = threading.Lock()
        self._steps = {key: point.step for key, point in self._spool.last().items()} if attempt > 1 else {}

    def rows(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The training rows as a DataFrame, all columns unless told."""
        import pandas as pd

        return pd.read_parquet(self.inputs["rows"], columns=list(columns) if columns else None)

    def log(self, values: Mapping[str, float] | None = None, /, *, step: int | None = None, **metrics: float) -> None:
        """Log metrics: ``run.log(loss=0.3)``, ``run.log({"valid/loss": 0.4}, step=7)``.

        Returns at once, whatever the server does: values go to disk and are delivered in the background.
        Without ``step`` each metric's own series goes on by one. NaN and infinities are kept.

        Raises:
            ValueError: a name or value is no metric's.
        """
        now = int(time.time() * 1000)
        points = []
        for key, value in {**(values or {}), **metrics}.items():
            if not _METRIC.fullmatch(key):
                raise ValueError(f"{key!r} cannot name a metric: use letters, digits, '_', '-', '.', '/', ' '")
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise ValueError(f"metric {key!r} takes a number, found {type(value).__name__}: {value!r}") from None
            with self._lock:
                at = int(step) if step is not None else self._steps.get(key, -1) + 1
                self._steps[key] = at
            points.append(MetricPoint(key, number, now, at))
        if points:
            self._spool.append(points)

    def flush(self, timeout: float = 60.0) -> None:
        """Return when the server has every metric logged so far.

        Raises:
            UnavailableError: it does not within ``timeout`` seconds; the values stay on disk and go later.
        """
        if self._tracking is None:
            return
        end = time.monotonic() + timeout
        while True:
            try:
                self._spool.ship(self._tracking, self.run_id)
                return
            except UnavailableError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    @property
    def metrics(self) -> dict[str, float]:
        """The newest value of each metric; NaN and infinities as they are."""
        return own_metrics(self._spool)

    def best(self, metric: str, *, lower: bool = True) -> float:
        """Best value logged so far; NaN when there is none."""
        found = [p.value for p in self._spool.points()[0] if p.key == metric and not math.isnan(p.value)]
        return (min(found) if lower else max(found)) if found else math.nan
