"""The guard: nobody watches, nobody is exposed (DEMAND ROL-6, ROL-7)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import FencedError, RefusedError, UnavailableError
from windtunnel.home import ENV_HOME, Home
from windtunnel.serving.backend import Arm, ArmStatus, Observed, Release
from windtunnel.serving.place import at_home
from windtunnel.serving.release import intent
from windtunnel.serving.release.guard import SETTLE_GRACE_S, Guard, heartbeat_path, run
from windtunnel.serving.release.intent import Intent
from windtunnel.serving.release.lease import Clock, Sighting, Sightings, leased, over_by, overdue, sight
from windtunnel.serving.release.settling import INTENT_PATIENCE_S, Case, Standing, case_of, lawful, settle

MODEL = "visits"


def observed(**more: Any) -> Observed:
    plain: dict[str, Any] = {"model": MODEL, "arms": {}, "token": 3, "rollout_id": "r1", "aborted": None,
                             "lease_until": 1000.0}  # fmt: skip
    return Observed(**(plain | more))


# -- leases: pure


def test_a_lease_that_ended_is_overdue() -> None:
    assert overdue(observed(), Clock(999.9, 5.0)) is None
    reason = overdue(observed(), Clock(1012.0, 5.0))
    assert reason
    assert "12.0 s ago" in reason
    assert "r1" in reason
    assert overdue(observed(lease_until=None), Clock(1e12, 0)) is None
    assert overdue(observed(aborted="by a person"), Clock(1e12, 0)) is None


def test_a_clock_set_forward_harms_no_living_rollout() -> None:
    """Ten hours ahead from one tick to the next: the holder has 30 s, by the clock that nobody sets, to renew."""
    seen = sight(observed(lease_until=1030.0), Clock(1000.0, 50.0), None)
    assert overdue(observed(lease_until=1030.0), Clock(1000.0 + 36_000, 51.0), seen) is None
    renewed = observed(lease_until=1000.0 + 36_000 + 30)
    again = sight(renewed, Clock(1000.0 + 36_002, 52.0), seen)
    assert overdue(renewed, Clock(1000.0 + 36_010, 60.0), again) is None


def test_a_clock_set_forward_saves_no_dead_rollout() -> None:
    seen = sight(observed(lease_until=1030.0), Clock(1000.0, 50.0), None)
    assert overdue(observed(lease_until=1030.0), Clock(1000.0 + 36_030, 80.1), seen)


def test_a_clock_set_back_keeps_no_dead_rollout_alive() -> None:
    seen = sight(observed(lease_until=1030.0), Clock(1000.0, 50.0), None)
    assert overdue(observed(lease_until=1030.0), Clock(1000.0 - 36_000, 79.9), seen) is None
    assert overdue(observed(lease_until=1030.0), Clock(1000.0 - 35_970, 80.1), seen)


def test_a_clock_set_back_before_the_guard_looks_makes_no_lease_longer() -> None:
    """A guard that was restarted meets the lease for the first time, hours early by the clock."""
    seen = sight(observed(lease_until=1030.0), Clock(1000.0 - 36_000, 50.0), None, 30.0)
    assert overdue(observed(lease_until=1030.0), Clock(1000.0 - 36_000 + 29, 79.0), seen) is None
    assert overdue(observed(lease_until=1030.0), Clock(1000.0 - 36_000 + 31, 81.0), seen)


@given(st.lists(st.tuples(st.floats(0.1, 5), st.floats(-1e5, 1e5), st.booleans()), max_size=40))
def test_whatever_the_wall_clock_does_a_lease_lasts_as_long_as_it_said(steps: list[tuple[float, float, bool]]) -> None:
    """The holder renews for 30 s each time, or not; the wall clock jumps at will. Overdue if and only if 30 s of
    real time went by since the last renewal that the guard saw."""
    wall, mono = 1e6, 100.0
    state = observed(lease_until=wall + 30)
    seen: Sighting | None = None
    renewed_at = mono
    for seconds, jump, renews in [(0.0, 0.0, False), *steps]:
        mono += seconds
        wall += seconds + jump
        if renews:
            state = replace(state, lease_until=wall + 30)
            renewed_at = mono
        now = Clock(wall, mono)
        seen = sight(state, now, seen)
        left = 30 - (mono - renewed_at)
        if abs(left) > 1e-3:
            assert (overdue(state, now, seen) is not None) == (left < 0)


# -- leases and clocks that differ: what a guard has seen change


def test_a_lease_that_a_guard_saw_begin_has_its_length_whatever_the_clocks_say() -> None:
    """Two hours ahead; the guard looked at 50, 51 and 52, so the lease was written after 51."""
    seen, until = Sightings(), 1030.0
    assert seen.of(observed(lease_until=None), Clock(8200.0, 50.0), 50.0, 30.0) is None
    assert seen.of(observed(lease_until=None), Clock(8201.0, 51.0), 51.0, 30.0) is None
    found = seen.of(observed(lease_until=until), Clock(8202.0, 52.0), 52.0, 30.0)
    assert over_by(observed(lease_until=until), Clock(8230.9, 80.9), found) is None
    assert over_by(observed(lease_until=until), Clock(8231.5, 81.5), found) == pytest.approx(0.5)


def test_a_guard_that_has_just_started_goes_by_the_wall_clock() -> None:
    """It knows of nothing before: neither that a lease is fresh, nor, started again and again, that it lasts longer."""
    for started in (50.0, 60.0, 70.0):
        found = Sightings().of(observed(lease_until=1030.0), Clock(950.0 + started, started), started, 30.0)
        assert found is not None and found.remaining == pytest.approx(80.0 - started)


def test_who_has_heard_nothing_for_long_does_not_know_that_a_lease_is_fresh() -> None:
    """What was told at 60 was as of 35: the lease that came after it is from 35 or later."""
    seen = Sightings()
    seen.of(observed(lease_until=None), Clock(8210.0, 60.0), 35.0, 30.0)
    found = seen.of(observed(lease_until=1030.0), Clock(8211.0, 61.0), 61.0, 30.0)
    assert found is not None and found.remaining == pytest.approx(4.0)


def test_a_reading_that_comes_late_is_no_news() -> None:
    """Of a guard's two threads one was held up with what it had read: the older lease is none that was just written."""
    seen, old, new = Sightings(), observed(lease_until=1030.0), observed(lease_until=1040.0)
    seen.of(old, Clock(8200.0, 50.0), 50.0, 30.0)
    first = seen.of(new, Clock(8210.0, 60.0), 60.0, 30.0)
    late = seen.of(old, Clock(8205.0, 55.0), 55.0, 30.0)
    assert late is not None and late.remaining < 0
    assert seen.of(new, Clock(8211.0, 61.0), 61.0, 30.0) is first


