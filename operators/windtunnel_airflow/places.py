"""Where a task's model is served, by Airflow's connections; one place per process and cluster.

A triggerer with two hundred gates has one list and one watch of the namespace, and one memory of Prometheus' counters,
for all of them. Connections are read again every five minutes; where they say something else, a new place is made.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from windtunnel.errors import IntegrityError, UnavailableError, WindtunnelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from windtunnel.serving.backend import Arm
    from windtunnel.serving.place import Place
    from windtunnel.serving.seldon import Seldon
    from windtunnel_airflow.hook import WindtunnelHook

log = logging.getLogger(__name__)

#: Seconds after which connections are read again.
RELOAD_S = 300.0
#: For so long the first gate of a process waits for the list; after that each asks the API itself.
_LISTED_WITHIN_S = 10.0


@dataclass(slots=True)
class _Known:
    settings: Seldon
    place: Place
    read_at: float
    following: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    followed: bool = False


_known: dict[tuple[str, str], _Known] = {}
_lock = threading.Lock()


def cluster(windtunnel_conn_id: str, seldon_conn_id: str, *, follow: bool = False) -> Place:
    """The cluster that a connection names.

    Args:
        windtunnel_conn_id: the registry, whose files signatures are compared by, and the object store.
        follow: feed all looks by one list and one watch, for as long as this process lives.
    """
    key = (windtunnel_conn_id, seldon_conn_id)
    with _lock:
        found = _known.get(key)
        if found is None or time.monotonic() - found.read_at >= RELOAD_S:
            found = _known[key] = _read(key, found)
        if follow and not found.followed:
            _follow(found)
        return found.place


def forget() -> None:
    """Drop every place of this process (for tests, and after a fork)."""
    with _lock:
        for one in _known.values():
            one.following.close()
        _known.clear()


def _read(key: tuple[str, str], before: _Known | None) -> _Known:
    from windtunnel.serving.place import in_cluster
    from windtunnel_airflow.hook import WindtunnelHook
    from windtunnel_airflow.seldon import SeldonHook

    settings = SeldonHook(key[1]).settings
    if before is not None and before.settings == settings:
        before.read_at = time.monotonic()
        return before
    if before is not None:
        before.following.close()
    hook = WindtunnelHook(key[0])
    place = in_cluster(settings, store=hook.object_store, read_mlmodel=_mlmodel(hook))
    return _Known(settings, place, time.monotonic())


def _follow(known: _Known) -> None:
    known.followed = True
    try:
        known.following.enter_context(known.place.backend.following(_LISTED_WITHIN_S))
    except UnavailableError as error:
        log.warning("models are looked up one by one: %s", error.message)
        known.followed = False


def _mlmodel(hook: WindtunnelHook) -> Callable[[str, Arm], bytes]:
    """The sealed ``MLmodel`` of a version, from the connection's server."""

    def read(model: str, arm: Arm) -> bytes:
        record = hook.registry.version(model, arm.version)
        name = f"{model} version {arm.version}"
        sealed: dict[str, Any] = dict(record.manifest or {})
        if record.digest != arm.digest or not sealed or not record.location:
            raise IntegrityError(
                f"{name} is not what the release says: the registry has digest {record.digest}", hint="release it again"
            )
        data = _artifact(hook, f"{record.location}/MLmodel")
        if _digest(sealed, "MLmodel") != hashlib.sha256(data).hexdigest():
            raise IntegrityError(f"the MLmodel file of {name} is not the one that was sealed")
        return data

    return read


def _digest(sealed: dict[str, Any], name: str) -> str | None:
    from windtunnel.evidence.manifest import Manifest

    found = Manifest.from_dict(sealed).files.get(name)
    return found[0] if found else None


def _artifact(hook: WindtunnelHook, path: str) -> bytes:
    try:
        return hook.rest.file(path)
    except UnavailableError:
        raise
    except WindtunnelError as error:
        raise IntegrityError(f"{path} cannot be read: {error.message}") from error
