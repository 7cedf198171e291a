"""What any ``ServingBackend`` does (DEMAND SRV-1, SRV-2, SRV-3, ROL-1, ROL-6, ROL-7, ROL-14).

Subclass ``ServingBackendConformance`` in a test file and give it a fixture ``kit`` with a real backend behind it:

- ``backend``: the ``ServingBackend``;
- ``model``: a model of the kit's own;
- ``arm(n, weight)``: version ``n`` (1, 2 or 3), good and fast to deploy again;
- ``changed_arm(weight)``: a version whose bytes are not the sealed ones;
- ``unready_arm(weight)``: a version whose server never becomes ready;
- ``settings``: ``Release.settings`` for all of them;
- ``next_token()``: a fencing token higher than all before;
- ``ask(headers)``: version that answered a good request with these headers, None when none did; what counts requests
  must be running;
- ``fingerprint()``: any value that changes when a file is rewritten, a server restarted or a route replaced.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from windtunnel.errors import FencedError, IntegrityError, NotReadyError, ServingError, UnavailableError
from windtunnel.serving.backend import Capability, Observed, Release


def release(kit: Any, champion: int | None, *candidates: Any, **more: Any) -> Release:
    """A release of the kit's model: champion version 1 at that weight, and the candidates."""
    if "token" not in more:
        more["token"] = kit.next_token()
    more.setdefault("rollout_id", f"rollout-{more['token']}")
    arm = kit.arm(1, champion) if champion is not None else None
    return Release(kit.model, arm, tuple(candidates), settings=kit.settings, **more)


def weights(observed: Observed) -> dict[str, int]:
    return {version: arm.weight for version, arm in observed.arms.items() if arm.weight}


def counted(kit: Any, before: dict[Any, int] | None = None, **wanted: int) -> dict[Any, int]:
    """Requests by part of ``Traffic`` (and segment) and version; those since ``before`` once ``wanted`` came."""
    if before is None:
        time.sleep(1.5)  # requests of before are on their way to the counters
    deadline = time.monotonic() + 90
    while True:
        try:
            found = kit.backend.traffic(kit.model)
        except UnavailableError:
            assert time.monotonic() < deadline, "nothing counts the requests"
            time.sleep(0.2)
            continue
        parts = {"arms": found.arms, "audience": found.audience, "shadow": found.shadow}
        flat = {(part, version): arm.requests for part, arms in parts.items() for version, arm in arms.items()}
        for part, segments in (("segments", found.segments), ("shadow_segments", found.shadow_segments)):
            flat |= {(part, name, v): arm.requests for name, arms in segments.items() for v, arm in arms.items()}
        if before is None:
            return flat
        since = {key: n - before.get(key, 0) for key, n in flat.items() if n > before.get(key, 0)}
        sums = {part: sum(n for key, n in since.items() if key[0] == part) for part in wanted}
        if all(sums[part] >= n for part, n in wanted.items()):
            return since
        assert time.monotonic() < deadline, f"wanted {wanted}, counted {since}"
        time.sleep(0.2)