@given(
    st.floats(-1e5, 1e5),
    st.lists(st.tuples(st.floats(0.1, 5), st.booleans(), st.floats(0, 40), st.booleans()), max_size=15),
)
def test_no_difference_of_clocks_makes_a_lease_other_than_what_is_known_of_it(
    ahead: float, steps: list[tuple[float, bool, float, bool]]
) -> None:
    """The holder gives 30 s, or not; the guard reads what was so a while ago, or starts anew. By no clock does it bear
    a lease for more than 30 s from its first sight, by one that is ahead none for more than 30 s from when it was
    given; and a lease that was given after an earlier reading lasts until 30 s after that."""
    mono, seen = 1000.0, Sightings()
    given, newest = [mono], None
    for seconds, renews, behind, anew in steps:
        mono += seconds
        if renews:
            given.append(mono)
        if anew:
            seen, newest = Sightings(), None
        as_of = max(1000.0, mono - behind)
        at = max(one for one in given if one <= as_of)
        found = seen.of(observed(lease_until=at + 30.0), Clock(mono + ahead, mono), as_of, 30.0)
        assert found is not None
        end = found.at.monotonic + found.remaining
        assert end <= found.at.monotonic + 30.0 + 1e-3
        if ahead >= 0:
            assert end <= at + 30.0 + 1e-3
        if newest is not None and newest < at:
            assert end >= newest + 30.0 - 1e-3
        newest = max(as_of, newest or 0.0)


def arms(*weights: int) -> tuple[Arm, ...]:
    return tuple(Arm(version=str(i + 2), digest="d", source="s", weight=weight) for i, weight in enumerate(weights))


