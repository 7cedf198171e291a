"""Abort: traffic first, with nothing but the serving backend; then the registry, now or later."""

from __future__ import annotations

import getpass
import time
from typing import TYPE_CHECKING

from windtunnel.home import Home
from windtunnel.serving import outbox
from windtunnel.serving.backend import Observed, ServingBackend

if TYPE_CHECKING:
    from windtunnel.registry.client import RegistryClient
    from windtunnel.registry.orders import OrderRecord


def abort_release(
    home: Home, backend: ServingBackend, model: str, reason: str, *, by: str | None = None, now: float | None = None
) -> tuple[Observed, outbox.Note | None]:
    """Take every candidate of ``model`` to 0 and note it for the registry (``outbox.ship`` tells it).

    Args:
        by: who; the operating system's user unless told.
        now: seconds since the epoch; the clock's unless told.

    Returns:
        What is now, and the note; None when there was nothing to abort, or somebody else had done it before.
    """
    who = by or getpass.getuser()
    observed = backend.abort(model, reason, who)
    if observed.aborted != reason or observed.rollout_id is None:
        return observed, None
    at = time.time() if now is None else now
    return observed, outbox.add(home, outbox.Note(model, observed.rollout_id, reason, who, at))


def order_abort(
    registry: RegistryClient, model: str, reason: str, *, on_behalf_of: str | None = None
) -> OrderRecord | None:
    """Order the end of a release that has no candidate in traffic yet; None when none is open.

    Raises:
        WindtunnelError: the registry does not answer, or refuses.
    """
    newest = registry.rollouts(model, limit=1)
    if not newest or newest[0].ended:
        return None
    return registry.order(newest[0].id, "abort", reason, on_behalf_of=on_behalf_of)
