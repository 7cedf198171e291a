"""Traffic follows the registry outside a release: a champion that was changed there gets the requests here.

A release moves its own traffic and tells the registry. What changes the champion without one (an emergency rollback, an
alias set by hand) knows nothing of the traffic; the guard brings it along, or the command at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from windtunnel.serving.backend import Arm, Observed, Release


class Backend(Protocol):
    """What following needs of the place where traffic flows (``LocalBackend``)."""

    def apply(self, release: Release) -> Observed: ...


def followed(release: Release, version: str, digest: str) -> Release | None:
    """``release`` with the registry's champion alone; None when it has all requests already, or has none because it is
    being withdrawn: its traffic goes first, and the registry is told after it (ROL-10).

    A later stage of the same rollout, so that it is taken after an abort, and nothing earlier after it. Its server's
    settings are those it was deployed with.
    """
    now = release.champion
    if now is not None and now.version == version and now.weight in (0, 100) and not release.exposed:
        return None
    known = next((arm for arm in release.arms() if arm.version == version), None)
    arm = known or Arm(version, digest, f"models:/{release.model}/{version}")
    return replace(
        release,
        champion=replace(arm, weight=100),
        candidates=(),
        lease_until=None,
        mirror=0,
        audience=None,
        stage=release.stage + 1,
    )


def follow(backend: Backend, release: Release | None, champion: Any) -> bool:
    """Give the traffic of a model to the registry's champion.

    Args:
        release: what was wanted before the registry was asked. The answer may come late: a release that has begun
            meanwhile moves its own traffic, and refuses this write by its token.
        champion: the registry's record: ``version``, ``digest``.

    Returns:
        False when it has it already, or when nothing of the model is served here.

    Raises:
        FencedError: another release has begun meanwhile, or somebody else has gone further with this one.
        ServingError, IntegrityError: of the backend.
    """
    if release is None or champion is None or champion.digest is None:
        return False
    final = followed(release, str(champion.version), str(champion.digest))
    if final is None:
        return False
    backend.apply(final)
    return True
