"""One answer of Prometheus, sorted by what it says; and its buckets as our histogram. Pure: no clock, no network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from windtunnel.errors import UnavailableError
from windtunnel.serving.backend import ArmTraffic
from windtunnel.serving.traffic.promcounters import Labels, Sample
from windtunnel.serving.traffic.promnames import Names
from windtunnel.stats.histogram import BOUNDS, Histogram, bucket


@dataclass(frozen=True, slots=True)
class Row:
    """One element of a vector."""

    labels: dict[str, str]
    at: float
    value: float


@dataclass(slots=True)
class Reading:
    """An answer, sorted by what it says."""

    now: float
    samples: list[Sample] = field(default_factory=list)
    scraped: dict[str, float] = field(default_factory=dict)  # by version: time of its newest sample
    starts: dict[Labels, float] = field(default_factory=dict)
    down: set[Labels] = field(default_factory=set)
    bounds: dict[str, set[str]] = field(default_factory=dict)  # by version: the buckets' upper bounds


def read(names: Names, model: str, rows: list[Row]) -> Reading:
    """What the answer to ``names.query(model)`` says.

    Raises:
        UnavailableError: a number is none, or a label says something nobody understands.
    """
    reading = Reading(rows[0].at if rows else 0.0)
    for row in rows:
        labels, part = row.labels, row.labels.get("wt")
        instance: Labels = tuple((name, labels.get(name, "")) for name in names.instance)
        if part == "down":
            reading.down.add(instance)
            continue
        if not math.isfinite(row.value):
            raise UnavailableError(f"a number of model {model!r} in Prometheus is {row.value}: {labels}")
        if part == "start":
            reading.starts[instance] = row.value
            continue
        version = names.version_of(labels, model)
        if version is None:
            continue
        if part == "at":
            reading.scraped[version] = max(row.value, reading.scraped.get(version, -math.inf))
            continue
        if labels.get("__name__") == names.buckets:
            bound = _bound(labels.get("le", ""), names)
            reading.bounds.setdefault(version, set()).add(bound)
            cell: tuple[str, ...] = (version, "le", bound)
        else:
            answer = names.answer(labels.get(names.code, ""))
            if answer is None:
                raise UnavailableError(
                    f"{names.requests} of model {model!r} has {names.code}={labels.get(names.code)!r}, "
                    "which is no HTTP or gRPC status",
                    hint="say what it means in Names.codes",
                )
            cell = (version, answer)
        reading.samples.append(Sample(series_of(labels), instance, cell, row.value))
    return reading


def series_of(labels: Mapping[str, str]) -> Labels:
    """A series' name: all its labels."""
    return tuple(sorted(labels.items()))


def _bound(le: str, names: Names) -> str:
    """A bucket's upper bound in milliseconds, in one way of writing."""
    try:
        return repr(float(le) * (1000.0 if names.unit == "s" else 1.0))
    except ValueError:
        raise UnavailableError(f"{names.buckets} has a bucket le={le!r}, expected a number") from None


def arms_of(totals: Mapping[tuple[str, ...], float], thresholds_ms: Sequence[float]) -> dict[str, ArmTraffic]:
    """Totals by version; ``thresholds_ms`` as of ``histogram``."""
    arms: dict[str, ArmTraffic] = {}
    for version in sorted({cell[0] for cell in totals}):
        counts = {answer: round(totals.get((version, answer), 0.0)) for answer in ("ok", "client", "error")}
        below = {float(cell[2]): total for cell, total in totals.items() if cell[0] == version and cell[1] == "le"}
        arms[version] = ArmTraffic(
            requests=sum(counts.values()),
            errors=counts["error"],
            client_errors=counts["client"],
            latency=histogram(below, thresholds_ms),
        )
    return arms


def histogram(below: Mapping[float, float], thresholds_ms: Sequence[float] = ()) -> Histogram:
    """Prometheus' cumulative buckets as a ``Histogram``.

    Args:
        below: upper bound in milliseconds (``inf`` included) to how many requests took at most that long.
        thresholds_ms: a bucket that one of these lies within is counted at it, not at its upper bound.

    Returns:
        Each bucket's requests at its upper bound: no quantile is too low, none is more exact than the source's
        buckets. ``inf`` and bounds above 100 s are one bucket.
    """
    counts = [0] * (len(BOUNDS) + 1)
    before, low = 0, 0.0
    for bound in sorted(below):
        upto = max(before, round(below[bound]))  # a bucket scraped in the middle of an update never takes away
        inside = [limit for limit in thresholds_ms if low < limit < bound]
        place = bucket(max(inside)) if inside else bucket(bound)
        counts[place] += upto - before
        before, low = upto, bound
    return Histogram(tuple(counts))