def release(*weights: int, **more: Any) -> Release:
    champion = Arm(version="1", digest="d", source="s", weight=100 - sum(weights))
    return Release(MODEL, champion, arms(*weights), **({"token": 3, "rollout_id": "r1", "lease_until": 1000.0} | more))


@pytest.mark.parametrize(
    ("wanted", "lease"),
    [
        (None, None),
        (release(), None),
        (release(0), None),  # deployed, not exposed
        (release(5), 1000.0),
        (release(0, 5), 1000.0),
        (release(100), 1000.0),
        (release(5, lease_until=None), None),
    ],
)
def test_only_exposed_candidates_are_under_the_lease(wanted: Release | None, lease: float | None) -> None:
    assert leased(MODEL, wanted).lease_until == lease


def test_the_registrys_champion_gets_the_traffic() -> None:
    final = lawful(release(100, audience=("x-tester", "yes")), "2")
    assert final
    assert final.champion == Arm(version="2", digest="d", source="s", weight=100)
    assert (final.candidates, final.lease_until, final.token, final.rollout_id) == ((), None, 3, "r1")
    assert (final.mirror, final.audience, final.stage) == (0, None, 1)
    assert lawful(final, "2") is final
    assert lawful(release(100), "7") is None
    nobody = lawful(release(100), None)
    assert nobody
    assert nobody.arms() == ()


# -- settling: pure

INTENT = Intent(MODEL, "r1", 3, "2", "1", "promoting", 900.0)
CASE = Case(MODEL, "r1", 3, "2", True)


def test_what_may_have_to_be_settled() -> None:
    assert case_of(MODEL, INTENT, release(100, token=5)) == Case(MODEL, "r1", 5, "2", True)
    assert case_of(MODEL, INTENT, release(100, token=5, rollout_id="r2")) == CASE
    assert case_of(MODEL, None, release(0)) == Case(MODEL, "r1", 3, "2", False)
    for wanted in (None, release(), release(5), release(0, mirror=10), release(0, rollout_id=None)):
        assert case_of(MODEL, None, wanted) is None


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("aborted", [None, "by a person"])
@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("rollout", [None, "running", "promoting", "promoted", "rolled_back", "withdrawn"])
def test_settling(over: bool, aborted: str | None, other: bool, rollout: str | None) -> None:
    """Every combination: never an undo of what is committed, never a finish of what is not, nothing blindly."""
    state = observed(rollout_id="r2" if other else "r1", aborted=aborted)
    action = settle(CASE, state, over, None if rollout is None else Standing(rollout))
    if other:
        assert action == "drop"
    elif rollout is None:
        assert action == "wait"
    elif rollout in ("rolled_back", "withdrawn"):
        assert action == "undo", "nobody can hold what is closed"
    elif not over and aborted is None:
        assert action == "wait"
    else:
        assert action == ("finish" if rollout == "promoted" else "undo")


# -- with a backend and a registry in memory


@dataclass
class Record:
    state: str
    version: str = "1"
    champion: str | None = "1"
    token: int = 3
    opened_at: float = 900.0
    correlation_id: str | None = "c"
    reason: str | None = None
    plan: dict[str, Any] = field(default_factory=dict)  # of somebody's own: nothing is written to the look log
    beside: tuple[str, ...] = ()


@dataclass
class FakeRegistry:
    state: str = "running"
    down: bool = False
    commit_first: bool = False  # the holder commits just before we roll back
    calls: list[str] = field(default_factory=list)
    verdicts_: list[Any] = field(default_factory=list)

    def rollout(self, rollout_id: str) -> Record:
        if self.down:
            raise UnavailableError("the registry does not answer")
        return Record(self.state)

    def champion(self, model: str) -> Record:
        return Record("champion", "2" if self.state == "promoted" else "1")

    def update_rollout(self, rollout_id: str, token: int, *, state: str, reason: str) -> Record:
        if self.commit_first:
            self.state = "promoted"
        if self.state == "promoted":
            raise RefusedError("it is promoted", code="WT_ROLLOUT_ENDED")
        self.state = state
        self.calls.append(f"{state} {token}")
        return Record(state, reason=reason)

    def withdraw(self, model: str, version: str, reason: str) -> None:
        self.calls.append(f"withdraw {version}")

    def verdicts(self, model: str, *, subject: str, kind: str) -> list[Any]:
        return [SimpleNamespace(verdict=verdict) for verdict in self.verdicts_]

    def post_verdict(self, verdict: Any) -> str:
        self.verdicts_.append(verdict)
        return str(verdict.id)


