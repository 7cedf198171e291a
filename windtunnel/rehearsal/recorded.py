"""A champion's recorded rows as the traffic of a rehearsal: a block bootstrap, the candidate with a harm applied.

Each run starts at some time of the day and goes on in blocks of ten minutes, each drawn from the recorded blocks
of about that time (``arrivals``). A block says how many requests came, how many failed and how slow they were; within
it requests are drawn by chance. Losses and predictions are drawn from all recorded rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from windtunnel.errors import DataError
from windtunnel.rehearsal.scenarios import (
    OBJECTIVE,
    Harm,
    Recorded,
    Scenario,
    World,
    cells,
    mixed,
    segments,
    starts_at,
    thresholds,
)
from windtunnel.rollout.plan import Plan, PlanGate
from windtunnel.stats.betting import FloatArray

#: Length of a block: long enough that its error rate is more than chance, short enough to follow bursts and the day.
BLOCK_S = 600.0
#: Fewest rows of the champion to rehearse on.
ENOUGH_ROWS = 500


@dataclass(frozen=True, slots=True)
class Recording:
    """The champion's rows, oldest first.

    Attributes:
        time: (n,) seconds since the epoch.
        failed: (n,) the request failed. latency_ms: (n,), NaN where it is not known.
        predictions: numbers or class names of answered rows; any length.
        losses: of labelled rows; any length.
        arrivals: (m,) seconds since the epoch of all requests, whichever version answered; None: the champion's.
        version: whose rows these are.
    """

    time: FloatArray
    failed: NDArray[np.bool_]
    latency_ms: FloatArray
    predictions: FloatArray | NDArray[np.str_]
    losses: FloatArray
    arrivals: FloatArray | None = None
    version: str | None = None

    @property
    def came(self) -> FloatArray:
        """(m,) when a request came, for any version."""
        return self.time if self.arrivals is None else self.arrivals

    @property
    def rate(self) -> float:
        """Requests per second on average."""
        return float(len(self.came) / max(1.0, float(self.came.max() - self.came.min())))


def world(plan: Plan, scenario: Scenario, recording: Recording, rate: float | None) -> World:
    """The recorded traffic under one plan; the scenario's harm, outage and silence, but none of its rates.

    Args:
        rate: requests per second on average; None: as recorded.

    Raises:
        DataError: there are too few rows, or a gate of the plan has none to be drawn from.
    """
    if len(recording.time) < ENOUGH_ROWS:
        raise DataError(
            f"the prediction log has {len(recording.time)} rows of the champion, a rehearsal needs {ENOUGH_ROWS}",
            hint="leave out --from-log and describe the traffic with --rate and --scenario FILE.yaml",
        )
    known = np.sort(recording.latency_ms[np.isfinite(recording.latency_ms) & (recording.latency_ms > 0)])
    wants_latency = plan.p95_ms is not None or any(gate.metric == "latency" for gate in plan.gates)
    if wants_latency and known.size < ENOUGH_ROWS:
        raise DataError(f"the plan looks at latency, the prediction log has {known.size} rows that tell it")
    quantiles = {g.quantile: _upper(known, g.quantile) for g in plan.gates if g.metric == "latency"}
    p95 = _upper(known, 0.95) if known.size else 1.0
    values, latency_of = thresholds(plan, quantiles, scenario.objective_p95_ms or OBJECTIVE * p95)
    names, shares, harmed = segments(plan, scenario.harm.share)
    recorded = _blocks(recording, values, scenario.harm)
    errors = float(recording.failed.mean())
    return World(
        scenario=scenario,
        rate=rate,
        look_s=plan.look_every_s,
        names=names,
        shares=shares,
        harmed=harmed,
        errors=errors,
        tails_a=np.average(recorded.tails_a, axis=0, weights=recorded.rate),
        tails_b=np.average(recorded.tails_b, axis=0, weights=recorded.rate),
        latency_of=latency_of,
        cells={gate.name: _cells(gate, scenario.harm, recording) for gate in plan.gates if not gate.rates},
        objective_errors=scenario.objective_errors or OBJECTIVE * max(errors, 1e-4),
        recorded=recorded,
        ordered=recording.predictions.dtype.kind not in "US",
        start_s=starts_at(plan, scenario),
    )


def _upper(ordered: FloatArray, quantile: float) -> float:
    return float(ordered[min(len(ordered) - 1, math.ceil(quantile * len(ordered)))]) if len(ordered) else 1.0


def _blocks(recording: Recording, values: list[float], harm: Harm) -> Recorded:
    """Whole blocks between the first and the last request; a block without a request is traffic too."""
    came = recording.came
    start, end = float(came.min()), float(came.max())
    count = max(1, int((end - start) // BLOCK_S))
    length = BLOCK_S if end - start >= BLOCK_S else max(end - start, 1.0)

    def places(moments: FloatArray) -> NDArray[np.int64]:
        found: NDArray[np.int64] = np.minimum(((moments - start) // length).astype(np.int64), count - 1)
        return found

    everything = np.bincount(places(came[came < start + count * length]), minlength=count).astype(np.float64)
    inside = recording.time < start + count * length
    place, failed, latency = places(recording.time[inside]), recording.failed[inside], recording.latency_ms[inside]
    requests = np.bincount(place, minlength=count).astype(np.float64)
    errors = np.bincount(place, weights=failed, minlength=count).astype(np.float64)
    told = np.isfinite(latency)
    timed = np.bincount(place[told], minlength=count).astype(np.float64)

    def tails(factor: float) -> FloatArray:
        slow = [np.bincount(place[told], weights=latency[told] * factor > v, minlength=count) for v in values]
        return np.stack([_share(s.astype(np.float64), timed) for s in slow], axis=1)

    clock: FloatArray = (start + (np.arange(count, dtype=np.float64) + 0.5) * length) % 86_400
    return Recorded(everything / length, clock, length, _share(errors, requests), tails(1.0), tails(harm.latency))


def _share(part: FloatArray, whole: FloatArray) -> FloatArray:
    """Per block; of all rows where a block has none."""
    overall = float(part.sum() / whole.sum()) if whole.sum() > 0 else 0.0
    found: FloatArray = np.where(whole > 0, part / np.maximum(whole, 1), overall)
    return found


def _cells(gate: PlanGate, harm: Harm, recording: Recording) -> tuple[FloatArray, FloatArray]:
    what = "predictions" if gate.metric == "prediction" else "labelled rows"
    rows = recording.predictions if gate.metric == "prediction" else recording.losses
    if len(rows) < ENOUGH_ROWS:
        raise DataError(
            f"gate {gate.name}: the prediction log has {len(rows)} {what} of the champion, needs {ENOUGH_ROWS}",
            hint="record longer, or rehearse without --from-log",
        )
    if gate.metric == "prediction" and rows.dtype.kind in "US":
        _, counts = np.unique(rows, return_counts=True)
        kept = np.append(counts / counts.sum(), 0.0)  # the last cell counts what is none of them
        moved = kept * max(0.0, 2 - harm.prediction)
        moved[int(np.argmax(kept))] += 1 - moved.sum()
        return mixed(kept, moved, harm.share)
    numbers = np.asarray(rows, dtype=np.float64)
    return cells(gate, harm, numbers, numbers)
