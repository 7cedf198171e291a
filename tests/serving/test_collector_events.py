"""What an event is taken for, and what it is refused for. DEMAND SRV-6"""

from __future__ import annotations

import json
from typing import Any

import pytest
import seldonevents

from windtunnel.serving.collector import events, payloads, tables
from windtunnel.serving.collector.events import BadEvent, Half
from windtunnel.serving.collector.pairing import UNANSWERED, Pairs
from windtunnel.serving.collector.payloads import BadPayload

CAME = 1_800_000_000.0


def half(what: str, request_id: str, body: bytes, came: float = CAME, **more: Any) -> Half:
    found = events.understood(seldonevents.headers(what, request_id, time="", **more), body, came)
    assert found is not None
    return found


def test_an_event_says_what_it_is() -> None:
    headers = seldonevents.headers("request", "r1", time="2027-01-15T08:00:00.123456789Z")
    found = events.understood(headers, seldonevents.asks(1.5, 2), CAME, shadow=True)
    assert found is not None
    assert (found.what, found.model, found.version, found.request_id) == ("request", "visits", "3", "r1")
    assert (found.at, found.came, found.shadow) == (pytest.approx(CAME + 0.123456), CAME, True)
    assert found.payload == payloads.Asked({"age": [1.5, 2]}, 2)
    assert events.half_of(json.loads(json.dumps(events.plain(found)))) == found
    answer = events.understood(seldonevents.headers("response", "r1"), seldonevents.answers(7, ids=["a"]), CAME)
    assert answer is not None
    assert answer.payload == payloads.Answered([7], ["a"], None, "3")
    assert events.half_of(json.loads(json.dumps(events.plain(answer)))) == answer
    feedback = seldonevents.headers("io.seldon.serving.feedback", "r1")
    assert events.understood(feedback, b"{}", CAME) is None


def test_a_clock_that_is_far_off_is_not_believed() -> None:
    headers = seldonevents.headers("request", "r", time="2031-01-01T00:00:00Z")
    found = events.understood(headers, seldonevents.asks(1), CAME)
    assert found is not None and found.at == CAME


BAD: list[tuple[dict[str, str], bytes, str, int]] = [
    ({"id": ""}, b"{}", "ce-id", 400),
    ({"source": ""}, b"{}", "ce-source", 400),
    ({"type": ""}, b"{}", "ce-type", 400),
    ({"type": "org.kubeflow.serving.inference.request"}, b"{}", "ce-type", 400),
    ({"specversion": "9"}, b"{}", "ce-specversion", 400),
    ({"inferenceservicename": "../etc"}, b"{}", "ce-inferenceservicename", 400),
    ({"endpoint": ""}, b"{}", "ce-endpoint", 400),
    ({"endpoint": "v3/../.."}, b"{}", "ce-endpoint", 400),
    ({"requestid": ""}, b"{}", "ce-requestid", 400),
    ({"requestid": "a b"}, b"{}", "ce-requestid", 400),
    ({"time": "yesterday"}, seldonevents.asks(1), "ce-time", 400),
    ({"time": "2027-01-15T08:00:00"}, seldonevents.asks(1), "ce-time", 400),
    ({"protocol": "tensorflow"}, b"{}", "ce-protocol", 400),
    ({"content": "application/protobuf"}, b"\x0a\x03", "content-type", 415),
    ({"content": "application/cloudevents+json"}, b"{}", "content-type", 415),
    ({}, b"{", "body", 400),
    ({}, b"[" * 100_000, "body", 400),
    ({}, b"[]", "body", 400),
    ({}, b"{}", "inputs", 400),
    ({}, b'{"inputs":[{"shape":[1],"data":[1]}]}', "inputs[0].name", 400),
    ({}, b'{"inputs":[{"name":"a","shape":"1","data":[1]}]}', "inputs[0].shape", 400),
    ({}, b'{"inputs":[{"name":"a","shape":[99999999],"data":[1]}]}', "inputs[0].shape", 400),
    ({}, b'{"inputs":[{"name":"a","shape":[2],"data":[1]}]}', "inputs[0].data", 400),
    ({}, b'{"inputs":[{"name":"a","shape":[2],"parameters":{"binary_data_size":16}}]}', "inputs[0].data", 400),
    ({}, b'{"inputs":[{"name":"a","shape":[1],"data":[1]},{"name":"b","shape":[2],"data":[1,2]}]}', "inputs", 400),
    ({"protocol": "seldon"}, b'{"strData":"x"}', "data", 400),
    ({"protocol": "seldon"}, b'{"data":{"names":3,"ndarray":[[1]]}}', "data.names", 400),
    ({"protocol": "seldon"}, b'{"data":{"tensor":{"shape":[1,2],"values":[1]}}}', "data.tensor.data", 400),
]


