"""What Prometheus makes of our queries, as the doctor tells it (DEMAND OPS-4, ROL-2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from windtunnel.errors import UnavailableError
from windtunnel.serving.traffic.promnames import SELDON, Names
from windtunnel.serving.traffic.promreading import Row
from windtunnel.stack.clusterdoctor import queries

MODEL = SELDON.only("models")
GROUP = {"predictor_name": "v1", "code": "200", "le": "0.1"}


class Answers:
    """The first answer whose words are in the query; nothing to all others."""

    def __init__(self, answers: dict[str, Any], types: dict[str, str]) -> None:
        self.answers, self.types, self.asked = answers, types, []

    def vector(self, query: str) -> list[Row]:
        self.asked.append(query)
        found = next((rows for words, rows in self.answers.items() if words in query), [])
        if isinstance(found, str):
            raise UnavailableError(found)
        return [Row(dict(labels), 9.0, 1.0) for labels in found]

    def type_of(self, metric: str) -> str:
        return self.types.get(metric, "")


def series(metric: str, **more: str) -> dict[str, str]:
    return {"__name__": metric, "deployment_name": "visits", "instance": "a", **GROUP, **more}


WHOLE = [series(SELDON.requests), series(SELDON.buckets), series(SELDON.buckets, le="+Inf")]
REQUESTS, BUCKETS = f'{{__name__="{SELDON.requests}"}}', f'{{__name__="{SELDON.buckets}"}}'
GOOD: dict[str, Any] = {f"{SELDON.requests}|": WHOLE, REQUESTS: [GROUP], BUCKETS: [GROUP], "count(process_start": [{}]}
BASE = "seldon_api_executor_server_requests_seconds"
TYPES = {BASE: "histogram"}

#: What differs from a good Prometheus; its types; then finding, result, words.
CASES: list[tuple[str, dict[str, Any], dict[str, str], str, str, str]] = [
    ("all is well", {}, TYPES, "metrics", "ok", "requests_seconds_count"),
    ("all is well for the model", {}, TYPES, "query of visits", "ok", "versions 1"),
    ("nobody tells types", {}, {}, "metrics", "ok", "requests_seconds_count"),
    ("no requests yet", {REQUESTS: [], BUCKETS: []}, TYPES, "metrics", "warn", "Prometheus has no seldon_api"),
    ("no latency", {BUCKETS: []}, TYPES, "metrics", "warn", "seconds_bucket"),
    ("nobody says when it began", {"count(process_start": []}, TYPES, "metrics", "warn", "process_start_time_seconds"),
    ("a gauge", {}, {SELDON.requests: "gauge"}, "metrics", "fail", "is a gauge, expected a counter or the _count"),
    ("no histogram", {}, {BASE: "summary"}, "metrics", "fail", "is a summary, expected the _bucket of a histogram"),
    ("no version", {REQUESTS: [{"code": "200"}]}, TYPES, "metrics", "fail", "no label predictor_name"),
    ("no code", {REQUESTS: [{"predictor_name": "v1"}]}, TYPES, "metrics", "fail", "no label code"),
    ("a strange code", {REQUESTS: [{**GROUP, "code": "bad"}]}, TYPES, "metrics", "fail", "code=bad"),
    ("no bounds", {BUCKETS: [{"predictor_name": "v1"}]}, TYPES, "metrics", "fail", "no label le"),
    ("a query that is none", {f"{SELDON.requests}|": "answered 400: parse error"}, TYPES, "query of visits", "fail",
     "parse error"),
    ("latency alone", {f"{SELDON.requests}|": WHOLE[1:]}, TYPES, "query of visits", "fail", "latency without requests"),
    ("scraped twice", {f"{SELDON.requests}|": [*WHOLE, *({**one, "job": "other"} for one in WHOLE)]}, TYPES,
     "query of visits", "fail", 'counted twice in Prometheus: the series of'),
    ("nothing of the model", {f"{SELDON.requests}|": []}, TYPES, "query of visits", "warn", "yields nothing: "),
    ("of another namespace", {f"{SELDON.requests}|": [], "count by (predictor_name) (": [{"predictor_name": "v1"}]},
     TYPES, "query of visits", "fail", "yields nothing here: "),
    ("versions of another form", {f"{SELDON.requests}|": [series(SELDON.requests, predictor_name="a-b")],
                                  "count by (predictor_name) (": [{"predictor_name": "a-b"}]},
     TYPES, "query of visits", "fail", r"predictor_name is a-b, which v?(\w+) does not match"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("other", "types", "name", "result", "words"), [one[1:] for one in CASES], ids=[one[0] for one in CASES]
)
def test_each_query_is_asked_once_and_judged(
    other: dict[str, Any], types: dict[str, str], name: str, result: str, words: str
) -> None:
    asking = Answers({**other, **{key: rows for key, rows in GOOD.items() if key not in other}}, types)
    found = {one.name: one for one in queries.judge(asking, SELDON, {"visits": MODEL}, "executors are")}
    assert found[name].result == result and words in found[name].found, found
    assert result == "ok" or found[name].mend
    assert len(asking.asked) == len(set(asking.asked)), "each once"


def test_names_of_ones_own_are_asked_for() -> None:
    own = replace(SELDON, requests="a_total", buckets="b_bucket", start=None)
    asking = Answers({}, {})
    (found,) = queries.judge(asking, own, {"visits": own}, "executors are")
    assert found.result == "warn" and "a_total, b_bucket" in found.found
    assert [query.rpartition(" ")[2] for query in asking.asked] == [
        '({__name__="a_total"})', '({__name__="b_bucket"})',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("nobody there", "nobody there"),
        ({"resultType": "matrix", "result": []}, "is a matrix, expected an instant vector"),
        ({"result": [{"metric": 5}]}, "cannot be understood"),
        ({"resultType": "vector"}, "cannot be understood"),
    ],
)
def test_an_answer_that_is_no_vector(data: Any, words: str) -> None:
    http = queries.Http(lambda path, asked: data)
    with pytest.raises(UnavailableError, match=words):
        http.vector("up")
    assert http.type_of("up") == ""


def test_types_are_what_prometheus_says() -> None:
    told = {"up": [{"type": "gauge", "help": "", "unit": ""}], "odd": [], "wrong": {"type": "gauge"}}
    http = queries.Http(lambda path, asked: told)
    assert [http.type_of(name) for name in ("up", "odd", "wrong", "none")] == ["gauge", "", "", ""]


def test_the_parts_of_a_query_that_start_needs_are_left_out_of_all_models() -> None:
    """``start`` may name matchers; of no model there are none."""
    own: Names = replace(SELDON, start='began{job="x",{matchers}} and {requests}')
    asking = Answers(GOOD, TYPES)
    list(queries.judge(asking, own, {}, "executors are"))
    assert any(query == f'count(began{{job="x",}} and {SELDON.requests})' for query in asking.asked)
