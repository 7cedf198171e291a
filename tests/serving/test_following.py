"""Outside a release the traffic is the registry's champion's (DEMAND REG-6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from windtunnel.errors import FencedError, UnavailableError
from windtunnel.serving import desired
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.release.following import follow, followed
from windtunnel.serving.release.intent import Intent
from windtunnel.serving.release.settling import HEED_EVERY_S, Settler

MODEL = "visits"


def arm(version: str, weight: int) -> Arm:
    return Arm(version, f"sha256:{version}", f"models:/{MODEL}/{version}", weight)


AFTER = Release(MODEL, arm("2", 100), (), token=7, rollout_id="r7", stage=6)


def test_a_former_champion_gets_everything() -> None:
    found = followed(AFTER, "1", "sha256:1")
    assert found == replace(AFTER, champion=arm("1", 100), stage=7)
    assert followed(AFTER, "2", "sha256:2") is None


def test_candidates_are_gone_with_it() -> None:
    during = replace(AFTER, champion=arm("2", 75), candidates=(arm("3", 25),), lease_until=5.0, mirror=0)
    found = followed(during, "1", "sha256:1")
    assert found is not None and (found.champion, found.candidates, found.lease_until) == (arm("1", 100), (), None)
    aborted = replace(AFTER, candidates=(arm("3", 0),))
    assert followed(aborted, "2", "sha256:2") is None, "it has all requests already"
    assert followed(aborted, "3", "sha256:3").champion == arm("3", 100)  # type: ignore[union-attr]


def test_after_an_abort_and_another_champion_the_release_stays_out() -> None:
    """An administrator's champion got the traffic of an aborted release; a task of that release wakes up late."""
    flying = replace(AFTER, champion=arm("1", 90), candidates=(arm("2", 10),), stage=2)
    aborted = desired.abort(desired.State(flying), "the lease ended", "guard", now=1.0)
    other = followed(aborted.release, "9", "sha256:9")
    assert other is not None
    after = desired.accept(aborted, other)
    assert (after.aborted, after.wanted) == (None, {"9": 100})
    late = replace(flying, champion=arm("1", 50), candidates=(arm("2", 50),), stage=4)
    with pytest.raises(FencedError, match="the lease ended"):
        desired.accept(after, late)
    # What the registry makes champion later is taken all the same, and so is the next release.
    assert desired.accept(after, followed(other, "2", "sha256:2")).wanted == {"2": 100}  # type: ignore[arg-type]
    # Of the candidate itself, should the registry have promoted it: as often as it takes.
    promoted = followed(aborted.release, "2", "sha256:2")
    assert promoted is not None
    twice = desired.accept(desired.accept(aborted, promoted), promoted)
    assert (twice.wanted, twice.dropped) == ({"2": 100}, {})
    again = replace(late, token=8, rollout_id="r8", stage=1)
    assert desired.accept(after, again).wanted == {"1": 50, "2": 50}


def test_of_two_that_follow_at_once_the_second_does_not_overrule_the_first() -> None:
    """Two guards saw the same state; one asked the registry before its champion changed, and is late."""
    before = desired.State(Release(MODEL, arm("1", 100), token=3, rollout_id="r1", stage=4))
    late, now = (followed(before.release, version, f"sha256:{version}") for version in ("2", "3"))
    assert late and now and late.stage == now.stage == 5
    first = desired.accept(before, now)
    with pytest.raises(FencedError, match="version 3 as champion at stage 5, this write has 2"):
        desired.accept(first, late)
    assert desired.accept(first, now).release == now, "the same again is no other"
    later = followed(now, "2", "sha256:2")
    assert later and desired.accept(first, later).wanted == {"2": 100}, "asked again, the later word holds"


def test_who_is_being_withdrawn_gets_nothing_back() -> None:
    """The release has taken its traffic, and the registry does not know yet."""
    leaving = replace(AFTER, champion=arm("2", 0), stage=7)
    assert followed(leaving, "2", "sha256:2") is None
    assert followed(leaving, "1", "sha256:1").champion == arm("1", 100)  # type: ignore[union-attr]


class Backend:
    def __init__(self, release: Release | None) -> None:
        self.release = release
        self.applied: list[Release] = []

    def desired(self, model: str) -> Release | None:
        return self.release

    def observe(self, model: str) -> Any:
        return SimpleNamespace(rollout_id="r7", aborted=None, lease_until=None)

    def lagging(self, model: str) -> bool:
        return False

    def apply(self, release: Release) -> Any:
        assert self.release is not None
        if (release.token, release.stage) <= (self.release.token, self.release.stage):
            raise FencedError("older")
        self.applied.append(release)
        self.release = release


def test_nothing_served_here_is_left_alone() -> None:
    champion = SimpleNamespace(version="1", digest="sha256:1")
    backend = Backend(AFTER)
    assert not follow(backend, None, champion)
    assert not follow(backend, AFTER, None)
    assert follow(backend, AFTER, champion) and not follow(backend, backend.release, champion)


