"""What Prometheus makes of our queries: each is asked once, and judged by what came back.

First the metrics, whatever model they are of: are there any, are they counters and histograms, do they have the labels
that versions and answers are told by. Then, for each model that is named, the very query that its gates will ask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from windtunnel.errors import UnavailableError
from windtunnel.serving.traffic.promnames import Names
from windtunnel.serving.traffic.promreading import Row, read
from windtunnel.stack.finding import Finding

PAGE = "docs/reference/prometheus.md"
_SETTING = f"prometheus_names in the settings of Seldon; see {PAGE}"
#: What Prometheus calls a metric whose type nobody told it: one that a recording rule made, mostly.
_UNTOLD = ("", "unknown", "untyped")
_FEW = 3


class Asking(Protocol):
    """One Prometheus."""

    def vector(self, query: str) -> list[Row]:
        """The answer to an instant query.

        Raises:
            UnavailableError: it says no, or its answer is no vector.
        """

    def type_of(self, metric: str) -> str:
        """``counter``, ``gauge``, ``histogram``, ``summary``, or nothing where nobody told it."""


def judge(prometheus: Asking, names: Names, models: Mapping[str, Names], scraped: str) -> Iterator[Finding]:
    """A finding ``metrics`` of the names, then one for each query.

    Args:
        names: of every model and namespace.
        models: by model, its names in its own namespace.
        scraped: who has them, for words.
    """
    requests = _group(prometheus, names.requests, (names.version_label, names.code))
    buckets = _group(prometheus, names.buckets, (names.version_label, "le"))
    missing = [name for name, found in ((names.requests, requests), (names.buckets, buckets)) if not found]
    wrong: list[str] = []
    if names.start is not None and not missing:
        started = names.start.replace("{matchers}", "").replace("{requests}", names.requests)
        try:
            missing += [] if prometheus.vector(f"count({started})") else [started]
        except UnavailableError as error:
            wrong.append(f"prometheus_names.start: {error.message}")
    if missing:
        mend = f"no model has been called yet, or {scraped} not scraped: gates would wait. See {PAGE}"
        yield Finding("metrics", "warn", f"Prometheus has no {', '.join(missing)}", mend)
        if not (requests or buckets):
            return
    wrong += [*_types(prometheus, names), *_labels(names, requests, buckets)]
    if wrong:
        yield Finding("metrics", "fail", "; ".join(wrong), _SETTING)
    elif not missing:
        yield Finding("metrics", "ok", f"{names.requests}, {names.buckets}")
    for model, mine in models.items():
        yield _of_model(prometheus, model, mine, names)


def _group(prometheus: Asking, metric: str, labels: Sequence[str]) -> list[dict[str, str]]:
    return [row.labels for row in prometheus.vector(f'count by ({", ".join(labels)}) ({{__name__="{metric}"}})')]


def _types(prometheus: Asking, names: Names) -> Iterator[str]:
    """Only what Prometheus says itself: what a recording rule makes has no type."""
    base = names.requests.removesuffix("_count").removesuffix("_total")
    told = {prometheus.type_of(one) for one in dict.fromkeys((names.requests, base))} - {*_UNTOLD}
    right = {"histogram", "summary"} if names.requests.endswith("_count") else set()
    if told and not told & (right | {"counter"}):
        yield f"{names.requests} is a {'/'.join(sorted(told))}, expected a counter or the _count of a histogram"
    base = names.buckets.removesuffix("_bucket")
    told = {prometheus.type_of(one) for one in dict.fromkeys((names.buckets, base))} - {*_UNTOLD}
    if told and not told & {"histogram", "counter"}:
        yield f"{names.buckets} is a {'/'.join(sorted(told))}, expected the _bucket of a histogram"


def _labels(names: Names, requests: list[dict[str, str]], buckets: list[dict[str, str]]) -> Iterator[str]:
    for metric, groups in ((names.requests, requests), (names.buckets, buckets)):
        if groups and not any(one.get(names.version_label) for one in groups):
            yield f"{metric} has no label {names.version_label}, which tells versions apart"
    if requests and not any(one.get(names.code) for one in requests):
        yield f"{names.requests} has no label {names.code}, which tells errors apart"
    strange = sorted({code for one in requests if (code := one.get(names.code)) and names.answer(code) is None})
    if strange:
        yield (
            f"{names.requests} has {names.code}={', '.join(strange[:_FEW])}, which is no HTTP or gRPC status "
            "(prometheus_names.codes says what it means)"
        )
    if buckets and not any(one.get("le") for one in buckets):
        yield f"{names.buckets} has no label le: it is no histogram's _bucket"


def _of_model(prometheus: Asking, model: str, mine: Names, names: Names) -> Finding:
    """What its gates would find."""
    title = f"query of {model}"
    try:
        found = read(mine, model, prometheus.vector(mine.query(model)))
    except UnavailableError as error:
        return Finding(title, "fail", error.message, error.hint or _SETTING)
    versions = sorted({sample.cell[0] for sample in found.samples})
    if versions:
        counted = {sample.cell[0] for sample in found.samples if sample.cell[1] != "le"}
        timed = {sample.cell[0] for sample in found.samples if sample.cell[1] == "le"}
        if lacking := sorted(set(versions) - (counted & timed)):
            text = f"version {', '.join(lacking)} has requests without latency, or latency without requests"
            return Finding(title, "fail", text, _SETTING)
        return Finding(title, "ok", f"versions {', '.join(versions)}")
    everywhere = prometheus.vector(f"count by ({names.version_label}) ({names.requests}{{{names.select(model)}}})")
    values = sorted({row.labels.get(names.version_label, "") for row in everywhere} - {""})
    if not values:
        text = f"yields nothing: {mine.requests}{{{mine.select(model)}}}"
        return Finding(title, "warn", text, "the model has not been called yet, or its series have other labels")
    if not any(names.version_of({names.version_label: value}, model) for value in values):
        text = f"{names.version_label} is {', '.join(values[:_FEW])}, which {names.version} does not match"
        return Finding(title, "fail", text, _SETTING)
    text = f"yields nothing here: {mine.requests}{{{mine.select(model)}}}; the model has series in other places"
    return Finding(title, "fail", text, f"prometheus_labels in the settings of Seldon; see {PAGE}")


class Http:
    """``Asking`` by ``around``'s own way to ask.

    Args:
        get: path and query to the plain answer's ``data``, or what went wrong.
    """

    def __init__(self, get: Any) -> None:
        self._get = get

    def vector(self, query: str) -> list[Row]:
        data = self._get("/api/v1/query", {"query": query})
        if isinstance(data, str):
            raise UnavailableError(data)
        try:
            if data.get("resultType", "vector") != "vector":
                raise UnavailableError(f"{query} is a {data['resultType']}, expected an instant vector")
            return [Row(dict(r["metric"]), float(r["value"][0]), float(r["value"][1])) for r in data["result"]]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UnavailableError(f"the answer to {query} cannot be understood: {error!r}") from error

    def type_of(self, metric: str) -> str:
        data = self._get("/api/v1/metadata", {"metric": metric})
        if not isinstance(data, dict):  # not every server that answers queries has it
            return ""
        told = data.get(metric) or [{}]
        return str(told[0].get("type") or "") if isinstance(told, list) and isinstance(told[0], dict) else ""
