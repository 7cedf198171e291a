"""Counters from Prometheus: what the wire may say, and many processes' counters as one that only grows (ROL-3)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import DescriptionError, UnavailableError
from windtunnel.serving.traffic.promcounters import Accumulator, Sample
from windtunnel.serving.traffic.prometheus import ENVOY, SELDON, SELDON_CORE2, Names, PrometheusTraffic, histogram
from windtunnel.stats.histogram import BOUNDS

NOW = 1_800_000_000.0
REQUESTS, BUCKETS = SELDON.requests, SELDON.buckets


def row(value: float | str, at: float = NOW, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "value": [at, str(value)]}


def pod(version: str, ok: float, bad: float = 0, *, instance: str = "", scraped: float = NOW - 5) -> list[Any]:
    """What one pod of a version says."""
    said, common = [], {"instance": instance or f"pod-{version}", "predictor_name": f"v{version}"}
    for code, n in (("200", ok), ("500", bad)):
        said.append(row(n, __name__=REQUESTS, code=code, **common))
        said.append(row(scraped, wt="at", code=code, **common))
        for le, share in (("0.025", 0.5), ("0.05", 0.9), ("+Inf", 1.0)):
            said.append(row(n * share // 1, __name__=BUCKETS, code=code, le=le, **common))
    return said


class Wire:
    """A Prometheus that says what a test wants."""

    def __init__(self, rows: list[Any], **more: Any) -> None:
        self.rows, self.more = rows, more
        self.asked: list[dict[str, list[str]]] = []
        self.headers: list[httpx.Headers] = []
        self.earlier: list[Any] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/prom/api/v1/query")
        self.asked.append(parse_qs(request.content.decode()))
        self.headers.append(request.headers)
        rows = self.earlier if "time" in self.asked[-1] else self.rows
        body = {"status": "success", "data": {"resultType": "vector", "result": rows}, **self.more.get("body", {})}
        return httpx.Response(self.more.get("code", 200), content=self.more.get("raw", json.dumps(body)))


def source(wire: Any, names: Names = SELDON, **options: Any) -> PrometheusTraffic:
    client = httpx.Client(transport=httpx.MockTransport(wire))
    return PrometheusTraffic("http://prometheus:9090/prom/", names, client=client, **options)


def test_both_arms_from_one_query_at_one_instant() -> None:
    """DEMAND ROL-2"""
    wire = Wire([*pod("3", 90, 10, scraped=NOW - 12), *pod("4", 20, 1), row(1, wt="down", instance="elsewhere")])
    found = source(wire).traffic("visits")
    assert len(wire.asked) == 1
    assert 'deployment_name="visits"' in wire.asked[0]["query"][0]
    assert (found.model, found.at) == ("visits", NOW - 12)  # the older of the two arms' scrapes
    three, four = found.arms["3"], found.arms["4"]
    assert (three.requests, three.errors, three.client_errors) == (100, 10, 0)
    assert (four.requests, four.errors) == (21, 1)
    assert three.latency.total == 100
    assert three.latency.above(50.0) == 10
    assert three.latency.quantile(0.5) == pytest.approx(25, rel=0.1)


@pytest.mark.parametrize(
    ("wire", "says"),
    [
        (Wire([]), r"no series of model 'visits' .*deployment_name=\"visits\""),
        (Wire([row(1, wt="down", instance="x")]), "no series"),
        (Wire(pod("3", math.nan)), "is nan"),
        (Wire(pod("3", 1), body={"status": "error", "error": "query timed out"}), "query timed out"),
        (Wire(pod("3", 1), body={"warnings": ["store gateway is down"]}), "in part: store gateway is down"),
        (Wire(pod("3", 1), body={"data": {"resultType": "scalar", "result": [1, "2"]}}), "expected a vector"),
        (Wire(pod("3", 1), body={"data": None}), "cannot be understood"),
        (Wire([], code=503, body={"error": "starting"}), "answered 503: starting"),
        (Wire([], code=502, raw="<html>bad gateway</html>"), "502 and no JSON"),
        (Wire(pod("3", 1, scraped=NOW - 90)), "are 90 s old, at most 60 s"),
        (Wire([*pod("3", 1), *pod("4", 1, scraped=NOW - 90)]), "are 90 s old"),
        (Wire([row(1, __name__=REQUESTS, code="999", predictor_name="3", instance="i")]), "no HTTP or gRPC status"),
        (Wire([row(1, __name__=BUCKETS, le="fast", predictor_name="3", instance="i")]), "le='fast'"),
    ],
)
def test_a_dead_source_is_never_an_empty_answer(wire: Wire, says: str) -> None:
    """DEMAND ROL-3"""
    with pytest.raises(UnavailableError, match=says):
        source(wire).traffic("visits")


@pytest.mark.parametrize(
    ("one", "other", "twice"),
    [
        ({"job": "pods"}, {"job": "models/windtunnel"}, True),
        ({"prometheus_replica": "a"}, {"prometheus_replica": "b"}, True),  # of a pair, asked as one
        ({"job": "a", "kubernetes_pod_name": "x"}, {"job": "b", "pod": "x"}, True),
        ({"pod": "x"}, {"pod": "y"}, False),  # an address that another pod has by now
        ({"exported_method": "post"}, {"exported_method": "get"}, False),
    ],
)
def test_a_request_counts_once(one: dict[str, str], other: dict[str, str], twice: bool) -> None:
    """DEMAND ROL-4: a bank's own job scrapes Seldon's pods already; with ours each request would be two."""

    def both(names: Names, **own: str) -> list[Any]:
        said = {"__name__": names.requests, "instance": "10.0.0.7:8000", "code": "200", **own}
        return [row(50, **said, **one), row(50, **said, **other), row(NOW - 5, wt="at", **said)]

    for names, own in ((SELDON, {"predictor_name": "v3"}), (SELDON_CORE2, {"server": "visits-v3"})):
        reader = source(Wire(both(names, **own)), names)
        if twice:
            with pytest.raises(UnavailableError, match=r"is counted twice .*instance=10\.0\.0\.7:8000 are there with"):
                reader.traffic("visits")
        else:
            assert reader.traffic("visits").arms["3"].requests == 100


def test_nobody_listening() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(UnavailableError, match=r"does not answer.*refused"):
        source(refuse).traffic("visits")
    with pytest.raises(UnavailableError, match="does not answer"):
        PrometheusTraffic("http://127.0.0.1:1").traffic("visits")


def test_a_name_cannot_leave_its_place_in_the_query() -> None:
    wire = Wire(pod("3", 1))
    with pytest.raises(DescriptionError):
        source(wire).traffic('x"} or up{a="')
    assert wire.asked == []


def test_a_version_that_vanishes_is_not_a_version_nobody_calls() -> None:
    """DEMAND ROL-3: and long after, it was removed."""
    wire = Wire([*pod("3", 10), *pod("4", 5)])
    reader = source(wire)
    reader.traffic("visits")
    wire.rows = pod("3", 20)
    with pytest.raises(UnavailableError, match=r"the series of version 4 .* are gone"):
        reader.traffic("visits")
    wire.rows = [row(r["value"][1], NOW + 400, **r["metric"]) for r in pod("3", 30, scraped=NOW + 395)]
    found = reader.traffic("visits")
    assert (found.arms["3"].requests, found.arms["4"].requests) == (30, 5)


def test_a_process_that_cannot_be_scraped_leaves_its_requests_unknown() -> None:
    """DEMAND ROL-3: the pod that fails may be the one that does not answer."""
    wire = Wire([*pod("4", 5, instance="a"), *pod("4", 5, instance="b")])
    reader = source(wire)
    reader.traffic("visits")
    wire.rows = [*pod("4", 6, instance="a"), row(0, wt="down", instance="b")]
    with pytest.raises(UnavailableError, match="b cannot be scraped"):
        reader.traffic("visits")
    wire.rows = [*pod("4", 7, instance="a"), *pod("4", 50, 40, instance="b")]
    found = reader.traffic("visits")
    assert (found.arms["4"].requests, found.arms["4"].errors) == (97, 40)  # counted when it is back


def test_a_reset_begins_an_epoch_and_never_takes_anything_back() -> None:
    wire = Wire([*pod("3", 100), *pod("4", 50, 5)])
    reader = source(wire)
    first = reader.traffic("visits")
    wire.rows = [*pod("3", 110), *pod("4", 3)]
    second = reader.traffic("visits")
    assert first.epoch != second.epoch
    assert second.arms["4"].requests == 58
    wire.rows = [*pod("3", 120), *pod("4", 9)]
    third = reader.traffic("visits")
    assert (third.epoch, third.arms["4"].requests, third.arms["3"].requests) == (second.epoch, 64, 120)


def test_a_restart_that_counted_further_than_before_is_seen_by_its_start() -> None:
    began = row(NOW - 1000, wt="start", instance="pod-4")
    wire = Wire([*pod("4", 10), began])
    reader = source(wire)
    first = reader.traffic("visits")
    wire.rows = [*pod("4", 40), row(NOW - 3, wt="start", instance="pod-4")]
    second = reader.traffic("visits")
    assert first.epoch != second.epoch
    assert second.arms["4"].requests == 50


def test_a_pod_that_comes_counts_from_zero_or_from_what_it_had() -> None:
    """A sum over pods would jump; users made no such jump."""
    wire = Wire(pod("3", 100))
    reader = source(wire)
    first = reader.traffic("visits")
    wire.rows = [*pod("3", 110), *pod("3", 7, 1, instance="new"), *pod("3", 5000, instance="was-away")]
    wire.earlier = [
        row(r["value"][1], **r["metric"]) for r in pod("3", 4990, instance="was-away") if "wt" not in r["metric"]
    ]
    second = reader.traffic("visits")
    assert second.epoch == first.epoch
    assert (second.arms["3"].requests, second.arms["3"].errors) == (110 + 8 + 10, 1)
    assert second.arms["3"].latency.total == 128
    assert [asked["time"] for asked in wire.asked if "time" in asked] == [[repr(NOW)]]
    wire.rows = [*pod("3", 120), *pod("3", 9, 1, instance="new")]  # a pod that goes keeps what it had
    third = reader.traffic("visits")
    assert (third.epoch, third.arms["3"].requests) == (first.epoch, 120 + 10 + 10)


def test_other_buckets_on_the_other_arm_are_refused() -> None:
    fine = [row(5, __name__=BUCKETS, code="200", le="0.01", predictor_name="4", instance="pod-4")]
    with pytest.raises(UnavailableError, match=r"versions 3, 4 .* different buckets"):
        source(Wire([*pod("3", 10), *pod("4", 10), *fine])).traffic("visits")


def test_memory_is_shared_by_a_folder(tmp_path: Path) -> None:
    """Another process goes on in the same epoch; without a folder it begins its own."""
    wire = Wire([*pod("3", 100), *pod("4", 10)])
    first = source(wire, folder=tmp_path / "memory").traffic("visits")
    wire.rows = [*pod("3", 130), *pod("4", 4)]
    second = source(wire, folder=tmp_path / "memory").traffic("visits")
    wire.rows = [*pod("3", 140), *pod("4", 8)]
    third = source(wire, folder=tmp_path / "memory").traffic("visits")
    assert first.epoch != second.epoch == third.epoch
    assert (third.arms["3"].requests, third.arms["4"].requests) == (140, 18)
    assert source(wire).traffic("visits").epoch != third.epoch
    (tmp_path / "memory" / "visits.prometheus.json").write_text('{"counts": 3}')
    assert source(wire, folder=tmp_path / "memory").traffic("visits").epoch != third.epoch


def test_who_asks_says_who_it_is(tmp_path: Path) -> None:
    wire = Wire(pod("3", 1))
    source(wire, token="s3cret").traffic("visits")
    file = tmp_path / "token"
    file.write_text("first\n")
    reader = source(wire, token_file=file)
    reader.traffic("visits")
    file.write_text("renewed\n")
    reader.traffic("visits")
    assert [h["authorization"] for h in wire.headers] == ["Bearer s3cret", "Bearer first", "Bearer renewed"]
    file.unlink()
    with pytest.raises(UnavailableError, match="does not answer"):
        reader.traffic("visits")


def test_envoys_names() -> None:
    def cluster(name: str, value: float, **labels: str) -> dict[str, Any]:
        return row(value, envoy_cluster_name=name, instance="envoy", **labels)

    wire = Wire(
        [
            cluster("visits/v3", 40, __name__=ENVOY.requests, envoy_response_code_class="2"),
            cluster("visits/v3", 3, __name__=ENVOY.requests, envoy_response_code_class="4"),
            cluster("visits/v3", 2, __name__=ENVOY.requests, envoy_response_code_class="5"),
            cluster("visits/v3", NOW, wt="at", envoy_response_code_class="5"),
            cluster("visits/v3", 44, __name__=ENVOY.buckets, le="25"),
            cluster("visits/v3", 45, __name__=ENVOY.buckets, le="+Inf"),
            cluster("visits_shadow", 9, __name__=ENVOY.requests, envoy_response_code_class="2"),
        ]
    )
    arm = source(wire, ENVOY).traffic("visits").arms["3"]
    assert (arm.requests, arm.errors, arm.client_errors) == (45, 2, 3)
    assert arm.latency.above(30.0) == 1


@pytest.mark.parametrize(
    ("code", "means"),
    [
        ("200", "ok"), ("302", "ok"), ("404", "client"), ("503", "error"), ("2", "ok"), ("5xx", "error"),
        ("0", "error"), ("OK", "ok"), ("InvalidArgument", "client"), ("NOT_FOUND", "client"),
        ("DeadlineExceeded", "error"), ("Unavailable", "error"), ("Internal", "error"), ("", None), ("teapot", None),
    ],
)  # fmt: skip
def test_codes(code: str, means: str | None) -> None:
    assert SELDON.answer(code) == means


# -- buckets


def test_buckets_are_counted_at_their_upper_bound() -> None:
    found = histogram({25.0: 50, 50.0: 90, math.inf: 100})
    assert found.total == 100
    assert found.above(25.0) == 50
    assert found.above(50.0) == 10
    assert found.above(BOUNDS[-1]) == 10
    for quantile, true_bucket in ((0.4, 25.0), (0.8, 50.0)):
        told = found.quantile(quantile)
        assert told is not None
        assert true_bucket <= told <= true_bucket * 1.101
    assert found.quantile(0.99) == math.inf


def test_a_limit_between_two_bounds_is_not_breached_by_rounding() -> None:
    """DEMAND ROL-4: what may be below the limit is counted below; at a bound both ways of counting are exact."""
    below = {25.0: 50.0, 50.0: 90.0, math.inf: 100.0}
    assert histogram(below).above(40.0) == 50
    assert histogram(below, [40.0]).above(40.0) == 10
    assert histogram(below, [40.0]).total == 100
    assert histogram(below, [50.0]) == histogram(below)
    assert histogram(below, [30.0, 40.0]).above(30.0) == 50  # the higher one decides: both cannot be kept


@given(
    st.lists(st.floats(0.01, 200_000), min_size=1, max_size=60),
    st.lists(st.sampled_from([0.5, 1.0, 5.0, 10.0, 25.0, 100.0, 2500.0, 60_000.0]), min_size=1, unique=True),
)
def test_no_quantile_is_too_low_and_bounds_are_exact(latencies: list[float], bounds: list[float]) -> None:
    below = {bound: float(sum(x <= bound for x in latencies)) for bound in [*bounds, math.inf]}
    found = histogram(below)
    assert found.total == len(latencies)
    for quantile in (0.1, 0.5, 0.95, 1.0):
        truth = sorted(latencies)[max(0, math.ceil(quantile * len(latencies)) - 1)]
        told = found.quantile(quantile)
        assert told is not None
        assert told >= truth
    for bound in bounds:
        assert found.above(bound) == sum(x > bound for x in latencies)


# -- many processes as one


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("serve"), st.integers(0, 5), st.integers(0, 50)),
        st.tuples(st.sampled_from(["start", "stop", "hide", "show"]), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("read"), st.just(0), st.just(0)),
    ),
    min_size=5,
    max_size=60,
)


@given(_STEPS, st.booleans())
@settings(max_examples=300, deadline=None)
def test_totals_are_what_users_did_since_the_first_reading(steps: list[tuple[str, int, int]], tells: bool) -> None:
    """Pods come, go, are not scraped for a while and come back: no jump, no reset, nothing lost that was read once.

    A pod's name is never used again, so nothing is ever reset.
    """
    counter = Accumulator("e")
    alive: dict[int, str] = {}
    hidden: set[int] = set()
    value: dict[str, int] = {}  # every pod's own count
    born: dict[str, float] = {}
    at_first: dict[str, int] = {}  # what Prometheus knows each had at the first reading
    read: dict[str, int] = {}  # what each pod had at the last reading that saw it
    known_before: dict[str, int] = {}
    clock, started = 0.0, False
    for what, slot, n in [*steps, ("read", 0, 0)]:
        clock += 10
        if what == "start" and slot not in alive:
            alive[slot] = f"pod-{len(born)}"
            born[alive[slot]], value[alive[slot]] = clock, 0
        elif what == "stop":
            alive.pop(slot, None)
        elif what == "hide":
            hidden.add(slot)
        elif what == "show":
            hidden.discard(slot)
        elif what == "serve" and slot in alive:
            value[alive[slot]] += n
        elif what == "read":
            seen = [pod for slot, pod in alive.items() if slot not in hidden]
            if not started and not seen:
                continue
            if not started:
                # Some were scraped before and are not now: Prometheus remembers them.
                at_first = {pod: value[pod] for pod in alive.values()}
                known_before = {pod: (0 if pod in seen else at_first[pod]) for pod in at_first}
            started = True
            samples = [Sample((("pod", p),), (("instance", p),), ("1", "ok"), float(value[p])) for p in seen]
            starts = {(("instance", pod),): born[pod] for pod in seen} if tells else {}
            earlier = {(("pod", pod),): float(n) for pod, n in at_first.items()}
            before = dict(counter.totals)
            assert not counter.take(samples, starts, clock, earlier if counter.strangers(samples) else {})
            assert all(counter.totals[cell] >= total for cell, total in before.items())
            read |= {pod: value[pod] for pod in seen}
            assert counter.totals.get(("1", "ok"), 0.0) == sum(n - known_before.get(pod, 0) for pod, n in read.items())
            counter = Accumulator.from_dict(json.loads(json.dumps(counter.to_dict())))
    assert counter.name == "e.0"


def test_what_is_long_gone_is_forgotten_and_its_counts_stay() -> None:
    counter = Accumulator("e")
    for n in range(200):
        pod_ = f"pod-{n}"
        counter.take([Sample((("pod", pod_),), (("instance", pod_),), ("1", "ok"), 5.0)], {}, n * 600.0, {})
    assert len(counter.instances) < 10
    assert counter.totals[("1", "ok")] == 1000


def test_core_2_is_read_by_the_servers_of_the_versions() -> None:
    """Each version has a Server of its own; the agent's histogram has no other label of the model."""
    assert SELDON_CORE2.select("visits") == 'server=~"visits-v[0-9a-z]+",method=~"post|grpc"'
    named = {"visits-v3": "3", "visits-late-v3": None, "visits-v": None, "mlserver": None}
    assert {name: SELDON_CORE2.version_of({"server": name}, "visits") for name in named} == named
    answers = {"200": "ok", "400": "client", "502": "error", "OK": "ok", "InvalidArgument": "client"}
    assert {code: SELDON_CORE2.answer(code) for code in answers} == answers
