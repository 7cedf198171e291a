"""The model server through the router: answers, refusals, failures, the prediction log (DEMAND SRV-5, SRV-6)."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

import pytest

from windtunnel.serving.backend import Release
from windtunnel.serving.local import servers
from windtunnel.serving.predictions import PredictionLog

pytestmark = pytest.mark.real
Kit = Any  # tests/serving/conftest.py


@pytest.fixture(scope="module")
def both(kit: Kit) -> Kit:
    """Half the traffic each: what is asked of either version reaches it soon."""
    token = kit.next_token()
    kit.backend.apply(
        Release(kit.model, kit.arm(1, 50), (kit.arm(2, 50),), token=token, rollout_id="both", settings=kit.settings)
    )
    return kit


def ask(kit: Kit, version: str, *rows: dict[str, Any], **more: Any) -> Any:
    """The answer of one version; the router chooses, so ask until it was the one."""
    for _ in range(200):
        answer = kit.served.infer(kit.model, *rows, **more)
        if answer.version == version:
            return answer
    raise AssertionError(f"version {version} never answered")


def body(**changes: Any) -> str:
    """A good request as tensors, with some replaced (None: left out)."""
    tensors = {
        "age": {"name": "age", "shape": [1], "datatype": "FP64", "data": [30.0]},
        "income": {"name": "income", "shape": [1], "datatype": "FP64", "data": [50.0]},
        "visits": {"name": "visits", "shape": [1], "datatype": "INT64", "data": [2]},
        "plan": {"name": "plan", "shape": [1], "datatype": "BYTES", "data": ["free"]},
        **changes,
    }
    return json.dumps({"inputs": [tensor for tensor in tensors.values() if tensor is not None]})


def tensor(name: str, data: Any, datatype: str = "FP64", shape: Any = None) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)] if shape is None else shape, "datatype": datatype, "data": data}


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ("{", "body"),
        ("[]", "body"),
        ("{}", "inputs"),
        ('{"inputs": []}', "inputs"),
        ('{"inputs": [{"name": "age"}]}', "datatype"),
        (body(age=None), "age"),
        (body(wealth=tensor("wealth", [1.0])), "wealth"),
        (body(again=tensor("age", [1.0])), "age"),
        (body(age=tensor("age", ["old"])), "age"),
        (body(age=tensor("age", ["old"], "BYTES")), "age"),
        (body(age=tensor("age", [None])), "age"),
        (body(age=tensor("age", [-1.0])), "age"),
        (body(age=tensor("age", [131])), "age"),
        (body(age=tensor("age", [1.0, 2.0])), "income"),
        (body(age=tensor("age", [1.0], shape=[7])), "age"),
        (body(age=tensor("age", [[1.0, 2.0]], shape=[1, 2])), "age"),
        (body(visits=tensor("visits", [1.5])), "visits"),
        (body(plan=tensor("plan", ["gold"], "BYTES")), "plan"),
        (body(plan=tensor("plan", [1], "INT64")), "plan"),
        (body(age=tensor("age", [], shape=[0])), "age"),
    ],
)
def test_a_bad_request_is_4xx_and_names_the_field(both: Kit, sent: str, field: str) -> None:
    answer = both.served.infer(both.model, body=sent)
    assert 400 <= answer.status < 500, answer.body
    assert field in answer.body.decode()


def test_the_answer_has_an_id_per_row_and_they_are_all_different(both: Kit) -> None:
    answer = ask(both, "1", {**both.row, "age": 10.0}, {**both.row, "age": 20.0})
    assert answer.status == 200
    found = answer.json
    assert (found["model_name"], found["model_version"]) == (both.model, "1")
    assert [output["name"] for output in found["outputs"]] == ["predictions"]
    assert found["outputs"][0]["shape"] == [2]
    low, high = found["outputs"][0]["data"]
    assert high - low == pytest.approx(1.0, abs=1e-6), "0.1 a year, as it was fitted"
    ids = found["parameters"]["prediction_ids"]
    again = ask(both, "1", both.row).json["parameters"]["prediction_ids"]
    assert len({*ids, *again}) == 3


def test_what_may_be_null_may_be_null(both: Kit) -> None:
    assert both.served.infer(both.model, {**both.row, "income": None}).status == 200


def test_a_prediction_that_is_nan_is_500_and_says_so(both: Kit) -> None:
    answer = ask(both, "2", {**both.row, "visits": both.trouble.NAN})
    assert answer.status == 500
    assert "the model predicted nan for row 0" in answer.json["error"]


def test_a_model_that_raises_is_500_with_its_reason_and_goes_on(both: Kit) -> None:
    answer = ask(both, "2", {**both.row, "visits": both.trouble.RAISE})
    assert answer.status == 500
    assert answer.json["error"] == "the model raised RuntimeError: no such member"
    assert ask(both, "2", both.row).status == 200


def test_every_answered_request_is_in_the_prediction_log_with_what_was_sent(both: Kit) -> None:
    began = time.time() - 1
    headers = {"x-correlation-id": f"cause-{began}", "x-windtunnel-client": "shop"}
    good = ask(both, "1", {**both.row, "age": 41.5}, headers=headers)
    bad = ask(both, "2", {**both.row, "visits": both.trouble.RAISE}, headers=headers)
    refused = both.served.infer(both.model, body=body(age=None), headers=headers)
    assert (good.status, bad.status, refused.status) == (200, 500, 400)
    log, wanted = (
        PredictionLog(both.served.home.predictions),
        {good.headers["x-request-id"], bad.headers["x-request-id"]},
    )
    deadline, rows = time.monotonic() + 15, {}
    while not wanted <= rows.keys() and time.monotonic() < deadline:
        frame = log.read(both.model, began, time.time() + 60)
        rows = {row["request_id"]: row for row in frame.to_dict("records")}
        time.sleep(0.2)
    row = rows[good.headers["x-request-id"]]
    assert row["prediction_id"] == good.json["parameters"]["prediction_ids"][0]
    assert (row["version"], row["status"], row["client"]) == ("1", 200, "shop")
    assert row["correlation_id"] == headers["x-correlation-id"]
    assert (row["feature_age"], row["feature_visits"], row["feature_plan"]) == (41.5, 2.0, "free")
    assert float(row["prediction"]) == pytest.approx(good.json["outputs"][0]["data"][0])
    assert 0 < row["latency_ms"] < 60_000
    failed = rows[bad.headers["x-request-id"]]
    assert (failed["version"], failed["status"]) == ("2", 500)
    assert "no such member" in failed["error"]
    assert refused.headers["x-request-id"] not in rows, "no prediction was made: the router counts it"


def test_copies_and_testers_are_marked_in_the_prediction_log(kit: Kit) -> None:
    """DEMAND ROL-1, ROL-14: a copy is a prediction of both versions, and the candidate's reached nobody."""
    began, token = time.time() - 1, kit.next_token()
    release = Release(
        kit.model,
        kit.arm(1, 100),
        (kit.arm(2, 0),),
        token=token,
        rollout_id=f"copies-{token}",
        settings=kit.settings,
        mirror=100,
        audience=("x-tester", "1"),
        segment_header="x-country",
    )
    kit.backend.apply(release)
    user = kit.served.infer(kit.model, headers={"x-country": "de", "x-windtunnel-audience": "true"})
    tester = kit.served.infer(kit.model, headers={"x-country": "us", "x-tester": "1", "x-windtunnel-shadow": "true"})
    assert (user.version, tester.version) == ("1", "2")
    log, wanted, deadline = PredictionLog(kit.served.home.predictions), {}, time.monotonic() + 90
    while len(wanted) < 3 and time.monotonic() < deadline:
        frame = log.read(kit.model, began, time.time() + 60)
        rows = frame[frame["correlation_id"].isna()].to_dict("records")
        ids = {user.headers["x-request-id"]: "user", tester.headers["x-request-id"]: "tester"}
        wanted = {(ids[r["request_id"]], r["version"]): r for r in rows if r["request_id"] in ids}
        time.sleep(0.2)
    marks = {
        key: (bool(row["shadow"]), None if row["arm"] != row["arm"] else row["arm"], row["segment"])
        for key, row in wanted.items()
    }
    assert marks == {
        ("user", "1"): (False, None, "de"),
        ("user", "2"): (True, None, "de"),
        ("tester", "2"): (False, "audience", "us"),
    }
    [first, second] = [wanted["user", version]["prediction_id"] for version in "12"]
    assert first != second and first == user.json["parameters"]["prediction_ids"][0]


def test_a_probe_of_the_backend_is_no_prediction(both: Kit) -> None:
    port = both.backend.desired(both.model) and _port(both, "1")
    began = time.time()
    servers.infer(both.model, "1", port, both.row, 20)
    time.sleep(2.5)  # more than a flush
    frame = PredictionLog(both.served.home.predictions).read(both.model, began, time.time() + 60)
    assert len(frame) == 0


def test_the_server_itself_has_no_repository_api_and_listens_on_loopback_only(both: Kit) -> None:
    """DEMAND SRV-2: nobody loads or unloads a model behind the backend's back."""
    import psutil

    for path in ("/v2/repository/index", f"/v2/repository/models/{both.model}/unload"):
        connection = http.client.HTTPConnection("127.0.0.1", _port(both, "1"), timeout=10)
        connection.request("POST", path, "{}", {"Content-Type": "application/json"})
        assert connection.getresponse().status == 404
        connection.close()
    process = psutil.Process(both.served.pid(f"wt-{both.model}-1"))
    listening = {tuple(c.laddr) for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", _port(both, "1"))}


def _port(kit: Kit, version: str) -> int:
    from windtunnel.serving import desired

    return desired.StateFile(kit.served.home, kit.model).read().servers[version].port
