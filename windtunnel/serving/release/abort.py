"""Abort: traffic first, with nothing but the serving backend; then the registry, now or later.

A first release has no candidate while it is watched: it is champion already, with all requests. It is taken back as its
own gate would do it: the look log says that it ended, and nothing serves.
"""

from __future__ import annotations

import getpass
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from windtunnel.home import Home
from windtunnel.serving.release import outbox
from windtunnel.serving.release.ending import end_log, ended_look

if TYPE_CHECKING:
    from windtunnel.registry.client import RegistryClient
    from windtunnel.registry.orders import OrderRecord
    from windtunnel.serving.backend import Observed
    from windtunnel.serving.place import Looks, Place
    from windtunnel.serving.release.settling import Backend


def abort_release(
    home: Home, place: Place, model: str, reason: str, *, by: str | None = None, now: float | None = None
) -> tuple[Observed, outbox.Note | None]:
    """Take every candidate of ``model`` to 0, or a watched first release out of service, and note it for the registry
    (``outbox.ship`` tells it).

    Args:
        home: where the note waits.
        place: where the model is served.
        by: who; the operating system's user unless told.
        now: seconds since the epoch; the clock's unless told.

    Returns:
        What is now, and the note; None when there was nothing to abort, or somebody else had done it before.
    """
    who = by or getpass.getuser()
    backend = place.backend
    observed = backend.abort(model, reason, who)
    at = time.time() if now is None else now
    if observed.aborted is None:
        first = _take_back_first(place.looks(model), backend, model, reason, who, at)
        if first is None:
            return observed, None
        observed = first
    elif observed.aborted != reason:
        return observed, None
    if observed.rollout_id is None:
        return observed, None
    return observed, outbox.add(home, outbox.Note(model, observed.rollout_id, reason, who, at))


def _take_back_first(log: Looks, backend: Backend, model: str, reason: str, who: str, now: float) -> Observed | None:
    """Take a first release out of service whose watch has begun and not ended; None when there is none.

    First it is said in the look log, in one write: whoever looks after that withdraws the version, and a gate that
    found a moment before that all is well was quicker.
    """
    release = backend.desired(model)
    if release is None or release.candidates or release.rollout_id is None:
        return None
    if release.champion is None or not release.champion.weight:
        return None
    looks = log.read(release.rollout_id)
    if not looks or ended_look(looks) is not None or looks[-1]["decision"]["state"]["champion"] is not None:
        return None
    last = end_log(
        log,
        release.rollout_id,
        next((look["plan"] for look in looks if look.get("plan")), {}),
        champion=None,
        candidate=release.champion.version,
        reason=f"aborted by {who}: {reason}",
        now=now,
        token=release.token,
    )
    if last is None or last["decision"]["action"] != "withdraw":
        return None
    gone = replace(
        release,
        champion=replace(release.champion, weight=0),
        lease_until=None,
        keep_warm_s=0.0,  # nobody goes back to what was withdrawn
        stage=release.stage + 1,
    )
    return backend.apply(gone)


def order_abort(
    registry: RegistryClient, model: str, reason: str, *, on_behalf_of: str | None = None
) -> OrderRecord | None:
    """Order the end of a release that has no candidate in traffic yet; None when none is open.

    Raises:
        WindtunnelError: the registry does not answer, or refuses.
    """
    newest = registry.rollouts(model, limit=1)
    if not newest or not newest[0].live:
        return None
    return registry.order(newest[0].id, "abort", reason, on_behalf_of=on_behalf_of)
