"""DEMAND ROL-8, ROL-6: gates obey people's orders, through registry outages and restarts of the trigger."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import waiting

from windtunnel.errors import FencedError, UnavailableError
from windtunnel.home import Home
from windtunnel.registry.orders import FreezeRecord, OrderRecord, OrdersPage, Standing, standing
from windtunnel.rollout import Plan, disagreements
from windtunnel.serving.backend import ArmStatus, ArmTraffic, Observed, Traffic
from windtunnel.serving.release.looklog import LookLog
from windtunnel.spec import Rollout
from windtunnel.stats.histogram import Histogram, bucket
from windtunnel_airflow.gatekeeping import Answer, Watch, look
from windtunnel_airflow.orderbook import POLL_S, RELOAD_S, OrderBook
from windtunnel_airflow.policy import held

STEPS = [
    {"weight": 10, "hold": "5s", "min_requests": 5},
    {"weight": 50, "hold": "5s", "min_requests": 5},
    {"weight": 75, "hold": "5s", "min_requests": 5},
]


def placed(seq: int, kind: Any, rollout: str = "r1", step: int | None = None, **more: Any) -> OrderRecord:
    return OrderRecord(seq, rollout, "small", "2", kind, "because", "ann", 1000.0 + seq, step=step, **more)


@dataclass
class Router:
    """Counters and weights that a test moves by hand: the wire of a router and of its desired state."""

    weight: int = 10
    token: int = 7
    aborted: str | None = None
    counts: dict[str, tuple[int, int]] = field(default_factory=lambda: {"1": (0, 0), "2": (0, 0)})
    renewed: list[float] = field(default_factory=list)
    aborts: list[tuple[str, str, int | None]] = field(default_factory=list)
    at: float = 0.0

    def observe(self, model: str) -> Observed:
        arms = {
            "1": ArmStatus("1", 100 - self.weight, True, "ready"),
            "2": ArmStatus("2", self.weight, True, "ready"),
        }
        return Observed(model, arms, self.token, "r1", self.aborted, None)

    def traffic(self, model: str) -> Traffic:
        arms = {
            version: ArmTraffic(n, bad, 0, Histogram.from_dict({str(bucket(5.0)): n} if n else {}))
            for version, (n, bad) in self.counts.items()
        }
        return Traffic(model, "epoch", self.at, arms)

    def check_target(self, model: str) -> list[str]:
        return []

    def renew(self, model: str, token: int, until: float) -> None:
        if token != self.token or self.aborted:
            raise FencedError(f"token {token} is not {self.token}")
        self.renewed.append(until)

    def abort(self, model: str, reason: str, by: str, *, token: int | None = None) -> Observed:
        self.aborts.append((reason, by, token))
        if self.aborted is None:
            self.aborted, self.weight = reason, 0
        return self.observe(model)


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    home = Home(tmp_path)
    copy = home.serving_model("small") / "versions" / "2"
    (copy / "model").mkdir(parents=True)
    (copy / "manifest.json").write_text(json.dumps({"content": "sha256:two", "files": {}}))
    rollout = Rollout.model_validate(
        {"steps": STEPS, "gates": [{"metric": "errors", "margin": 0.02}], "prove": "no_harm", "patience": "4s"}
    )
    return Watch(
        home=str(home.root), model="small", version="2", champion="1", rollout_id="r1", token=7,
        plan=Plan.from_spec(rollout, False).to_dict(), step=0, lease_s=30.0, correlation_id="c", digest="sha256:two",
    )  # fmt: skip


class Release:
    """A release seen from its gates: looks once a second, steps follow each other as the DAG would let them."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.router, self.now = watch, Router(), 1000.0
        self.log = LookLog(Home(Path(watch.home)), "small")

    def looks(self, count: int, orders: Standing | None = None, *, bad: int = 0, flow: bool = True) -> list[Answer]:
        found = []
        for _ in range(count):
            (a, x), (b, y) = self.router.counts["1"], self.router.counts["2"]
            if flow:
                self.router.counts = {"1": (a + 90, x), "2": (b + (10 if self.router.weight else 0), y + bad)}
            self.router.at = self.now
            found.append(look(self.watch, self.router, self.log, self.now, orders=orders))  # type: ignore[arg-type]
            self.now += 1.0
            if found[-1].over:
                break
        return found

    def next_step(self) -> None:
        self.watch = replace(self.watch, step=self.watch.step + 1)
        self.router.weight = STEPS[self.watch.step]["weight"]  # type: ignore[assignment]

    @property
    def rows(self) -> list[str]:
        return [record["decision"]["row"] for record in self.log.read("r1")]

    def replayed(self) -> list[int]:
        return disagreements(Plan.from_dict(self.watch.plan), self.log.read("r1"))


