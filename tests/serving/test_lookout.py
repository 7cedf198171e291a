"""What a look finds: segments, copies, the served content, figures and functions of a team's own."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from windtunnel.errors import FencedError, UnavailableError
from windtunnel.home import Home
from windtunnel.rollout import Evidence, Plan, RolloutState
from windtunnel.serving.backend import ArmStatus, ArmTraffic, Observed, Traffic
from windtunnel.serving.predictions import publish
from windtunnel.serving.predictions.labels import Labels
from windtunnel.serving.release import lookout, rows, values
from windtunnel.serving.release.lookout import Watch
from windtunnel.serving.release.values import Context, Functions, Value, values_of
from windtunnel.spec import Rollout
from windtunnel.stats.histogram import Histogram, bucket

MODEL = "visits"
START = float(round(time.time()) - 600)


def arm(n: int, bad: int = 0) -> ArmTraffic:
    return ArmTraffic(n, bad, 0, Histogram.from_dict({str(bucket(5.0)): n} if n else {}))


class Backend:
    """What a router would say."""

    traffic_: Traffic | None = Traffic(MODEL, "e", START, {"1": arm(90), "2": arm(10)})
    token = 7

    def observe(self, model: str) -> Observed:
        arms = {"1": ArmStatus("1", 90, True, "ready"), "2": ArmStatus("2", 10, True, "ready")}
        return Observed(model, arms, self.token, "r", None, None, mirror=20)

    problems: tuple[str, ...] = ()

    def check_target(self, model: str) -> list[str]:
        return list(self.problems)

    def traffic(self, model: str) -> Traffic:
        if self.traffic_ is None:
            raise UnavailableError("the meter is dead")
        return self.traffic_


def watch(home: Home, **rollout: Any) -> Watch:
    told = Rollout.model_validate(rollout)
    plan = Plan.from_spec(told, False)
    return Watch(
        home=str(home.root), model=MODEL, version="2", champion="1", rollout_id=f"r-{home.root.name}", token=7,
        plan=plan.to_dict(), step=0, lease_s=30.0, digest="sha256:two",
        values=[value.to_dict() for value in values_of(told, plan)],
    )  # fmt: skip


def gather(home: Home, seen: Watch, backend: Backend | None = None) -> Evidence:
    state = RolloutState.begin(champion="1", candidate="2", at=START)
    return lookout.gather(home, Watch.from_dict(json.loads(json.dumps(seen.to_dict()))), backend or Backend(), state)  # type: ignore[arg-type]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    copy = made.serving_model(MODEL) / "versions" / "2"
    (copy / "model").mkdir(parents=True)
    (copy / "manifest.json").write_text(json.dumps({"content": "sha256:two", "files": {}}))
    rows._known.clear()
    lookout._digests.clear()
    yield made
    rows._known.clear()


def log_rows(home: Home, version: str, count: int, *, at: float = START + 1) -> list[str]:
    """``count`` answers, in a file of their own."""
    number = len(list(home.predictions.rglob("*.parquet")))
    ids = [f"{version}-{number}-{n}" for n in range(count)]
    table = pa.table(
        {
            "prediction_id": ids,
            "time": pa.array([round((at + n / 1000) * 1e6) for n in range(count)], pa.timestamp("us", tz="UTC")),
            "version": [version] * count,
            "error": pa.nulls(count, pa.string()),
            "shadow": pa.array([False] * count, pa.bool_()),
            "prediction": [float(n % 7) for n in range(count)],
        }
    )
    publish.publish(home.predictions, MODEL, f"{version}-0-{number:06d}", [table])
    return ids


# -- the router


def test_a_candidate_whose_servers_are_all_gone_is_told_where_users_meet_it(home: Home) -> None:
    backend = Backend()
    for weight, state, down in ((10, "ready", False), (10, "loading", False), (10, "down", True), (0, "down", False)):
        arms = {"2": ArmStatus("2", weight, state == "ready", state)}
        backend.observe = lambda model, arms=arms: replace(Backend().observe(model), arms=arms)  # type: ignore[method-assign,misc]
        found = gather(home, watch(home), backend)
        assert (found.down, Evidence.from_dict(json.loads(json.dumps(found.to_dict()))).down) == (down, down)


def test_testers_are_counted_apart(home: Home) -> None:
    """DEMAND ROL-10, ROL-14: what testers ask of the candidate is told, and is in neither arm."""
    backend = Backend()
    backend.traffic_ = replace(Backend.traffic_, audience={"2": arm(7, 7)})  # type: ignore[type-var]
    found = gather(home, watch(home), backend)
    assert found.traffic is not None and found.traffic.arms["2"].requests == 10
    assert found.testers is not None and (found.testers.requests, found.testers.errors) == (7, 7)
    assert gather(home, watch(home)).testers is None


def test_a_look_takes_what_is_known_of_the_way_back_and_never_waits(home: Home) -> None:
    """DEMAND ROL-12: the check goes on for as long as it takes; the look does not."""
    go_on, backend = threading.Event(), Backend()

    def slow(model: str) -> list[str]:
        go_on.wait(60)
        return [f"{model} version 1: its server is not ready"]

    backend.check_target = slow  # type: ignore[method-assign]
    seen = watch(home)
    assert gather(home, seen, backend).no_way_back is None
    go_on.set()
    deadline = time.monotonic() + 60
    while (found := gather(home, seen, backend).no_way_back) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found == "visits version 1: its server is not ready"


def test_both_arms_and_the_router_as_it_is(home: Home) -> None:
    found = gather(home, watch(home))
    assert (found.observed_weight, found.observed_mirror, found.ready, found.digest_ok) == (10, 20, True, True)
    assert found.traffic is not None
    assert {version: one.requests for version, one in found.traffic.arms.items()} == {"1": 90, "2": 10}
    assert found.segments == {}
    assert (found.values, found.values_error) == ({}, {})


def test_a_dead_source_is_unknown_and_not_nothing(home: Home) -> None:
    """DEMAND ROL-3"""
    dead = Backend()
    dead.traffic_ = None
    found = gather(home, watch(home, segments={"values": ["eu"]}), dead)
    assert found.traffic is None
    assert found.traffic_error == "the meter is dead"
    assert found.segments == {}


def test_another_holder_ends_it(home: Home) -> None:
    """DEMAND ROL-7"""
    other = Backend()
    other.token = 8
    with pytest.raises(FencedError, match="token 8"):
        gather(home, watch(home), other)


def test_each_declared_segment_has_its_counters(home: Home) -> None:
    """A segment nobody has called yet has zeros; one that is not judged is left out."""
    backend = Backend()
    backend.traffic_ = replace(backend.traffic_, segments={"eu": {"1": arm(50), "2": arm(5, 1)}, "moon": {"1": arm(1)}})  # type: ignore[type-var]
    found = gather(home, watch(home, segments={"values": ["eu", "us"]}), backend)
    assert set(found.segments) == {"eu", "us"}
    assert (found.segments["eu"].arms["2"].requests, found.segments["eu"].arms["2"].errors) == (5, 1)
    assert found.segments["us"].arms == {}
    assert {(one.epoch, one.at) for one in found.segments.values()} == {("e", START)}
    assert Evidence.from_dict(found.to_dict()).to_dict() == found.to_dict()


def test_copied_requests_are_the_candidates_where_the_plan_copies(home: Home) -> None:
    backend = Backend()
    backend.traffic_ = Traffic(
        MODEL, "e", START, {"1": arm(90)}, shadow={"2": arm(40, 2)}, segments={"eu": {"1": arm(30)}},
        shadow_segments={"eu": {"2": arm(8)}},
    )  # fmt: skip
    seen = watch(home, strategy="shadow", segments={"values": ["eu"]})
    found = gather(home, seen, backend)
    assert found.traffic is not None
    assert (found.traffic.arms["2"].requests, found.traffic.arms["2"].errors) == (40, 2)
    assert found.traffic.arms["2"].latency.total == 40
    assert found.segments["eu"].arms["2"].requests == 8
    # Real requests of a later step come on top: counters never go back.
    backend.traffic_ = replace(backend.traffic_, arms={"1": arm(95), "2": arm(5, 1)})
    later = gather(home, seen, backend)
    assert later.traffic is not None
    assert (later.traffic.arms["2"].requests, later.traffic.arms["2"].errors) == (45, 3)
    plain = gather(home, watch(home), backend)
    assert plain.traffic is not None
    assert plain.traffic.arms["2"].requests == 5


def test_the_content_is_read_again_when_it_was_written_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEMAND ROL-3: a version that changed under us; and a look does not read the manifest each time."""
    from windtunnel.serving.artifacts import Folder

    reads: list[Path] = []
    real = Folder.digest
    monkeypatch.setattr(Folder, "digest", lambda self: (reads.append(self.path), real(self))[1])
    seen = watch(home)
    assert [gather(home, seen).digest_ok for _ in range(5)] == [True] * 5
    assert len(reads) == 1
    folder = Folder.of(home, MODEL, "2")
    folder.manifest_file.write_text(json.dumps({"content": "sha256:other", "files": {}}))
    assert gather(home, seen).digest_ok is False
    folder.manifest_file.unlink()
    assert gather(home, seen).digest_ok is None
    folder.manifest_file.write_text(json.dumps({"content": "sha256:two", "files": {}}))
    assert gather(home, seen).digest_ok is True
    (folder.path / "model").rmdir()
    assert gather(home, seen).digest_ok is None


