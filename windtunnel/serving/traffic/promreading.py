"""One answer of Prometheus, sorted by what it says; and its buckets as our histogram. Pure: no clock, no network."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from windtunnel.errors import UnavailableError
from windtunnel.serving.backend import ArmTraffic
from windtunnel.serving.traffic.promcounters import Labels, Sample
from windtunnel.serving.traffic.promnames import Names
from windtunnel.stats.histogram import BOUNDS, Histogram, bucket

#: By metric, the labels that the process itself gives; all others are of whoever scrapes it. (``executor/api/metric``
#: of Seldon Core 1, ``scheduler/pkg/metrics`` of Core 2.)
_EXECUTORS = frozenset({"deployment_name", "predictor_name", "predictor_version", "service", "method", "code", "le"})
_AGENTS = frozenset({"server", "server_replica", "method", "code", "le"})
_OWN = {"seldon_api_executor_server_requests_seconds": _EXECUTORS, "seldon_model_infer_api_seconds": _AGENTS}
#: What scrape configurations call a pod: where two of them differ, two processes count.
_PODS = ("pod", "pod_name", "kubernetes_pod_name")


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
        UnavailableError: a number is none, a label says something nobody understands, or one process' counts are there
            more than once.
    """
    reading = Reading(rows[0].at if rows else 0.0)
    _check_once(names, model, rows)
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


def _check_once(names: Names, model: str, rows: list[Row]) -> None:
    """Refuse counts that stand there twice, as where two jobs scrape the same pods, or two replicas of Prometheus are
    asked as one: each request would be two pieces of evidence."""
    seen: dict[Labels, list[dict[str, str]]] = {}
    for row in rows:
        own = _OWN.get(re.sub(r"_(count|bucket)$", "", row.labels.get("__name__", "")))
        if own is None or "wt" in row.labels:
            continue
        kept = own | {"__name__", *names.instance}
        key = tuple(
            sorted((name, value) for name, value in row.labels.items() if name.removeprefix("exported_") in kept)
        )
        for other in seen.setdefault(key, []):
            if any(
                other.get(pod, "") != row.labels.get(pod, "") for pod in _PODS if pod in other and pod in row.labels
            ):
                continue
            differ = {name for name in other.keys() | row.labels.keys() if other.get(name) != row.labels.get(name)}
            told = [", ".join(f'{n}="{one.get(n, "")}"' for n in sorted(differ)) for one in (other, row.labels)]
            where = ", ".join(f"{name}={row.labels.get(name, '')}" for name in names.instance)
            raise UnavailableError(
                f"each request of model {model!r} is counted twice in Prometheus: the series of {where} are there with "
                f"{told[0] or 'nothing'} and with {told[1] or 'nothing'}",
                hint="scrape it once, or name the series to take in prometheus_labels, with all that tells them apart",
            )
        seen[key].append(row.labels)


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
