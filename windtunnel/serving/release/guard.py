"""The guard: takes a candidate nobody watches to 0, and settles a rollout whose holder died.

A process of its own, outside Airflow, so that a rollout cannot outlive those who watch it (ROL-6). Its only
powers: set candidates to 0 when their lease has ended (``lease``), bring traffic, registry and look log to one
story when a holder died between them (``settling``), and let the backend unload versions whose keep-warm time is
over. It needs no registry and no Airflow for the first.

Several may guard the same cluster at once (decision 0026): each write is onto what was read, and the second finds done
what the first did.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from windtunnel import files
from windtunnel.home import Home
from windtunnel.names import MODEL_NAME
from windtunnel.serving.backend import Observed, Release
from windtunnel.serving.place import Place, at_home
from windtunnel.serving.release import outbox, settling
from windtunnel.serving.release.ending import Looks
from windtunnel.serving.release.intent import Intents
from windtunnel.serving.release.lease import Clock, Sightings, leased, over_by, overdue
from windtunnel.serving.release.settling import BY, Registry, Settler

log = logging.getLogger("windtunnel.guard")

#: A promotion whose lease has ended is settled with the registry's word. When that does not come within so long, users
#: go back to the champion first; if it turns out that the registry had committed, the traffic follows then.
SETTLE_GRACE_S = 10.0
_SETTLE_EVERY_S = 2.0
_ACTS_KEPT = 50


class Backend(settling.Backend, Protocol):
    """What the guard needs of the place where traffic flows (``LocalBackend``)."""

    def sweep(self, now: float) -> Any: ...


class Guard:
    """The guard of one home. ``watch`` judges leases, ``tend`` does what may take long; each has its own thread.

    Args:
        registry: makes a client when one is needed; raises UnavailableError (or any WindtunnelError) when it cannot.
        clock: reads both clocks.
        intents, looks: others than those that lie in ``home``.
    """

    def __init__(
        self,
        home: Home,
        backend: Backend,
        registry: Callable[[], Registry],
        *,
        clock: Callable[[], Clock] = Clock.read,
        tick_s: float = 1.0,
        intents: settling.Intents | None = None,
        looks: Callable[[str], Looks] | None = None,
    ) -> None:
        self.home = home
        self._backend = backend
        self._connect: Callable[[], Any] = registry
        self._clock = clock
        self._tick_s = tick_s
        self._intents = intents or Intents(home)
        self._sightings = Sightings()
        self._status: dict[str, dict[str, Any]] = {}
        self._errors: dict[str, str] = {}
        self._acts: deque[dict[str, Any]] = deque(maxlen=_ACTS_KEPT)
        self._settler = Settler(
            backend,
            self._intents,
            looks or self._log,
            registry,
            act=self._act,
            errors=self._errors,
            monotonic=lambda: clock().monotonic,
            wall=lambda: clock().wall,
        )

    def watch(self) -> None:
        """Take every candidate whose lease has ended to 0; then renew the heartbeat. No model can stop it."""
        status = {}
        for model in self._models():
            try:
                status[model] = self._watch_one(model)
            except Exception as error:
                # One model whose state cannot be read must not leave the others unguarded.
                log.error("model %s cannot be guarded: %r", model, error)
                status[model] = {"state": "unknown", "error": f"{type(error).__name__}: {error}"}
        self._status = status
        self._beat()

    def tend(self) -> None:
        """Settle rollouts whose holder is gone, and let the backend unload what is warm no longer."""
        self._ship()
        for model in self._models():
            try:
                if self._settler.tend(model, self._look(model)[1]):
                    self._errors.pop(model, None)
            except Exception as error:
                log.error("the rollout of model %s cannot be settled: %r", model, error)
                self._errors[model] = f"{type(error).__name__}: {error}"
        sweep = getattr(self._backend, "sweep", None)
        if sweep is not None:
            try:
                sweep(self._clock().wall)
                self._errors.pop("(sweep)", None)
            except Exception as error:
                log.error("the backend cannot be swept: %r", error)
                self._errors["(sweep)"] = f"{type(error).__name__}: {error}"

    def _ship(self) -> None:
        """Tell the registry what people did while it was down."""
        try:
            if outbox.pending(self.home):
                outbox.ship(self.home, self._connect())
            self._errors.pop("(outbox)", None)
        except Exception as error:
            self._errors["(outbox)"] = f"{type(error).__name__}: {error}"

    def _models(self) -> list[str]:
        """Those that have a folder here, and those the backend knows of: a cluster's are in no folder."""
        folder = self.home.serving / "models"
        found = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
        ask = getattr(self._backend, "models", None)
        if ask is not None:
            try:
                found |= set(ask())
                self._errors.pop("(models)", None)
            except Exception as error:
                # Those that were known are still there; each is asked for by itself.
                log.error("the backend cannot be asked for its models: %r", error)
                self._errors["(models)"] = f"{type(error).__name__}: {error}"
                found |= set(self._status)
        return sorted(name for name in found if MODEL_NAME.fullmatch(name))

    def _log(self, model: str) -> Looks:
        from windtunnel.serving.release.looklog import LookLog

        return LookLog(self.home, model)

    def _look(self, model: str) -> tuple[Observed, str | None, float]:
        """What is wanted, why its candidates must go, and for how many seconds they should be gone.

        The lease stands in the desired state, not with the router: one that does not answer hides nothing. A cluster's
        is told by a watch, which may be silent without anybody's having noticed yet; so a lease that seems to have
        ended is asked for once more. A guard that is half cut off then harms no rollout that others see alive.
        """
        silence = getattr(self._backend, "silence", None)
        found = self._judged(model, self._backend.desired, silence)
        ask = getattr(self._backend, "asked", None)
        return found if found[1] is None or ask is None else self._judged(model, ask)

    def _judged(
        self, model: str, read: Callable[[str], Release | None], silence: Callable[[], float] | None = None
    ) -> tuple[Observed, str | None, float]:
        """``_look`` by one reading. The clocks are read first: a lease is never judged by a time after it was read.

        Args:
            silence: for how many seconds whoever is read has heard nothing of the world; None: it looks itself.
        """
        now = self._clock()
        as_of = now.monotonic - (silence() if silence is not None else 0.0)
        release = read(model)
        observed = leased(model, release)
        seen = self._sightings.of(observed, now, as_of, release.lease_s if release is not None else None)
        return observed, overdue(observed, now, seen), over_by(observed, now, seen) or 0.0

    def _watch_one(self, model: str) -> dict[str, Any]:
        observed, reason, over = self._look(model)
        found = self._intents.read(model)
        state = "idle" if observed.lease_until is None else "leased"
        promoting = found is not None and observed.rollout_id in (None, found.rollout_id)
        if promoting and over < SETTLE_GRACE_S and not self._settler.deaf(model):
            state = "promoting"  # with the registry's word it is settled without a detour
        elif reason is not None:
            observed = self._backend.abort(model, reason, BY, token=observed.token)
            self._act(model, "abort", reason)
            state = "aborted"
        return {
            "state": state,
            "rollout_id": observed.rollout_id,
            "token": observed.token,
            "lease_until": observed.lease_until,
            "aborted": observed.aborted,
        }

    def _act(self, model: str, action: str, reason: str) -> None:
        log.warning("model %s: %s: %s", model, action, reason)
        self._acts.append({"at": self._clock().wall, "model": model, "action": action, "reason": reason})

    def _beat(self) -> None:
        files.write_json(
            heartbeat_path(self.home),
            {
                "v": 1,
                "pid": os.getpid(),
                "at": self._clock().wall,
                "tick_s": self._tick_s,
                "models": self._status,
                "errors": dict(self._errors),
                "acts": list(self._acts),
            },
            durable=False,
        )