# -- figures

REVENUE = {"metric": "value", "figure": "revenue", "margin": 1.0, "low": 0.0, "high": 50.0}


def told(home: Home, ids: list[str], figures: list[float], *, revision: int = 0) -> None:
    moment = time.time()
    sent = [
        {"prediction_id": one, "label": figure, "label_time": moment, "revision": revision}
        for one, figure in zip(ids, figures, strict=True)
    ]
    Labels(home.labels).append(MODEL, sent, figure="revenue")


def test_a_figure_joined_by_prediction_id_is_a_gates_value(home: Home) -> None:
    """DEMAND MON-12, ROL-2: late, partial and corrected figures, as losses between 0 and 1."""
    seen = watch(home, gates=[REVENUE])
    first, second = log_rows(home, "1", 4), log_rows(home, "2", 3)
    assert gather(home, seen).values == {}  # nothing is known yet: no number, no error
    told(home, first, [50.0, 0.0, 25.0, 80.0])
    told(home, second[:1], [10.0])  # the candidate's come late, and partly
    numbers = gather(home, seen).values["revenue"]
    assert (numbers.champion.n, numbers.candidate.n, numbers.bound) == (4, 1, 1.0)
    assert numbers.champion.total == pytest.approx(0 + 1 + 0.5 + 0)  # 80 counts as the bound, 50
    assert numbers.candidate.total == pytest.approx(0.8)
    told(home, second[:1], [50.0], revision=1)
    numbers = gather(home, seen).values["revenue"]
    assert (numbers.candidate.n, numbers.candidate.total) == (1, 0.0)


