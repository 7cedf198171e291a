"""DEMAND ROL-14: a release of several candidates as people see it, and as it is replayed, from the look log on disk."""

from __future__ import annotations

from pathlib import Path

from windtunnel.home import Home
from windtunnel.rollout import Counters, Evidence, Plan, decide_several, several
from windtunnel.rollout.evidence import ArmCounters
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.desired import State, accept, drop, from_dict, to_dict
from windtunnel.serving.release import overview, overviewtext, replaying
from windtunnel.serving.release.ending import end_log
from windtunnel.serving.release.looklog import LookLog
from windtunnel.spec.rollout import Gate, Rollout, Step
from windtunnel.stats.histogram import Histogram

PLAN = Plan.from_spec(
    Rollout(
        strategy="ab",
        steps=[Step(weight=60, hold="10m", min_requests=50)],
        gates=[Gate(metric="errors", margin=0.02, superior=0.0)],
    ),
    first=False,
)


def flown(home: Home, looks: int = 4) -> LookLog:
    """Looks at two candidates of which version 2 fails; the log is all that goes from one look to the next."""
    log = LookLog(home, "small")
    for i in range(looks):
        now, n = 1000.0 + 10 * i, 400 * i
        counts = {"1": (5000 + n, 50 + n // 100), "2": (n, n // 2), "3": (n, n // 100)}
        traffic = Counters("a", now, {v: ArmCounters(r, e, 0, Histogram()) for v, (r, e) in counts.items()})
        tail = log.tail("r")
        states = several.resumed(tail[-1]) if tail else several.begin("1", ("2", "3"), now)
        evidence = {
            v: Evidence(traffic, observed_weight=30, ready=True, digest_ok=True)
            for v, state in states.items()
            if not state.ended
        }
        record = several.several_record("r", now, evidence, decide_several(PLAN, states, evidence, now))
        first = {} if tail else {"plan": PLAN.to_dict()}
        assert log.append({**record, **first}, after=tail[-1] if tail else None)
    return log


def test_each_candidate_is_shown(tmp_path: Path) -> None:
    home = Home.find(tmp_path)
    flown(home)
    found = overview.show(home, "small", None)
    assert found is not None
    assert {arm["version"]: arm["decision"]["action"] for arm in found["arms"]} == {"2": "roll_back", "3": "hold"}
    text = "\n".join(overviewtext.shown(found))
    assert "candidate  version 2: roll_back (FAIL, harm)" in text and "candidate  version 3: hold" in text


def test_the_log_replays_for_every_candidate_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    home = Home.find(tmp_path)
    flown(home)
    for version in ("2", "3"):
        (one,) = replaying.replays(LookLog(home, "small").all(), version)
        assert (one.looks, one.agrees) == (4, True)
    assert replaying.replays(LookLog(home, "small").all(), "1") == []


def test_who_ends_it_from_outside_writes_the_end_of_all(tmp_path: Path) -> None:
    home = Home.find(tmp_path)
    log = flown(home)
    ended = end_log(
        log, "r", PLAN.to_dict(), champion="1", candidate="2", beside=["3"], reason="by hand", now=2000.0, token=1
    )
    assert ended is not None and ended["decision"]["action"] == "roll_back"
    assert {v: arm["decision"]["row"] for v, arm in ended["arms"].items()} == {"2": "harm", "3": "aborted"}
    (one,) = replaying.replays(LookLog(home, "small").all(), "3")
    assert one.agrees is True
    fresh = LookLog(Home.find(tmp_path / "other"), "small")
    never = end_log(
        fresh, "r", PLAN.to_dict(), champion="1", candidate="2", beside=["3"], reason="by hand", now=2000.0, token=1
    )
    assert never is not None and set(never["arms"]) == {"2", "3"}, "also when nobody had looked yet"


def test_what_was_dropped_is_kept_on_disk_and_forgotten_with_the_rollout() -> None:
    def release(rollout: str, token: int) -> Release:
        arms = [Arm(v, f"sha256:{v}", f"models:/small/{v}", w) for v, w in (("1", 40), ("2", 30), ("3", 30))]
        return Release("small", arms[0], tuple(arms[1:]), token=token, rollout_id=rollout)

    state = drop(accept(State(Release("small", None)), release("r", 1)), ["2"], "it fails", 0.0, 1)
    assert state.wanted == {"1": 70, "2": 0, "3": 30}
    again = from_dict(to_dict(state))
    assert again.dropped == {"2": "it fails"} and again.wanted == state.wanted
    assert accept(again, release("other", 2)).dropped == {}