@dataclass
class FakeBackend:
    release: Release | None = None
    aborted: str | None = None
    broken: set[str] = field(default_factory=set)
    swept: int = 0
    calls: list[str] = field(default_factory=list)

    def desired(self, model: str) -> Release | None:
        if model in self.broken:
            raise OSError("its file is damaged")
        return self.release

    def observe(self, model: str) -> Observed:
        if "router" in self.broken:
            raise UnavailableError("the router does not answer")
        wanted = self.release
        assert wanted
        return Observed(
            model,
            {arm.version: ArmStatus(arm.version, arm.weight, True, "ready") for arm in wanted.arms()},
            wanted.token,
            wanted.rollout_id,
            self.aborted,
            wanted.lease_until,
        )

    def abort(self, model: str, reason: str, by: str, *, token: int | None = None) -> Observed:
        assert self.release
        self.calls.append(f"abort by {by}: {reason}")
        self.aborted = reason
        self.release = replace(
            self.release, candidates=tuple(replace(arm, weight=0) for arm in self.release.candidates), lease_until=None
        )
        return observed(aborted=reason, lease_until=None)

    def apply(self, release: Release) -> Observed:
        if self.aborted and (release.candidates or release.stage <= (self.release.stage if self.release else 0)):
            raise FencedError("the rollout was aborted")
        self.aborted = None
        self.calls.append("apply")
        self.release = release
        return self.observe(release.model)

    def lagging(self, model: str) -> bool:
        return False

    def sweep(self, now: float) -> None:
        self.swept += 1


class World:
    def __init__(self, root: Path, wanted: Release | None = None) -> None:
        self.home = Home(root)
        self.home.serving_model(MODEL).mkdir(parents=True)
        self.backend = FakeBackend(wanted or release(5))
        self.registry = FakeRegistry()
        self.now = Clock(990.0, 50.0)
        self.guard = Guard(self.home, self.backend, lambda: self.registry, clock=lambda: self.now)

    def after(self, seconds: float) -> None:
        self.now = Clock(self.now.wall + seconds, self.now.monotonic + seconds)
        self.guard.watch()
        self.guard.tend()

    def promote(self, **more: Any) -> None:
        self.backend.release = release(100, **more)
        intent.begin(self.home, MODEL, rollout_id="r1", token=3, candidate="2", champion="1", at=990.0)

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(heartbeat_path(self.home).read_text())
        return found


def test_a_rollout_nobody_watches_is_taken_to_zero_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.after(0)
    world.after(9)
    assert world.backend.calls == []
    assert world.status["models"][MODEL]["state"] == "leased"
    world.after(2)
    world.after(100)
    assert len(world.backend.calls) == 1
    assert world.backend.calls[0].startswith("abort by guard: lease ended")
    assert [act["action"] for act in world.status["acts"]] == ["abort", "tell"]
    assert world.status["models"][MODEL]["lease_until"] is None
    assert world.backend.swept == 4


def test_a_renewed_lease_is_left_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    for _ in range(20):
        world.after(5)
        assert world.backend.release
        world.backend.release = replace(world.backend.release, lease_until=world.now.wall + 10)
    assert world.backend.calls == []


@pytest.mark.parametrize(("silent", "over"), [(0.0, False), (20.0, False), (40.0, True)])
def test_a_guard_that_is_ahead_believes_what_it_saw_begin_and_no_silent_watch(
    tmp_path: Path, silent: float, over: bool
) -> None:
    """DEMAND ROL-6: by hours, and the lease is of 30 s."""
    world = World(tmp_path, release(5, lease_until=None, lease_s=30.0))
    world.backend.silence = lambda: silent  # type: ignore[attr-defined]
    world.now = Clock(9000.0, 50.0)
    world.after(1)
    assert world.backend.release
    world.backend.release = replace(world.backend.release, lease_until=1020.0)
    world.after(1)
    assert bool(world.backend.calls) is over
    world.after(31)
    assert len(world.backend.calls) == 1, "nobody renews it"