class ServingBackendConformance:
    @pytest.fixture
    def start(self, kit: Any) -> Iterator[Release]:
        """The champion alone, the candidate deployed with nothing."""
        begun = release(kit, 100, kit.arm(2, 0))
        kit.backend.apply(begun)
        yield begun

    def test_a_model_never_deployed_has_no_arms_and_token_zero(self, kit: Any) -> None:
        seen = kit.backend.observe("never-deployed")
        assert (seen.arms, seen.token, seen.rollout_id, seen.aborted) == ({}, 0, None, None)

    def test_a_candidate_without_weight_is_deployed_and_ready(self, kit: Any, start: Release) -> None:
        seen = kit.backend.observe(kit.model)
        assert weights(seen) == {kit.arm(1, 0).version: 100}
        assert seen.arms[kit.arm(2, 0).version].ready
        assert (seen.token, seen.rollout_id, seen.aborted) == (start.token, start.rollout_id, None)

    @pytest.mark.parametrize("weight", [5, 25, 50, 75, 100, 1, 0])
    def test_weights_are_read_back_as_asked(self, kit: Any, start: Release, weight: int) -> None:
        seen = kit.backend.apply(release(kit, 100 - weight, kit.arm(2, weight), token=start.token))
        expected = {kit.arm(1, 0).version: 100 - weight, kit.arm(2, 0).version: weight}
        assert weights(seen) == {version: share for version, share in expected.items() if share}
        assert kit.backend.observe(kit.model) == seen

    def test_the_same_state_again_changes_nothing(self, kit: Any, start: Release) -> None:
        asked = release(kit, 75, kit.arm(2, 25), lease_until=time.time() + 1000)
        first, print_ = kit.backend.apply(asked), kit.fingerprint()
        assert kit.backend.apply(asked) == first
        assert kit.fingerprint() == print_

    def test_an_older_token_is_refused_and_changes_nothing(self, kit: Any, start: Release) -> None:
        asked = release(kit, 95, kit.arm(2, 5))
        before, print_ = kit.backend.apply(asked), kit.fingerprint()
        with pytest.raises(FencedError):
            kit.backend.apply(release(kit, 0, kit.arm(2, 100), token=asked.token - 1))
        assert kit.backend.observe(kit.model) == before
        assert kit.fingerprint() == print_

    def test_abort_takes_candidates_to_zero_and_fences_the_rollout(self, kit: Any, start: Release) -> None:
        asked = release(kit, 25, kit.arm(2, 75), lease_until=time.time() + 1000)
        kit.backend.apply(asked)
        began = time.monotonic()
        seen = kit.backend.abort(kit.model, "too many errors", "a person")
        assert time.monotonic() - began < 20
        assert weights(seen) == {kit.arm(1, 0).version: 100}
        assert seen.aborted == "too many errors"
        assert seen.lease_until is None
        with pytest.raises(FencedError, match="too many errors"):
            kit.backend.apply(asked)
        with pytest.raises(FencedError):
            kit.backend.renew(kit.model, asked.token, time.time() + 1000)
        with pytest.raises(FencedError):  # nor under another name with the same token
            kit.backend.apply(release(kit, 25, kit.arm(2, 75), token=asked.token, rollout_id="another"))
        with pytest.raises(FencedError):  # nor with a new token under the same name
            kit.backend.apply(release(kit, 25, kit.arm(2, 75), rollout_id=asked.rollout_id))
        assert weights(kit.backend.observe(kit.model)) == {kit.arm(1, 0).version: 100}

    def test_a_new_rollout_may_begin_after_an_abort(self, kit: Any, start: Release) -> None:
        kit.backend.apply(release(kit, 50, kit.arm(2, 50)))
        kit.backend.abort(kit.model, "no", "guard")
        seen = kit.backend.apply(release(kit, 95, kit.arm(2, 5)))
        assert seen.aborted is None
        assert seen.arms[kit.arm(2, 0).version].weight == 5

    def test_abort_again_keeps_the_first_reason(self, kit: Any, start: Release) -> None:
        kit.backend.apply(release(kit, 50, kit.arm(2, 50)))
        kit.backend.abort(kit.model, "first", "guard")
        assert kit.backend.abort(kit.model, "second", "guard").aborted == "first"

    def test_abort_without_a_candidate_changes_nothing(self, kit: Any, start: Release) -> None:
        before, print_ = kit.backend.apply(release(kit, 100)), kit.fingerprint()
        assert kit.backend.abort(kit.model, "no", "guard") == before
        assert kit.fingerprint() == print_

    def test_a_write_of_an_earlier_stage_comes_too_late(self, kit: Any, start: Release) -> None:
        """A worker that was paused and goes on: another try of the same release has gone further (DEMAND PIP-5)."""
        asked = release(kit, 50, kit.arm(2, 50), stage=3)
        before, print_ = kit.backend.apply(asked), kit.fingerprint()
        late = release(kit, 90, kit.arm(2, 10), token=asked.token, rollout_id=asked.rollout_id, stage=2)
        with pytest.raises(FencedError, match="stage"):
            kit.backend.apply(late)
        assert kit.backend.observe(kit.model) == before
        assert kit.fingerprint() == print_
        # Another holder begins anew.
        assert weights(kit.backend.apply(release(kit, 90, kit.arm(2, 10), rollout_id=asked.rollout_id)))

    def test_what_the_registry_made_of_an_aborted_rollout_is_taken(self, kit: Any, start: Release) -> None:
        """It had committed: its champion alone gets the traffic, also after an abort (DEMAND ROL-7)."""
        asked = release(kit, 0, kit.arm(2, 100), stage=3)
        kit.backend.apply(asked)
        kit.backend.abort(kit.model, "a moment too late", "guard")
        same = {"token": asked.token, "rollout_id": asked.rollout_id, "settings": kit.settings}
        for stage in (2, 3):  # not later than what was aborted
            with pytest.raises(FencedError):
                kit.backend.apply(Release(kit.model, kit.arm(2, 100), stage=stage, **same))
        with pytest.raises(FencedError):  # nor with a candidate
            kit.backend.apply(Release(kit.model, kit.arm(1, 50), (kit.arm(2, 50),), stage=4, **same))
        seen = kit.backend.apply(Release(kit.model, kit.arm(2, 100), stage=4, **same))
        assert weights(seen) == {kit.arm(2, 0).version: 100}
        assert seen.aborted is None

    def test_a_holder_does_not_end_what_a_later_one_began(self, kit: Any, start: Release) -> None:
        """DEMAND ROL-7"""
        asked = release(kit, 50, kit.arm(2, 50))
        before, print_ = kit.backend.apply(asked), kit.fingerprint()
        assert kit.backend.abort(kit.model, "an old rollback", "a late worker", token=asked.token - 1) == before
        assert kit.fingerprint() == print_
        assert weights(kit.backend.abort(kit.model, "no", "its holder", token=asked.token)) == {
            kit.arm(1, 0).version: 100
        }

    def test_a_lease_is_renewed_by_its_holder_only(self, kit: Any, start: Release) -> None:
        asked = release(kit, 95, kit.arm(2, 5), lease_until=1000.0)
        kit.backend.apply(asked)
        kit.backend.renew(kit.model, asked.token, 2000.0)
        assert kit.backend.observe(kit.model).lease_until == 2000.0
        for token in (asked.token - 1, asked.token + 1):
            with pytest.raises(FencedError):
                kit.backend.renew(kit.model, token, 3000.0)
        assert kit.backend.observe(kit.model).lease_until == 2000.0
        # A gate that goes on when the guard has given the champion everything: nobody is exposed, nothing is leased.
        same = {"token": asked.token, "rollout_id": asked.rollout_id}
        kit.backend.apply(release(kit, 100, **same, stage=asked.stage + 1))
        kit.backend.renew(kit.model, asked.token, 3000.0)
        assert kit.backend.observe(kit.model).lease_until is None

    @pytest.mark.parametrize(("champion", "candidate"), [(90, 5), (100, 5), (105, -5), (0, 99)])
    def test_weights_that_cannot_be_are_refused(self, kit: Any, start: Release, champion: int, candidate: int) -> None:
        before = kit.backend.observe(kit.model)
        with pytest.raises(ServingError, match="sum to"):
            kit.backend.apply(release(kit, champion, kit.arm(2, candidate)))
        assert kit.backend.observe(kit.model) == before

    def test_one_version_cannot_be_two_arms(self, kit: Any, start: Release) -> None:
        with pytest.raises(ServingError, match="twice"):
            kit.backend.apply(release(kit, 50, kit.arm(1, 50)))

    def test_changed_bytes_are_refused_and_traffic_stays(self, kit: Any, start: Release) -> None:
        before = kit.backend.apply(release(kit, 90, kit.arm(2, 10)))
        with pytest.raises(IntegrityError):
            kit.backend.apply(release(kit, 90, kit.changed_arm(10)))
        after = kit.backend.observe(kit.model)
        assert weights(after) == weights(before)
        assert kit.changed_arm(0).version not in after.arms

    def test_an_unready_candidate_leaves_traffic_as_it_was(self, kit: Any, start: Release) -> None:
        before = kit.backend.apply(release(kit, 90, kit.arm(2, 10)))
        asked = release(kit, 80, kit.unready_arm(20))
        with pytest.raises(NotReadyError):
            kit.backend.apply(asked)
        after = kit.backend.observe(kit.model)
        assert weights(after) == weights(before)
        assert after.arms.keys() == before.arms.keys(), "what was tried is gone"
        # The token is spent: who held the rollout before does not get it back, the new holder goes on.
        with pytest.raises(FencedError):
            kit.backend.apply(release(kit, 50, kit.arm(2, 50), token=asked.token - 1))
        assert weights(kit.backend.apply(release(kit, 100, kit.arm(2, 0), token=asked.token)))

    # -- beyond weights of two arms: done, or refused before anything moves (DEMAND ROL-14)

    def able(self, kit: Any, capability: str, asked: Release) -> bool:
        """Whether the backend can; if not, it says so and changes nothing."""
        if capability in kit.backend.capabilities:
            return True
        before, print_ = kit.backend.observe(kit.model), kit.fingerprint()
        with pytest.raises(ServingError):
            kit.backend.apply(asked)
        assert kit.backend.observe(kit.model) == before
        assert kit.fingerprint() == print_
        return False

    def test_what_it_can_do_is_said_in_known_words(self, kit: Any) -> None:
        assert kit.backend.capabilities <= set(get_args(Capability))

    def test_copies_are_counted_and_users_never_get_their_answers(self, kit: Any, start: Release) -> None:
        asked = release(kit, 100, kit.arm(2, 0), mirror=100)
        if not self.able(kit, "mirror", asked):
            return
        seen = kit.backend.apply(asked)
        assert (weights(seen), seen.mirror) == ({kit.arm(1, 0).version: 100}, 100)
        assert kit.backend.observe(kit.model) == seen
        before = counted(kit)
        assert [kit.ask({}) for _ in range(20)] == [kit.arm(1, 0).version] * 20
        found = counted(kit, before, shadow=20)
        assert found == {("arms", kit.arm(1, 0).version): 20, ("shadow", kit.arm(2, 0).version): 20}
        assert kit.backend.apply(release(kit, 100, kit.arm(2, 0), mirror=40)).mirror == 40
        assert kit.backend.abort(kit.model, "copies fail", "guard").mirror == 0
        assert kit.backend.observe(kit.model).mirror == 0

    def test_copies_end_when_the_candidate_gets_traffic_of_its_own(self, kit: Any, start: Release) -> None:
        asked = release(kit, 100, kit.arm(2, 0), mirror=100)
        if self.able(kit, "mirror", asked):
            kit.backend.apply(asked)
            seen = kit.backend.apply(release(kit, 95, kit.arm(2, 5), token=asked.token))
            assert (seen.mirror, seen.arms[kit.arm(2, 0).version].weight) == (0, 5)

    @pytest.mark.parametrize(
        ("champion", "candidate", "mirror"), [(95, 5, 10), (None, 0, 10), (100, 0, 101), (0, 100, 1)]
    )
    def test_copies_that_cannot_be_are_refused(
        self, kit: Any, start: Release, champion: int | None, candidate: int, mirror: int
    ) -> None:
        before = kit.backend.observe(kit.model)
        with pytest.raises(ServingError, match="mirror"):
            kit.backend.apply(release(kit, champion, kit.arm(2, candidate), mirror=mirror))
        assert kit.backend.observe(kit.model) == before

    @pytest.mark.parametrize("weight", [0, 10])
    def test_an_audience_gets_the_candidate_until_the_rollout_is_aborted(
        self, kit: Any, start: Release, weight: int
    ) -> None:
        tester = {"x-tester": "yes"}
        asked = release(kit, 100 - weight, kit.arm(2, weight), audience=("X-Tester", "yes"))
        if not self.able(kit, "audience", asked):
            return
        champion, candidate = kit.arm(1, 0).version, kit.arm(2, 0).version
        seen = kit.backend.apply(asked)
        assert seen.audience == ("x-tester", "yes")
        assert kit.backend.observe(kit.model) == seen
        before = counted(kit)
        assert [kit.ask(tester) for _ in range(10)] == [candidate] * 10
        found = counted(kit, before, audience=10)
        assert found == {("audience", candidate): 10}, "who chooses for themselves is not compared"
        if not weight:
            assert [kit.ask({"x-tester": "no"}) for _ in range(5)] == [champion] * 5
        assert kit.backend.abort(kit.model, "testers say no", "a person").audience is None
        assert [kit.ask(tester) for _ in range(5)] == [champion] * 5

    def test_an_audience_ends_with_the_release_that_named_it(self, kit: Any, start: Release) -> None:
        asked = release(kit, 100, kit.arm(2, 0), audience=("x-tester", "yes"))
        if self.able(kit, "audience", asked):
            kit.backend.apply(asked)
            kit.backend.apply(release(kit, 100))
            assert kit.ask({"x-tester": "yes"}) == kit.arm(1, 0).version

    @pytest.mark.parametrize(
        "more",
        [
            {"audience": ("x-windtunnel-client", "me")},
            {"audience": ("a header", "yes")},
            {"audience": (":path", "/")},
            {"audience": ("x-tester", "")},
            {"audience": ("x-tester", "yes\r\nx-other: 1")},
            {"segment_header": "X-Windtunnel-Segment"},
            {"segment_header": "x-country", "segments": ("de", "no name")},
            {"segment_header": "x-country", "segments": ("de", "de")},
            {"segments": ("de",)},
        ],
        ids=str,
    )
    def test_headers_that_cannot_be_are_refused(self, kit: Any, start: Release, more: dict[str, Any]) -> None:
        before = kit.backend.observe(kit.model)
        with pytest.raises(ServingError):
            kit.backend.apply(release(kit, 100, kit.arm(2, 0), **more))
        assert kit.backend.observe(kit.model) == before

    def test_requests_are_counted_by_the_segment_they_name(self, kit: Any, start: Release) -> None:
        asked = release(kit, 100, kit.arm(2, 0), segment_header="x-country", segments=("de", "us"))
        if not self.able(kit, "segments", asked):
            return
        kit.backend.apply(asked)
        champion, before = kit.arm(1, 0).version, counted(kit)
        for country in ("de", "us", "de", "?"):
            kit.ask({"x-country": country})
        kit.ask({})
        found = counted(kit, before, arms=5)
        assert found == {
            ("arms", champion): 5,
            ("segments", "de", champion): 2,
            ("segments", "us", champion): 1,
            ("segments", "other", champion): 1,
        }

    def test_three_arms(self, kit: Any, start: Release) -> None:
        asked = release(kit, 60, kit.arm(2, 30), kit.arm(3, 10))
        if not self.able(kit, "several", asked):
            return
        seen = kit.backend.apply(asked)
        assert weights(seen) == {kit.arm(n, 0).version: weight for n, weight in ((1, 60), (2, 30), (3, 10))}
        assert {kit.ask({}) for _ in range(200)} == {kit.arm(n, 0).version for n in (1, 2, 3)}
        with pytest.raises(ServingError, match="mirror"):
            kit.backend.apply(release(kit, 100, kit.arm(2, 0), kit.arm(3, 0), mirror=10))
        assert weights(kit.backend.abort(kit.model, "no", "guard")) == {kit.arm(1, 0).version: 100}

    def test_one_of_several_candidates_is_dropped_and_the_others_fly_on(self, kit: Any, start: Release) -> None:
        """DEMAND ROL-14"""
        asked = release(kit, 60, kit.arm(2, 30), kit.arm(3, 10))
        if not self.able(kit, "several", asked):
            return
        kit.backend.apply(asked)
        one, two, three = (kit.arm(n, 0).version for n in (1, 2, 3))
        assert weights(kit.backend.drop(kit.model, [two], "too late", token=asked.token - 1)) == {
            one: 60, two: 30, three: 10,
        }  # fmt: skip
        seen = kit.backend.drop(kit.model, [two], "it fails", token=asked.token)
        assert weights(seen) == {one: 90, three: 10} and seen.aborted is None
        assert weights(kit.backend.observe(kit.model)) == {one: 90, three: 10}
        assert two not in {kit.ask({}) for _ in range(100)}
        before = kit.fingerprint()
        kit.backend.drop(kit.model, [two], "it fails", token=asked.token)
        assert kit.fingerprint() == before
        with pytest.raises(FencedError, match="it fails"):
            kit.backend.apply(asked)
        left = release(kit, 80, kit.arm(2, 0), kit.arm(3, 20), token=asked.token, rollout_id=asked.rollout_id)
        assert weights(kit.backend.apply(left)) == {one: 80, three: 20}
        assert weights(kit.backend.apply(release(kit, 70, kit.arm(2, 30)))) == {one: 70, two: 30}, "another rollout"

    def test_the_champion_stays_ready_while_the_candidate_has_everything(self, kit: Any, start: Release) -> None:
        """Blue-green and bake (DEMAND ROL-1): the way back is one change of weights."""
        testers = {"audience": ("x-tester", "yes")} if "audience" in kit.backend.capabilities else {}
        seen = kit.backend.apply(release(kit, 0, kit.arm(2, 100), **testers))
        champion = seen.arms[kit.arm(1, 0).version]
        assert (champion.weight, champion.ready, champion.state) == (0, True, "ready")
        assert seen.audience is None, "with all traffic there is nobody to tell an audience from"
        began = time.monotonic()
        assert weights(kit.backend.abort(kit.model, "slow", "guard")) == {kit.arm(1, 0).version: 100}
        assert time.monotonic() - began < 20
        assert kit.ask({}) == kit.arm(1, 0).version

    def test_nothing_may_serve(self, kit: Any, start: Release) -> None:
        assert weights(kit.backend.apply(release(kit, 0, kit.arm(2, 0)))) == {}

    def test_a_first_release_that_is_aborted_serves_nothing(self, kit: Any, start: Release) -> None:
        kit.backend.apply(release(kit, None, kit.arm(2, 100)))
        assert weights(kit.backend.abort(kit.model, "breach", "guard")) == {}

    def test_a_dead_source_of_counters_is_never_an_empty_answer(self, kit: Any) -> None:
        with pytest.raises(UnavailableError):
            kit.backend.traffic("never-deployed")