@pytest.mark.parametrize(("more", "body", "field", "status"), BAD, ids=range(len(BAD)))
def test_a_bad_event_is_refused_by_name(more: dict[str, str], body: bytes, field: str, status: int) -> None:
    with pytest.raises(BadEvent) as refused:
        events.understood(seldonevents.headers("request", "r", **more), body, CAME)
    assert (refused.value.field, refused.value.status) == (field, status)
    assert field.partition("[")[0].partition(".")[0] in refused.value.message


@pytest.mark.parametrize(
    ("protocol", "body", "columns"),
    [
        ("v2", {"inputs": [{"name": "x", "shape": [2, 1], "data": [1, 2]}]}, {"x": [1, 2]}),
        ("v2", {"inputs": [{"name": "x", "shape": [2, 1], "data": [[1], [2]]}]}, {"x": [1, 2]}),
        ("v2", {"inputs": [{"name": "x", "shape": [2, 2], "data": [1, 2, 3, 4]}]}, {"x_0": [1, 3], "x_1": [2, 4]}),
        ("v2", {"inputs": [{"name": "x", "shape": [1, 300], "data": [0] * 300}]}, {"x": [[0] * 300]}),
        ("v2", {"inputs": [{"name": "x", "shape": [1], "data": ["a"]}]}, {"x": ["a"]}),
        ("seldon", {"data": {"names": ["a", "b"], "ndarray": [[1, "q"], [2, None]]}}, {"a": [1, 2], "b": ["q", None]}),
        ("seldon", {"data": {"tensor": {"shape": [1, 2], "values": [1, 2]}}}, {"data_0": [1], "data_1": [2]}),
        ("seldon", {"data": {"names": ["a"], "ndarray": [[1], [2, 3]]}}, {"data": [[1], [2, 3]]}),
    ],
)
def test_inputs_become_columns(protocol: str, body: dict[str, Any], columns: dict[str, list[Any]]) -> None:
    assert payloads.asked(protocol, body).columns == columns


def test_outputs_become_one_per_row() -> None:
    two = {"outputs": [{"name": "confidence", "shape": [2], "data": [0.5, 0.75]},
                       {"name": "predict", "shape": [2, 1], "data": [1, 0]}]}  # fmt: skip
    found = payloads.answered("v2", two)
    assert (found.outputs, found.confidence, found.ids) == ([1, 0], [0.5, 0.75], [])
    assert payloads.answered("seldon", {"data": {"ndarray": [[1], [2]]}}).outputs == [1, 2]
    with pytest.raises(BadPayload, match="outputs"):
        payloads.answered("v2", {"outputs": []})


# -- halves to rows


def test_halves_meet_in_any_order_and_once() -> None:
    pairs = Pairs(100)
    first = half("response", "r1", seldonevents.answers(7, 8))
    assert pairs.add(first)
    assert not pairs.add(first)
    assert pairs.add(half("request", "r1", seldonevents.asks(1, 2)))
    taken = pairs.take(CAME - 60)
    (row,) = taken.rows
    assert (row.ids, row.columns, row.outputs, row.status, row.error) == (
        ["r1-0", "r1-1"], {"age": [1, 2]}, [7, 8], 200, None
    )  # fmt: skip
    assert not taken.carried and len(taken.keys) == 2
    pairs.remember(1, taken.keys)
    assert not pairs.add(first)
    assert pairs.tally.duplicates == 2
    assert pairs.tally.rows == 2


