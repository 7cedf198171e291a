"""The real router before stub servers: exact weights, sticky users, limits, what it lets in (DEMAND SRV-3, SRV-4)."""

from __future__ import annotations

import json
import stat
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from windtunnel.home import Home
from windtunnel.serving import routing
from windtunnel.serving.local import envoy
from windtunnel.serving.routing import ModelRoute

pytestmark = pytest.mark.real


Front = Any  # tests/serving/router/conftest.py


@pytest.mark.parametrize("weight", [5, 50])
def test_weights_are_exact_over_ten_thousand_requests(front: Front, weight: int) -> None:
    front.split(v1=100 - weight, v2=weight)
    answers = Counter(front.send([""] * 10_000))
    assert set(answers) <= {(200, "1"), (200, "2")}
    assert sum(answers.values()) == 10_000
    # Wrong once in a million runs if the weight is exact; sure to fail if it is off by two percent points.
    assert binomtest(answers[200, "2"], 10_000, weight / 100).pvalue > 1e-6


def test_a_sticky_user_stays_and_a_change_moves_only_the_users_it_must(front: Front) -> None:
    users = [f"x-user: {n}" for n in range(3000)]
    front.split(sticky="x-user", v1=95, v2=5)
    first = front.send(users)
    assert front.send(users) == first
    assert 0.03 < sum(version == "2" for _, version in first) / 3000 < 0.07
    front.split(sticky="x-user", v1=75, v2=25)
    second = front.send(users)
    moves = Counter((a[1], b[1]) for a, b in zip(first, second, strict=True))
    assert moves["2", "1"] == 0, "nobody leaves an arm that grows"
    assert 0.16 < moves["1", "2"] / 3000 < 0.24
    front.split(sticky="x-user", v1=95, v2=5)
    assert front.send(users) == first, "back at the old weights everybody is where they were"


def test_without_the_sticky_header_requests_are_spread(front: Front) -> None:
    front.split(sticky="x-user", v1=50, v2=50)
    share = Counter(version for _, version in front.send([""] * 1000))
    assert 400 < share["2"] < 600


def test_weight_changes_under_load_fail_no_request(front: Front) -> None:
    answers: Counter[tuple[int, str]] = Counter()
    stop = threading.Event()

    def load() -> None:
        mine: Counter[tuple[int, str]] = Counter()
        while not stop.is_set():
            mine.update(front.send([""] * 50))
        answers.update(mine)

    clients = [threading.Thread(target=load) for _ in range(2)]
    for client in clients:
        client.start()
    for step in range(50):
        front.split(**{"v1": 100 - 2 * step, "v2": 2 * step})
    stop.set()
    for client in clients:
        client.join()
    assert sum(answers.values()) > 500
    assert {status for status, _ in answers} == {200}, answers


def test_a_dead_server_is_503_of_its_own_version_and_nobody_elses(front: Front) -> None:
    front.split(v1=50, v9=50)
    answers = Counter(front.send([""] * 400))
    assert set(answers) == {(200, "1"), (503, "9")}, "not retried on the other arm"
    assert 140 < answers[503, "9"] < 260
    front.split(v9=100)
    status, headers, body = front.ask("POST", "/v2/models/m/infer", body=b"{}")
    assert (status, headers["retry-after"], headers["content-type"]) == (503, "1", "application/json")
    assert json.loads(body)["request_id"] == headers["x-request-id"]


def test_beyond_concurrency_and_queue_the_answer_is_503_with_retry_after(front: Front) -> None:
    front.upstreams(max_concurrency=1, queue=2)
    front.stub(1).delay = 0.5
    answers: list[tuple[int, dict[str, str], bytes]] = []

    def one() -> None:
        answers.append(front.ask("POST", "/v2/models/m/infer", body=b"{}"))

    clients = [threading.Thread(target=one) for _ in range(12)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    refused = [(headers, body) for status, headers, body in answers if status == 503]
    assert Counter(status for status, *_ in answers).keys() == {200, 503}
    assert len(refused) == 12 - 3, "one in flight, two wait"
    for headers, body in refused:
        assert headers["retry-after"] == "1"
        assert headers["x-windtunnel-version"] == "1"
        assert "Retry-After" in json.loads(body)["error"]
    front.stub(1).delay = 0.0
    assert front.send([""]) == [(200, "1")], "and then it goes on"


def test_a_server_that_hangs_is_504_after_the_timeout(front: Front) -> None:
    front.split(timeout_s=0.3, v1=100)
    front.stub(1).delay = 30.0
    began = time.monotonic()
    status, headers, body = front.ask("POST", "/v2/models/m/infer", body=b"{}")
    assert status == 504
    assert headers["x-windtunnel-version"] == "1"
    assert "in time" in json.loads(body)["error"]
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v2/models/m/infer", 200),
        ("POST", "/v2/models/m/infer?x=1", 200),
        ("GET", "/v2/models/m/ready", 200),
        ("GET", "/v2/health/ready", 200),
        ("POST", "/v2/models/off/infer", 503),
        ("GET", "/v2/models/off/ready", 503),
        ("GET", "/v2/models/m/infer", 404),
        ("POST", "/v2/models/m/ready", 404),
        ("GET", "/v2/models/m", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/m/versions/2/infer", 404),
        ("POST", "/v2/repository/index", 404),
        ("POST", "/v2/repository/models/m/unload", 404),
        ("POST", "/v2/models/m/infer/../../../repository/index", 404),
        ("POST", "/v2/models/m/%2e%2e/%2e%2e/repository/index", 404),
        ("POST", "//v2/repository/index", 404),
        ("POST", "/v2/models/m/..%2f..%2frepository%2findex", 400),
        ("GET", "/metrics", 404),
        ("GET", "/", 404),
    ],
)
def test_only_inference_and_readiness_pass(front: Front, method: str, path: str, expected: int) -> None:
    assert front.ask(method, path)[0] == expected


