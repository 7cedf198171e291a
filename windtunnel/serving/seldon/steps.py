"""What becomes of a model's desired state here, beyond what ``desired`` says of every backend. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from windtunnel.errors import IntegrityError
from windtunnel.serving import desired
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.desired import Server, State
from windtunnel.serving.seldon import manifest


def deployed(state: State) -> State:
    """Each version that is needed has a predictor; one that is up keeps its settings."""
    servers = dict(state.servers)
    for arm in state.needed():
        if arm.version in state.dropped:
            continue  # taken out of this rollout: its predictor is gone, and stays so
        known, settings = servers.get(arm.version), state.release.settings.get(arm.version)
        same = known if known and known.digest == arm.digest else None
        if same and (same.proven or settings is None):
            settings = same.settings
        servers[arm.version] = Server(
            arm.digest, arm.source, 0, bool(same and same.proven), bool(same and same.served), settings or {}
        )
    return replace(state, servers=servers)


def waited_for(state: State) -> list[Arm]:
    """Arms that must have answered before traffic moves: those that never did, or get more traffic than they have.

    A champion that serves already is not waited for when it takes back what a candidate had.
    """
    if manifest.asleep(replace(state, slots=())):
        return []
    found = []
    for arm in state.needed():
        server = state.servers.get(arm.version)
        if server is None:
            continue
        now = state.weights.get(arm.version, 0)
        more = arm.weight > now and not (server.served and now > 0)
        copies = state.release.mirror and "mirror" not in state.route and arm in state.release.candidates
        if not server.proven or more or copies:
            found.append(arm)
    return found


def without(state: State, versions: Sequence[str]) -> State:
    """Those predictors removed; but never the last, which an object must have."""
    if not set(state.servers) - set(versions):
        return state
    return desired.forget(state, list(versions))


def untried(state: State, release: Release, why: str, now: float) -> State:
    """A release that another process had begun (``begin``), and whose candidates, at 0, never came up: what was wanted
    before it is not known any more, but is what all requests have: its champion alone. Candidates that have never
    answered go."""
    alone = replace(release, candidates=(), rollout_id=None, lease_until=None)
    alone = replace(alone, mirror=0, audience=None, segment_header=None)
    gone = [
        arm.version
        for arm in release.candidates
        if arm.version not in state.slots and arm.version in state.servers and not state.servers[arm.version].proven
    ]
    return without(replace(desired.routed(replace(state, release=alone), now), failed=why), gone)


def identity(release: Release) -> tuple[Any, ...]:
    """What tells one write of a release from another; settings stand elsewhere, a lease may be renewed meanwhile."""
    return release.token, release.rollout_id, release.stage, release.champion, release.candidates, release.mirror


def check_same(state: State, release: Release) -> None:
    """Refuse other content under the name of a version that serves.

    Raises:
        IntegrityError: it says which.
    """
    for arm in release.arms():
        known = state.servers.get(arm.version)
        if known and known.digest != arm.digest and arm.version in state.slots:
            raise IntegrityError(
                f"{release.model} version {arm.version} serves with digest {known.digest}, asked is {arm.digest}",
                hint="a version never changes: register the other content as a version of its own",
            )