class Sky:
    """A settler over a registry whose champion somebody changes."""

    def __init__(self, release: Release, champion: str | None, state: str = "promoted") -> None:
        self.backend, self.champion_, self.state = Backend(release), champion, state
        self.now, self.asked, self.down = 0.0, 0, False
        self.acts: list[str] = []
        self.intent: Intent | None = None
        self.meanwhile: Callable[[], None] = lambda: None  # what happens before the registry's answer arrives
        looks = SimpleNamespace(read=lambda rollout: [], tail=lambda rollout: [])
        self.settler = Settler(
            self.backend,  # type: ignore[arg-type]
            SimpleNamespace(read=lambda model: self.intent, clear=lambda *_: setattr(self, "intent", None)),  # type: ignore[arg-type]
            lambda model: looks,  # type: ignore[arg-type, return-value]
            lambda: self,  # type: ignore[arg-type, return-value]
            act=lambda model, action, reason: self.acts.append(action),
            errors={},
            monotonic=lambda: self.now,
            wall=lambda: self.now,
        )

    def rollout(self, identifier: str) -> Any:
        self.asked += 1
        if self.down:
            raise UnavailableError("down")
        return SimpleNamespace(state=self.state, token=7, champion="1")

    def champion(self, model: str) -> Any:
        self.meanwhile()
        return self.champion_ and SimpleNamespace(version=self.champion_, digest=f"sha256:{self.champion_}")

    def promoting(self, champion: str | None) -> None:
        """Version 2 was on its way to champion, and its holder is gone."""
        self.intent = Intent(MODEL, "r7", 7, "2", champion, "running", 0.0)

    def tend(self, after: float = HEED_EVERY_S) -> None:
        self.now += after
        self.settler.tend(MODEL, None)


def test_the_guard_follows_an_emergency_rollback() -> None:
    sky = Sky(AFTER, "2")
    sky.tend()
    assert sky.acts == []
    sky.champion_ = "1"
    sky.tend(1.0)
    assert sky.acts == [], "the registry is not asked at every tick"
    sky.tend()
    assert sky.acts == ["follow"] and sky.backend.applied[-1].champion == arm("1", 100)
    sky.tend()
    assert sky.acts == ["follow"]


@pytest.mark.parametrize("state", ["running", "promoting"])
def test_a_release_that_is_under_way_moves_its_own_traffic(state: str) -> None:
    sky = Sky(AFTER, "1", state)
    sky.tend()
    assert sky.acts == []


def test_without_a_word_of_the_registry_nothing_moves() -> None:
    sky = Sky(AFTER, None)
    sky.tend()
    sky.champion_, sky.down = "1", True
    sky.tend()
    assert sky.acts == []
    sky.down = False
    sky.tend()
    assert sky.acts == ["follow"]


NEXT = replace(AFTER, champion=arm("2", 90), candidates=(arm("3", 10),), token=8, rollout_id="r8", stage=2)


def test_a_release_that_began_while_the_registry_was_asked_keeps_its_traffic() -> None:
    """The guard asked when there was no release, and the answer came when there was one."""
    sky = Sky(AFTER, "2")
    sky.meanwhile = lambda: setattr(sky.backend, "release", NEXT)
    sky.tend()
    assert (sky.acts, sky.backend.applied) == ([], [])
    sky = Sky(AFTER, "1")  # somebody has changed the champion, too
    sky.meanwhile = lambda: setattr(sky.backend, "release", NEXT)
    with pytest.raises(FencedError):
        sky.tend()
    assert (sky.acts, sky.backend.applied) == ([], [])


def test_what_is_finished_is_the_rollout_that_was_asked_about() -> None:
    """A promotion whose holder died is finished; the next release began before the registry's answer arrived."""
    begun = replace(AFTER, champion=arm("1", 0), candidates=(arm("2", 100),), lease_until=1.0)
    sky = Sky(begun, "2")
    sky.promoting("1")
    sky.meanwhile = lambda: setattr(sky.backend, "release", NEXT)
    with pytest.raises(FencedError):
        sky.settler.tend(MODEL, "the lease ended")
    assert sky.backend.applied == [], "the candidate of the next one keeps its traffic"


def test_a_first_release_that_was_withdrawn_while_it_was_finished_serves_nobody() -> None:
    """DEMAND ROL-10: the guard had the registry's word of before, and the release died after it had withdrawn."""
    begun = replace(AFTER, champion=None, candidates=(arm("2", 100),), lease_until=1.0)
    sky = Sky(begun, "2")
    sky.promoting(None)
    apply = sky.backend.apply

    def late(release: Release) -> Any:
        sky.state, sky.champion_ = "withdrawn", None
        return apply(release)

    sky.backend.apply = late  # type: ignore[method-assign]
    sky.settler.tend(MODEL, "the lease ended")
    assert sky.backend.applied[-1].champion == arm("2", 100) and sky.intent is not None
    sky.backend.abort = lambda *_, **__: None  # type: ignore[attr-defined]
    sky.settler.tend(MODEL, "the lease ended")
    assert sky.backend.applied[-1].champion is None and sky.intent is None