def test_a_body_beyond_the_limit_is_413(front: Front) -> None:
    status, *_ = front.ask("POST", "/v2/models/m/infer", body=b" " * (envoy.MAX_BODY + 1))
    assert status == 413


def test_ids_and_versions_are_the_routers_own(front: Front) -> None:
    """A client can neither choose the request id that joins the logs nor pass for a probe or another version."""
    sent = ("x-request-id: mine", "x-windtunnel-version: 9", "x-windtunnel-probe: 1", "x-correlation-id: c-1")
    status, headers, body = front.ask("POST", "/v2/models/m/infer", *sent, body=b"{}")
    seen = json.loads(body)
    assert status == 200
    assert headers["x-windtunnel-version"] == seen["x-windtunnel-version"] == "1"
    assert headers["x-request-id"] == seen["x-request-id"] != "mine"
    assert seen["x-correlation-id"] == "c-1"
    assert "x-windtunnel-probe" not in seen
    again = front.ask("POST", "/v2/models/m/infer", *sent, body=b"{}")
    assert again[1]["x-request-id"] != headers["x-request-id"]


def test_the_access_log_has_one_line_per_inference_with_the_arm_it_took(front: Front) -> None:
    front.split(v2=100)
    _, headers, _ = front.ask("POST", "/v2/models/m/infer", "x-correlation-id: c-2", body=b"{}")
    front.ask("GET", "/v2/models/m/ready")
    front.split(v9=100)
    _, failed, _ = front.ask("POST", "/v2/models/m/infer", body=b"{}")
    front.ask("POST", "/v2/models/off/infer", body=b"{}")
    wanted = {headers["x-request-id"], failed["x-request-id"]}
    deadline, found = time.monotonic() + 3, {}
    while not wanted <= found.keys() and time.monotonic() < deadline:
        lines = [json.loads(line) for line in front.home.access_log.read_text().splitlines()]
        found = {line["request_id"]: line for line in lines}
        time.sleep(0.1)
    good, bad = found[headers["x-request-id"]], found[failed["x-request-id"]]
    assert (good["model"], good["version"], good["cluster"], good["status"]) == ("m", "2", "m.v2", 200)
    assert (good["method"], good["path"], good["route"]) == ("POST", "/v2/models/m/infer", "infer:m")
    assert (good["response_flags"], good["correlation_id"], good["bytes_in"]) == ("-", "c-2", 2)
    assert abs(int(good["time"]) / 1000 - time.time()) < 30
    assert 0 < good["duration_us"] < 5e6
    assert (bad["version"], bad["status"], bad["response_flags"]) == ("9", 503, "UF")
    assert not [line for line in found.values() if line["path"].endswith("/ready")]
    assert {line["model"] for line in found.values() if line["route"] == "infer:off"} == {None}


def test_admin_is_a_private_socket(front: Front) -> None:
    path = envoy.admin_socket(front.home)
    mode = path.lstat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_configuration_envoy_rejects_is_an_error_and_the_old_one_stays(front: Front) -> None:
    front.split(v1=100)
    before = front.router.weights()
    bad = routing.routes([ModelRoute("m", front.slots, -1.0)])
    front.router.write_routes(bad)
    from windtunnel.errors import ServingError

    with pytest.raises(ServingError, match="did not take the new routes"):
        front.router.await_routes(1.0)
    assert front.router.weights() == before
    assert front.send([""]) == [(200, "1")]


def test_a_long_home_gets_a_short_socket(tmp_path: Path) -> None:
    home = Home(tmp_path / ("x" * 120))
    path = envoy.admin_socket(home)
    assert len(str(path)) < 100
    assert path == envoy.admin_socket(Home(home.root))
    assert path != envoy.admin_socket(Home(tmp_path / ("y" * 120)))


def test_bootstrap_keeps_what_is_routed(tmp_path: Path) -> None:
    """After a power cut the files hold the traffic."""
    home = Home(tmp_path / "home")
    envoy.bootstrap(home, 18000)
    routes = routing.routes([ModelRoute("m", ("1",) * 100)])
    envoy.Router(home).write_routes(routes)
    envoy.bootstrap(home, 18001)
    assert json.loads((envoy.folder(home) / "rds.json").read_text()) == routes
    listener = json.loads((envoy.folder(home) / "bootstrap.json").read_text())["static_resources"]["listeners"][0]
    assert listener["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 18001}