def heartbeat_path(home: Home) -> Path:
    """``HOME/serving/guard.json``: ``at``, ``pid``, what the guard sees of each model and did last."""
    return home.serving / "guard.json"


def run(
    home: Home,
    stop: threading.Event,
    tick_s: float = 1.0,
    *,
    place: Place | None = None,
    registry: Callable[[], Registry] | None = None,
) -> None:
    """Guard ``home``, or another place, until ``stop`` is set.

    Args:
        tick_s: seconds between two looks at the leases.
        place, registry: others than the local ones of ``home``.
    """
    home.serving.mkdir(parents=True, exist_ok=True)
    where = place or at_home(home)
    guard = Guard(
        home,
        where.backend,
        registry or (lambda: _registry(home)),
        tick_s=tick_s,
        intents=where.intents,
        looks=where.looks,
    )

    def tend() -> None:
        while not stop.wait(_SETTLE_EVERY_S):
            guard.tend()

    threading.Thread(target=tend, name="guard-tend", daemon=True).start()
    log.info("guarding %s every %g s", home.serving, tick_s)
    while True:
        try:
            guard.watch()
        except OSError as error:
            log.error("the heartbeat cannot be written: %s", error)  # the leases were judged before it
        if stop.wait(tick_s):
            return


def _registry(home: Home) -> Registry:
    from windtunnel.registry.connect import nearest

    return nearest(home).client()


def main() -> None:
    """``python -m windtunnel.serving.release.guard``."""
    from windtunnel.serving.traffic.meter import serve

    serve(run)


if __name__ == "__main__":
    main()