PAUSED = standing([placed(1, "pause")])


def test_a_pause_holds_however_long_and_keeps_the_lease(watch: Watch) -> None:
    release = Release(watch)
    release.looks(3)
    held_looks = release.looks(40, PAUSED)
    assert [answer.action for answer in held_looks] == ["hold"] * 40
    assert set(release.rows[3:]) == {"paused"}
    assert "ann: because" in held_looks[-1].reason
    assert release.router.renewed[-1] == release.now - 1 + 30.0
    # The clock of the step stood still: two looks' worth were over, so it goes on from there and ends as it would have.
    after = release.looks(20)
    assert after[-1].action == "advance"
    assert 2 <= len(after) <= 5
    assert release.replayed() == []


def test_a_pause_outlasts_the_plans_patience_also_without_traffic(watch: Watch) -> None:
    release = Release(watch)
    release.looks(2)
    assert {answer.action for answer in release.looks(30, PAUSED, flow=False)} == {"hold"}


def test_harm_ends_a_paused_release(watch: Watch) -> None:
    """A person's pause never keeps harm in traffic."""
    release = Release(watch)
    release.looks(2)
    answer = release.looks(40, PAUSED, bad=6)[-1]
    assert (answer.action, answer.outcome) == ("roll_back", "FAIL")


def test_a_skip_leaves_this_step_and_no_other(watch: Watch) -> None:
    release = Release(watch)
    skip = standing([placed(1, "skip", step=0)])
    (first,) = release.looks(1, skip)
    assert (first.action, first.step) == ("advance", 0)
    assert "ann" in first.reason and "because" in first.reason
    release.next_step()
    second = release.looks(3, skip)
    assert [answer.action for answer in second] == ["hold"] * 3
    assert release.replayed() == []


def test_a_skip_does_not_hide_harm(watch: Watch) -> None:
    release = Release(watch)
    release.looks(1)
    release.router.counts = {"1": (5000, 0), "2": (500, 400)}
    answer = release.looks(1, standing([placed(1, "skip", step=0)]))[-1]
    assert answer.action == "roll_back"


def test_an_order_to_promote_ends_every_gate_early(watch: Watch) -> None:
    release = Release(watch)
    release.looks(2)
    (answer,) = release.looks(1, standing([placed(1, "promote")]))
    assert answer.action == "promote" and "ann" in answer.reason
    count = len(release.rows)
    for _ in range(2):
        release.next_step()
        (later,) = release.looks(1)  # also when the book has forgotten the order
        assert later.action == "promote"
    assert len(release.rows) == count
    assert release.replayed() == []


def test_a_freeze_lets_no_step_begin_and_the_way_back_stays_open(watch: Watch) -> None:
    """DEMAND ROL-6: one switch freezes all rollouts."""
    frozen = Standing(frozen=("every rollout frozen by bob: fire",))
    release = Release(watch)
    answers = release.looks(25, frozen)
    assert {answer.action for answer in answers} == {"hold"}
    assert "frozen" in release.rows and "fire" in answers[-1].reason
    assert release.router.renewed[-1] > release.now
    thawed = release.looks(3)
    assert thawed[-1].action == "advance"
    release.next_step()
    harmed = release.looks(40, frozen, bad=8)
    assert harmed[-1].action == "roll_back"
    assert release.replayed() == []