def test_a_late_arm_does_not_move_its_gate(home: Home) -> None:
    """Figures that arrive for one arm only prove nothing yet, and nothing wrong later (both arms, one window)."""
    from windtunnel.rollout import decide

    seen = watch(home, gates=[{**REVENUE, "required": False}])
    plan = Plan.from_dict(seen.plan)
    champion, candidate = log_rows(home, "1", 400), log_rows(home, "2", 400)
    told(home, champion, [20.0 + n % 10 for n in range(400)])
    state = RolloutState.begin(champion="1", candidate="2", at=START)
    evidence = lookout.gather(home, seen, Backend(), state)  # type: ignore[arg-type]
    decision = decide(plan, state, evidence, START + 10)
    gate = decision.numbers["gates"]["revenue"]
    assert (gate["candidate"]["n"], gate["harm"], gate["non_inferior"]) == (0, False, False)
    told(home, candidate, [20.0 + n % 10 for n in range(400)])
    evidence = lookout.gather(home, seen, Backend(), decision.state)  # type: ignore[arg-type]
    decision = decide(plan, decision.state, evidence, START + 20)
    gate = decision.numbers["gates"]["revenue"]
    assert (gate["champion"]["n"], gate["candidate"]["n"], gate["harm"]) == (400, 400, False)
    assert gate["difference"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_candidate_that_earns_less_is_rolled_back(home: Home, better: str) -> None:
    """DEMAND MON-12, ROL-2: the whole way from figures to the decision."""
    from windtunnel.rollout import decide

    seen = watch(home, gates=[{**REVENUE, "better": better}])
    dice = np.random.default_rng(4)
    good, bad = (30.0, 15.0) if better == "higher" else (15.0, 30.0)
    state = RolloutState.begin(champion="1", candidate="2", at=START)
    for n in range(30):
        for version, mean in (("1", good), ("2", bad)):
            ids = log_rows(home, version, 40, at=START + n)
            told(home, ids, (mean + dice.normal(0, 8, 40)).tolist())
        evidence = lookout.gather(home, seen, Backend(), state)  # type: ignore[arg-type]
        decision = decide(Plan.from_dict(seen.plan), state, evidence, START + n)
        state = decision.state
        if decision.ends:
            break
    assert (decision.action, decision.outcome) == ("roll_back", "FAIL")
    assert "revenue" in decision.reason
    assert n < 15


# -- functions of a team's own


@pytest.fixture
def team(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module ``wt_team`` as a team would have it."""
    module = ModuleType("wt_team")
    monkeypatch.setitem(sys.modules, "wt_team", module)
    monkeypatch.setattr(values, "functions", Functions())
    return module


MINE = {"metric": "value", "source": "wt_team:basket", "margin": 0.5, "low": 0.0, "high": 10.0, "better": "lower"}


def test_a_function_is_told_the_window_and_its_values_are_judged(home: Home, team: ModuleType) -> None:
    """DEMAND MON-12: both shapes of answer; NaN is counted apart."""
    asked: list[Context] = []

    def basket(context: Context) -> Any:
        asked.append(context)
        return np.array([1.0, 2.0, 30.0]), [5.0, float("nan")]

    team.basket = basket  # type: ignore[attr-defined]
    seen = watch(home, gates=[MINE])
    numbers = gather(home, seen).values["basket"]
    assert (numbers.champion.n, numbers.champion.total) == (3, pytest.approx(0.1 + 0.2 + 1.0))
    assert (numbers.candidate.n, numbers.candidate.invalid, numbers.candidate.total) == (1, 1, pytest.approx(0.5))
    (context,) = asked
    assert (context.model, context.champion, context.candidate, context.start) == (MODEL, "1", "2", START)
    assert abs(context.end - time.time()) < 10
    assert context.home == home
    for returned in ({"champion": [1.0], "candidate": [2.0]}, {"1": [1.0], "2": [2.0]}):
        team.basket = lambda context, r=returned: r  # type: ignore[attr-defined]
        assert gather(home, seen).values["basket"].candidate.total == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("returns", "says"),
    [
        (ZeroDivisionError("by zero"), "wt_team:basket raised ZeroDivisionError: by zero"),
        (SystemExit(3), "raised SystemExit: 3"),
        (None, "returned NoneType, expected two arrays"),
        ({"champion": [1.0]}, r"keys \['champion'\], expected"),
        (([1.0], ["much"]), "are no numbers"),
        (([[1.0]], [1.0]), r"shape \(1, 1\)"),
    ],
)
def test_a_function_that_fails_makes_its_gate_silent(home: Home, team: ModuleType, returns: Any, says: str) -> None:
    """DEMAND ROL-3: with its own words, and never a pass."""

    def basket(context: Context) -> Any:
        if isinstance(returns, BaseException):
            raise returns
        return returns

    team.basket = basket  # type: ignore[attr-defined]
    found = gather(home, watch(home, gates=[MINE]))
    assert found.values == {}
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(found.values_error["basket"])


def test_a_function_that_is_not_there_is_named(home: Home) -> None:
    found = gather(home, watch(home, gates=[{**MINE, "source": "wt_nowhere:basket"}]))
    assert "cannot import wt_nowhere" in found.values_error["basket"]


def test_a_slow_function_is_met_at_a_later_look(home: Home, team: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs holds up its own gate and nothing else, and is not called again and again."""
    go, calls = threading.Event(), []

    def basket(context: Context) -> Any:
        calls.append(context)
        go.wait(90)
        return [1.0], [2.0]

    team.basket = basket  # type: ignore[attr-defined]
    monkeypatch.setattr(values, "WAIT_S", 0.05)
    seen = watch(home, gates=[MINE])
    for _ in range(3):
        found = gather(home, seen)
        assert "has not returned after" in found.values_error["basket"]
        assert found.traffic is not None
    monkeypatch.setattr(values, "LIMIT_S", 0.0)
    assert "hangs: it must return within 0 s" in gather(home, seen).values_error["basket"]
    assert len(calls) == 1
    go.set()
    next(thread for thread in threading.enumerate() if thread.name == "value-basket").join(90)
    assert gather(home, seen).values["basket"].candidate.n == 1
    assert len(calls) == 1


def test_values_are_named_as_in_the_plan() -> None:
    told = Rollout.model_validate({"gates": [REVENUE, {"metric": "errors", "margin": 0.01}, REVENUE, MINE]})
    plan = Plan.from_spec(told, False)
    assert [value.gate for value in values_of(told, plan)] == ["revenue", "revenue_2", "basket"]
    assert [value.figure for value in values_of(told, plan)] == ["revenue", "revenue", None]
    assert values_of(told, Plan.from_spec(told, True)) == []


@pytest.mark.parametrize(
    ("better", "expected"), [("higher", [1.0, 0.5, 0.0, 0.0, 1.0]), ("lower", [0.0, 0.5, 1.0, 1.0, 0.0])]
)
def test_values_as_losses(better: Any, expected: list[float]) -> None:
    value = Value("v", "v", None, -10.0, 10.0, better)
    assert values.losses(value, [-10.0, 0.0, 10.0, float("inf"), -99.0]).tolist() == expected
    assert np.isnan(values.losses(value, [float("nan")])[0])