def test_a_request_id_that_is_used_twice_makes_two_rows() -> None:
    pairs = Pairs(100)
    for value in (1, 2):
        pairs.add(half("request", "mine", seldonevents.asks(value)))
    for value in (10, 20):
        pairs.add(half("response", "mine", seldonevents.answers(value)))
    rows = pairs.take(0).rows
    assert [(row.columns["age"], row.outputs) for row in rows] == [([1], [10]), ([2], [20])]


def test_an_executor_that_names_no_protocol_is_understood() -> None:
    assert half("request", "r", seldonevents.asks(1), protocol="").payload == payloads.Asked({"age": [1]}, 1)
    own = b'{"data": {"names": ["age"], "ndarray": [[2]]}}'
    assert half("request", "r", own, protocol="").payload == payloads.Asked({"age": [2]}, 1)


def test_json_by_another_name_is_json() -> None:
    """What ``curl -d`` says of it; the executor passes that on."""
    found = half("request", "r", seldonevents.asks(1), content="application/x-www-form-urlencoded")
    assert found.payload == payloads.Asked({"age": [1]}, 1)


def test_halves_of_other_nodes_of_a_graph_do_not_meet() -> None:
    pairs = Pairs(100)
    for node in ("scale", "predict"):
        pairs.add(half("request", "r", seldonevents.asks(1), modelid=node))
    pairs.add(half("response", "r", seldonevents.answers(1), modelid="predict"))
    assert len(pairs.take(CAME - 1).rows) == 1 and pairs.waiting == 1


def test_halves_of_other_versions_do_not_meet() -> None:
    pairs = Pairs(100)
    pairs.add(half("request", "r", seldonevents.asks(1), predictor="v3"))
    pairs.add(half("response", "r", seldonevents.answers(1), predictor="v4"))
    assert not pairs.take(CAME - 1).rows
    assert pairs.waiting == 2


def test_a_half_that_stays_alone_is_a_row_and_counted() -> None:
    pairs = Pairs(100)
    pairs.add(half("request", "a", seldonevents.asks(1)))
    pairs.add(half("response", "b", seldonevents.answers(5)))
    pairs.add(half("request", "c", seldonevents.asks(3), came=CAME + 30))
    assert pairs.due(CAME + 1)
    taken = pairs.take(CAME + 1)
    assert {(row.request_id, row.error, tuple(row.outputs)) for row in taken.rows} == {
        ("a", UNANSWERED, (None,)), ("b", None, (5,))
    }  # fmt: skip
    assert [one.request_id for one in taken.carried] == ["c"]
    assert (pairs.tally.unanswered, pairs.tally.unasked) == (1, 1)


def test_halves_of_other_lengths_keep_the_answer() -> None:
    pairs = Pairs(100)
    pairs.add(half("request", "a", seldonevents.asks(1, 2)))
    pairs.add(half("response", "a", seldonevents.answers(5)))
    (row,) = pairs.take(0).rows
    assert (row.count, row.columns, row.outputs, pairs.tally.unpaired) == (1, {}, [5], 1)


def test_what_is_remembered_is_bounded() -> None:
    pairs = Pairs(4)
    for flush in range(1, 6):
        for n in range(2):
            pairs.add(half("response", f"{flush}-{n}", seldonevents.answers(1)))
        pairs.remember(flush, pairs.take(CAME + 1).keys)
        pairs.forget()
    assert len(pairs._seen) <= 4 + 2
    assert pairs.held_bytes == 0


def test_columns_are_as_wide_as_their_values() -> None:
    pairs = Pairs(100)
    for n, value in enumerate((1, "x", None, True, {"k": 1})):
        body = json.dumps({"inputs": [{"name": "f", "shape": [1], "data": [value]}]}).encode()
        pairs.add(half("request", f"r{n}", body))
        pairs.add(half("response", f"r{n}", seldonevents.answers(n)))
    (((model, version), rows),) = tables.by_version(pairs.take(0).rows).items()
    table = tables.table(rows, "collector_0")
    assert (model, version, table.num_rows) == ("visits", "3", 5)
    assert table.column("feature_f").to_pylist() == ["1", "x", None, "True", '{"k": 1}']
    assert table.column("prediction").to_pylist() == [0, 1, 2, 3, 4]