@pytest.mark.parametrize("bold", ["skip", "promote"])
def test_an_order_given_before_a_freeze_is_not_newer_than_it(watch: Watch, bold: Any) -> None:
    both = standing([placed(1, bold, step=0 if bold == "skip" else None)], ["every rollout frozen by bob: fire"])
    answer = Release(watch).looks(1, both)[-1]
    assert answer.action == "hold"


def test_an_abort_moves_traffic_first_and_ends_the_gate(watch: Watch) -> None:
    release = Release(watch)
    release.looks(2)
    (answer,) = release.looks(1, standing([placed(1, "abort", claimed=True)]))
    assert release.router.aborts == [("because", "ann (claimed)", 7)]
    assert (answer.action, answer.outcome) == ("roll_back", "INCONCLUSIVE")
    assert "because" in answer.reason
    assert release.replayed() == []


def test_a_step_a_person_let_pass_is_replayed(watch: Watch) -> None:
    """A gate marked as success in Airflow leaves no look; the log says that the rollout moved on."""
    release = Release(watch)
    release.looks(2)
    release.next_step()
    release.looks(2)
    assert [record.get("entered") for record in release.log.read("r1")] == [None, None, 1, None]
    assert release.replayed() == []


# -- the book


class Registry:
    """The wire to the registry: pages of a list, an outage, and how often it was asked."""

    def __init__(self, orders: Iterable[OrderRecord] = (), freezes: Iterable[FreezeRecord] = ()) -> None:
        self.rows, self.freezes = list(orders), tuple(freezes)
        self.asked: list[int] = []
        self.down = False
        self.answers = threading.Event()
        self.answers.set()

    def orders(self, since: int = 0) -> OrdersPage:
        self.asked.append(since)
        assert self.answers.wait(120)
        if self.down:
            raise UnavailableError("no answer")
        newest = max([0, *(row.seq for row in self.rows)])
        return OrdersPage(newest, tuple(row for row in self.rows if row.seq > since), self.freezes)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def made() -> Callable[..., tuple[OrderBook, Clock]]:
    def make(registry: Registry, kept: Path | None = None) -> tuple[OrderBook, Clock]:
        clock = Clock()
        return OrderBook(lambda: registry, kept, clock=clock), clock

    return make


def test_one_question_for_a_thousand_rollouts(made: Any) -> None:
    registry = Registry([placed(n, "pause", f"r{n}") for n in range(1, 1001)])
    book, clock = made(registry)
    assert all(book.standing(f"r{n}", "small").paused for n in range(1, 1001))
    assert registry.asked == [0]
    clock.now += POLL_S - 0.01
    book.standing("r1", "small")
    assert registry.asked == [0]
    clock.now += 0.02
    registry.rows.append(placed(1001, "resume", "r7"))
    assert book.standing("r7", "small").paused is None
    assert book.standing("r8", "small").paused is not None
    assert registry.asked == [0, 1000]


def test_a_thousand_gates_at_once_ask_once_and_wait_for_no_slow_registry() -> None:
    registry = Registry([placed(1, "pause")])
    book = OrderBook(lambda: registry)
    assert book.standing("r1", "small").paused
    book._asked_at = time.monotonic() - 10
    started, answered = threading.Barrier(20), list[bool]()

    def ask() -> None:
        started.wait()
        answered.append(book.standing("r1", "small").paused is not None)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    registry.answers.clear()
    try:
        for thread in threads:
            thread.start()
        waiting.until(lambda: len(answered) >= 19, every_s=0.02)
        assert len(answered) == 19, "one asks"
    finally:
        registry.answers.set()
    for thread in threads:
        thread.join(60)
    assert answered == [True] * 20
    assert len(registry.asked) == 2