def test_a_lease_that_a_watch_says_has_ended_is_asked_for_once_more(tmp_path: Path) -> None:
    """DEMAND ROL-6: of several guards one may be half cut off; it harms nobody whom others see renewed."""
    world = World(tmp_path)
    told = world.backend.release
    asked: list[str] = []

    def ask(model: str) -> Release | None:
        asked.append(model)
        return told

    world.backend.asked = ask  # type: ignore[attr-defined]
    world.after(0)
    world.after(5)
    assert asked == [], "while it lasts nobody is asked"
    assert told
    told = replace(told, lease_until=1020.0)  # by the API; the watch goes on telling the old one
    world.after(10)
    assert asked and world.backend.calls == []
    world.after(20)
    assert len(world.backend.calls) == 1, "this one has ended for the API, too"


def test_one_damaged_model_leaves_the_others_guarded(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.home.serving_model("aaa").mkdir()
    world.backend.broken = {"aaa", "router"}
    world.after(20)
    assert world.backend.calls
    assert world.status["models"]["aaa"]["state"] == "unknown"
    assert "damaged" in world.status["models"]["aaa"]["error"]


def test_a_promotion_in_progress_is_not_undone_while_the_registry_can_say(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.promote()
    world.registry.state = "promoted"
    world.after(SETTLE_GRACE_S + 5)
    assert world.backend.calls == ["apply"], "no detour over the former champion"
    assert world.backend.release == lawful(release(100), "2")
    assert intent.read(world.home, MODEL) is None


@pytest.mark.parametrize("state", ["promoted", "promoting"])
def test_with_the_registry_down_users_come_first(tmp_path: Path, state: str) -> None:
    """Lease ended, nobody there, and nobody knows whether it was committed: back to the champion. When the registry
    answers, what it says is done."""
    world = World(tmp_path)
    world.promote()
    world.registry.down = True
    world.after(11)
    world.after(1)
    assert [call.split(":")[0] for call in world.backend.calls] == ["abort by guard"]
    assert "waits for the registry" in world.status["errors"][MODEL]
    assert intent.read(world.home, MODEL)
    world.registry.down, world.registry.state = False, state
    world.after(1)
    assert intent.read(world.home, MODEL) is None
    assert world.backend.release
    if state == "promoted":
        assert world.backend.calls[1:] == ["apply"]
        assert world.backend.release.champion == Arm("2", "d", "s", 100)
    else:
        assert world.backend.calls[1:] == []
        assert world.registry.calls == ["rolled_back 3"]
        (verdict,) = world.registry.verdicts_
        assert (str(verdict.outcome), verdict.version, verdict.subject) == ("INCONCLUSIVE", "2", "d")
    world.after(1)
    assert world.status["errors"] == {}


def test_what_was_rolled_back_while_the_registry_was_down_is_told_later(tmp_path: Path) -> None:
    """DEMAND ROL-6"""
    world = World(tmp_path)
    world.registry.down = True
    world.after(11)
    assert world.backend.aborted
    world.after(100)
    assert world.registry.calls == []
    world.registry.down = False
    world.after(1)
    world.after(100)
    assert world.registry.calls == ["rolled_back 3"]
    assert len(world.registry.verdicts_) == 1


def test_a_promotion_that_was_never_committed_is_undone_registry_first(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.promote()
    world.after(0)
    assert world.backend.calls == []
    world.after(11)
    assert world.registry.calls == ["rolled_back 3"]
    assert len(world.backend.calls) == 1
    assert intent.read(world.home, MODEL) is None
    assert world.backend.release
    assert [arm.weight for arm in world.backend.release.candidates] == [0]


def test_a_holder_that_commits_first_wins(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.promote()
    world.registry.commit_first = True
    world.after(11)
    assert world.backend.calls == []
    world.after(1)
    assert world.backend.calls == ["apply"]
    assert intent.read(world.home, MODEL) is None


def test_killed_between_registry_and_traffic_while_undoing(tmp_path: Path) -> None:
    """The registry says rolled back already, the traffic not yet: the next guard goes on."""
    world = World(tmp_path)
    world.promote()
    world.registry.state = "rolled_back"
    world.after(11)
    assert world.registry.calls == []
    assert len(world.backend.calls) == 1
    assert intent.read(world.home, MODEL) is None


def test_only_the_clearing_was_left(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.promote()
    world.registry.state = "promoted"
    final = lawful(release(100), "2")
    world.backend.release = final
    world.after(1)
    assert intent.read(world.home, MODEL), "its holder has time to clear it"
    world.after(INTENT_PATIENCE_S + 1)
    assert intent.read(world.home, MODEL) is None
    assert world.backend.calls == []
    assert world.backend.release == final


def test_an_intent_of_another_rollout_is_dropped(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.promote(rollout_id="r2", token=9)
    world.after(1)
    assert intent.read(world.home, MODEL) is None
    assert world.backend.calls == []
    world.after(20)
    assert len(world.backend.calls) == 1


def test_promoted_in_the_registry_and_aborted_by_a_person_follows_the_registry(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.promote()
    world.registry.state = "promoted"
    world.backend.abort(MODEL, "looks wrong", "ada")
    world.after(1)
    assert world.backend.release
    assert world.backend.release.champion == Arm("2", "d", "s", 100)
    assert intent.read(world.home, MODEL) is None
    world.after(1)
    assert world.status["acts"][-1]["action"] == "finish"


def test_what_cannot_be_settled_is_said(tmp_path: Path) -> None:
    """The registry's champion is a version that was never deployed here."""
    world = World(tmp_path)
    world.promote()
    world.registry.state = "promoted"
    world.registry.champion = lambda model: Record("champion", "7")  # type: ignore[method-assign]
    world.after(11)
    world.after(1)
    assert "version 7" in world.status["errors"][MODEL]
    assert intent.read(world.home, MODEL)


# -- as a process


def test_it_runs_and_beats_until_told_to_stop(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.serving_model(MODEL).mkdir(parents=True)
    over = time.time() + 0.5
    backend = FakeBackend(release(5, lease_until=over))
    place = replace(at_home(home), backend=backend)
    stop = threading.Event()
    thread = threading.Thread(
        target=run, args=(home, stop), kwargs={"tick_s": 0.05, "place": place, "registry": FakeRegistry}
    )
    thread.start()
    while not backend.calls:
        assert time.time() < over + 30
        time.sleep(0.01)
    assert time.time() >= over
    stop.set()
    thread.join(90)
    assert not thread.is_alive()
    assert json.loads(heartbeat_path(home).read_text())["acts"][0]["action"] == "abort"


def test_the_process_guards_the_local_backend(tmp_path: Path) -> None:
    """``python -m windtunnel.serving.release.guard`` on a home whose router, registry and Airflow are all down."""
    from windtunnel.serving.desired import Server, State, StateFile
    from windtunnel.serving.local import LocalBackend

    home = Home(tmp_path)
    file = StateFile(home, MODEL)
    with file.locked():
        up = {version: Server("d", "s", 1, proven=True) for version in "12"}
        routed = ("1",) * 95 + ("2",) * 5
        file.write(State(release(5, lease_until=time.time() + 1.0), slots=routed, servers=up))
    process = subprocess.Popen(
        [sys.executable, "-m", "windtunnel.serving.release.guard"],
        env=os.environ | {ENV_HOME: str(tmp_path)},
        stderr=subprocess.PIPE,
    )
    try:
        end = time.time() + 15
        while LocalBackend(home).desired(MODEL).candidates[0].weight:  # type: ignore[union-attr]
            assert process.poll() is None
            assert time.time() < end
            time.sleep(0.05)
        state = file.read()
        assert state.aborted
        assert state.aborted["by"] == "guard"
        assert state.aborted["reason"].startswith("lease ended")
        assert state.release.champion
        assert state.release.champion.weight == 100
        assert state.weights == {"1": 100}
        with pytest.raises(FencedError):
            LocalBackend(home).renew(MODEL, 3, time.time() + 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
    finally:
        if process.poll() is None:
            process.kill()
        said = process.communicate()[1].decode()
    lines = [json.loads(text) for text in said.splitlines() if text.startswith("{")]
    assert any("abort" in entry["message"] for entry in lines)
    assert all({"time", "level", "component", "operation"} <= set(entry) for entry in lines)
