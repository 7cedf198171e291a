"""What any ``ServingBackend`` does (DEMAND SRV-1, SRV-2, SRV-3, ROL-6, ROL-7).

Subclass ``ServingBackendConformance`` in a test file and give it a fixture ``kit`` with a real backend behind it:

- ``backend``: the ``ServingBackend``;
- ``model``: a model of the kit's own;
- ``arm(n, weight)``: version ``n`` (1 or 2), good and fast to deploy again;
- ``changed_arm(weight)``: a version whose bytes are not the sealed ones;
- ``unready_arm(weight)``: a version whose server never becomes ready;
- ``settings``: ``Release.settings`` for all of them;
- ``next_token()``: a fencing token higher than all before;
- ``fingerprint()``: any value that changes when a file is rewritten, a server restarted or a route replaced.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from windtunnel.errors import FencedError, IntegrityError, NotReadyError, ServingError, UnavailableError
from windtunnel.serving.backend import Observed, Release


def release(kit: Any, champion: int | None, *candidates: Any, **more: Any) -> Release:
    """A release of the kit's model: champion version 1 at that weight, and the candidates."""
    if "token" not in more:
        more["token"] = kit.next_token()
    more.setdefault("rollout_id", f"rollout-{more['token']}")
    arm = kit.arm(1, champion) if champion is not None else None
    return Release(kit.model, arm, tuple(candidates), settings=kit.settings, **more)


def weights(observed: Observed) -> dict[str, int]:
    return {version: arm.weight for version, arm in observed.arms.items() if arm.weight}


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
        assert time.monotonic() - began < 5
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

    def test_a_lease_is_renewed_by_its_holder_only(self, kit: Any, start: Release) -> None:
        asked = release(kit, 95, kit.arm(2, 5), lease_until=1000.0)
        kit.backend.apply(asked)
        kit.backend.renew(kit.model, asked.token, 2000.0)
        assert kit.backend.observe(kit.model).lease_until == 2000.0
        for token in (asked.token - 1, asked.token + 1):
            with pytest.raises(FencedError):
                kit.backend.renew(kit.model, token, 3000.0)
        assert kit.backend.observe(kit.model).lease_until == 2000.0

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

    def test_nothing_may_serve(self, kit: Any, start: Release) -> None:
        assert weights(kit.backend.apply(release(kit, 0, kit.arm(2, 0)))) == {}

    def test_a_first_release_that_is_aborted_serves_nothing(self, kit: Any, start: Release) -> None:
        kit.backend.apply(release(kit, None, kit.arm(2, 100)))
        assert weights(kit.backend.abort(kit.model, "breach", "guard")) == {}

    def test_a_dead_source_of_counters_is_never_an_empty_answer(self, kit: Any) -> None:
        with pytest.raises(UnavailableError):
            kit.backend.traffic("never-deployed")