def test_what_was_known_stands_while_the_registry_is_down(made: Any) -> None:
    """DEMAND ROL-6"""
    freeze = FreezeRecord("f", "all", "", "fire", "bob", 1.0)
    registry = Registry([placed(1, "pause")], [freeze])
    book, clock = made(registry)
    book.standing("r1", "small")
    registry.down = True
    for _ in range(50):
        clock.now += 60
        known = book.standing("r1", "small")
        assert known.paused and known.frozen
    assert "no answer" in str(book.error)
    registry.down, registry.freezes = False, ()
    registry.rows.append(placed(2, "resume"))
    clock.now += POLL_S
    known = book.standing("r1", "small")
    assert known.paused is None and known.frozen == () and book.error is None


def test_orders_survive_a_restart_in_an_outage(made: Any, tmp_path: Path) -> None:
    """DEMAND ROL-8: the triggerer dies, the registry is down: whoever starts next still obeys."""
    kept = tmp_path / "serving" / "orders.json"
    registry = Registry([placed(1, "pause"), placed(2, "skip", "r2", 1)], [FreezeRecord("f", "all", "", "x", "b", 1.0)])
    made(registry, kept)[0].standing("r1", "small")
    registry.down = True
    book, clock = made(registry, kept)
    known = book.standing("r1", "small")
    assert known.paused == placed(1, "pause") and known.frozen
    assert book.standing("r2", "small").skips == {1: placed(2, "skip", "r2", 1)}
    registry.down, registry.freezes = False, ()
    clock.now += POLL_S
    assert book.standing("r1", "small").frozen == ()
    assert registry.asked[-1] == 0  # after a restart everything is asked for


def test_a_broken_file_is_no_knowledge(made: Any, tmp_path: Path) -> None:
    kept = tmp_path / "orders.json"
    for text in ("{", "[]", '{"seq": 1}', '{"seq": "x", "orders": [], "freezes": []}'):
        kept.write_text(text)
        assert made(Registry(), kept)[0].standing("r1", "small") == Standing()


def test_ended_rollouts_are_forgotten_in_time(made: Any) -> None:
    registry = Registry([placed(1, "pause")])
    book, clock = made(registry)
    book.standing("r1", "small")
    registry.rows = [placed(2, "pause", "r2")]  # r1 has ended: the registry tells it no more
    clock.now += POLL_S
    assert book.standing("r1", "small").paused
    clock.now += RELOAD_S
    assert book.standing("r1", "small").paused is None
    assert book.standing("r2", "small").paused


@pytest.mark.parametrize(
    ("scope", "target", "models", "frozen"),
    [
        ("all", "", (), True), ("model", "small", (), True), ("model", "big", (), False),
        ("owner", "blue", ("small", "other"), True), ("owner", "blue", ("other",), False),
    ],
)  # fmt: skip
def test_a_freeze_holds_what_it_names(made: Any, scope: Any, target: str, models: Any, frozen: bool) -> None:
    book, _ = made(Registry(freezes=[FreezeRecord("f", scope, target, "x", "bob", 1.0, models=models)]))
    assert bool(book.standing("r1", "small").frozen) is frozen


def test_a_release_waits_for_people_before_its_first_step() -> None:
    """No gate stands before the first step, so the policy sensor waits."""

    def registry(*orders: OrderRecord, frozen: tuple[str, ...] = (), ended: bool = False) -> Any:
        rollout = SimpleNamespace(id="r1", version="2", ended=ended)
        return SimpleNamespace(rollouts=lambda model, limit: [rollout], orders_of=lambda i: (list(orders), frozen))

    assert held(registry(), "small", "2") == []
    assert held(registry(placed(1, "pause")), "small", "2") == ["paused by ann: because"]
    assert held(registry(frozen=("all frozen",)), "small", "2") == ["all frozen"]
    assert held(registry(placed(1, "pause"), placed(2, "resume")), "small", "2") == []
    assert held(registry(placed(1, "pause"), ended=True), "small", "2") == []
    assert held(registry(placed(1, "pause")), "small", "3") == []
    with pytest.raises(FencedError, match="aborted by ann: because"):
        held(registry(placed(1, "abort")), "small", "2")
