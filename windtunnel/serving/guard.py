"""The guard: takes a candidate nobody watches to 0, and settles a promotion whose holder died.

A process of its own, outside Airflow, so that a rollout cannot outlive those who watch it (ROL-6). Its only
powers: set candidates to 0 when their lease has ended, finish or undo a promoting intent, and let the backend
unload versions whose keep-warm time is over. It needs no registry and no Airflow for the first.

**Clocks.** A lease is written as wall time, because holder and guard are different processes. What it
means is a duration. So when the guard first sees a lease it notes how long it still has, and from then on
lets its own monotonic clock run: set the wall clock forward by hours and a live rollout is not harmed, set it
back and a dead one is not kept alive. Only a lease met for the first time is judged by the wall clock alone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from windtunnel import files
from windtunnel.errors import ServingError, StackError, UnavailableError
from windtunnel.home import Home
from windtunnel.names import MODEL_NAME
from windtunnel.serving import intent
from windtunnel.serving.backend import Observed, Release
from windtunnel.serving.intent import Intent

log = logging.getLogger("windtunnel.guard")

BY = "guard"


@dataclass(frozen=True, slots=True)
class Clock:
    """One reading of both clocks, in seconds."""

    wall: float
    monotonic: float

    @classmethod
    def read(cls) -> Clock:
        return cls(time.time(), time.monotonic())


@dataclass(frozen=True, slots=True)
class Sighting:
    """When a lease with this end was first seen. A renewed lease is another one."""

    lease_until: float
    rollout_id: str | None
    at: Clock

    @property
    def remaining(self) -> float:
        """Seconds it still had then; negative when it had already ended."""
        return self.lease_until - self.at.wall


def sight(observed: Observed, now: Clock, before: Sighting | None) -> Sighting | None:
    """The sighting to keep: ``before`` while the lease is the same one, else a new one; None without lease."""
    if observed.lease_until is None or observed.aborted is not None:
        return None
    if before and (before.lease_until, before.rollout_id) == (observed.lease_until, observed.rollout_id):
        return before
    return Sighting(observed.lease_until, observed.rollout_id, now)


def overdue(observed: Observed, now: Clock, seen: Sighting | None = None) -> str | None:
    """Why the candidates of ``observed`` must go to 0 now; None when they need not.

    Args:
        seen: the first sighting of the present lease; without one the wall clock alone decides.
    """
    if observed.lease_until is None or observed.aborted is not None:
        return None
    seen = sight(observed, now, seen)
    assert seen is not None
    over = (now.monotonic - seen.at.monotonic) - seen.remaining
    if over < 0:
        return None
    return (
        f"lease ended {over:.1f} s ago and nobody renewed it"
        f" (rollout {observed.rollout_id or 'unknown'}, token {observed.token})"
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """What the registry says of a promotion: the rollout's state, and who is champion."""

    rollout: str
    champion: str | None = None


def leased(model: str, release: Release | None) -> Observed:
    """The part of ``Observed`` that the lease is judged by, from the desired state.

    A rollout whose candidates have no traffic harms nobody: its lease is not looked at.
    """
    exposed = release is not None and any(arm.weight > 0 for arm in release.candidates)
    return Observed(
        model=model,
        arms={},
        token=release.token if release else 0,
        rollout_id=release.rollout_id if release else None,
        aborted=None,  # an abort takes the lease away
        lease_until=release.lease_until if release and exposed else None,
    )


Settlement = Literal["wait", "finish", "undo", "drop"]

#: State of a rollout whose version was committed as champion.
_COMMITTED = "promoted"
#: States in which the registry takes no commit any more.
_CLOSED = frozenset({"rolled_back", "withdrawn"})


def settle(found: Intent, observed: Observed, lease_over: bool, standing: Standing | None) -> Settlement:
    """What to do with a promoting intent.

    - ``wait``: its holder is alive, or the registry cannot be asked. Traffic stays where it is: the candidate
      has passed every gate, and going back blindly could leave registry and traffic apart.
    - ``finish``: the registry has committed; the traffic becomes the candidate's for good.
    - ``undo``: the registry has not; the rollout is rolled back there first (so that a holder that comes
      back cannot commit any more), then the traffic.
    - ``drop``: another rollout has the traffic by now; the intent means nothing any more.

    Args:
        lease_over: the holder's lease has ended, or it has none and had time enough to finish.
        standing: None when the registry does not answer.
    """
    if observed.rollout_id is not None and observed.rollout_id != found.rollout_id:
        return "drop"
    if not lease_over and observed.aborted is None:
        return "wait"
    if standing is None:
        return "wait"
    return "finish" if standing.rollout == _COMMITTED else "undo"


def promoted(release: Release, candidate: str) -> Release | None:
    """``release`` with ``candidate`` as champion, all traffic and no lease; None when it has no such arm."""
    for arm in release.arms():
        if arm.version == candidate:
            return replace(release, champion=replace(arm, weight=100), candidates=(), lease_until=None)
    return None


class Backend(Protocol):
    """What the guard needs of the place where traffic flows (``LocalBackend``)."""

    def observe(self, model: str) -> Observed: ...

    def abort(self, model: str, reason: str, by: str) -> Observed: ...

    def apply(self, release: Release) -> Observed: ...

    def desired(self, model: str) -> Release | None: ...

    def sweep(self, now: float) -> Any: ...


class Registry(Protocol):
    """What the guard needs of the registry (``RegistryClient``)."""

    def champion(self, model: str) -> Any: ...

    def rollout(self, rollout_id: str) -> Any: ...

    def update_rollout(self, rollout_id: str, token: int, *, state: str, reason: str) -> Any: ...


#: A promotion without a lease is settled by the guard after so long: its holder had time to clear the intent.
INTENT_PATIENCE_S = 60.0
_SETTLE_EVERY_S = 2.0
_ACTS_KEPT = 50


class Guard:
    """The guard of one home. ``watch`` judges leases, ``tend`` does what may take long; each has its own thread.

    Args:
        registry: makes a client when one is needed; raises UnavailableError (or any WindtunnelError) when it cannot.
        clock: reads both clocks.
    """

    def __init__(
        self,
        home: Home,
        backend: Backend,
        registry: Callable[[], Registry],
        *,
        clock: Callable[[], Clock] = Clock.read,
        tick_s: float = 1.0,
    ) -> None:
        self.home = home
        self._backend = backend
        self._connect = registry
        self._registry: Registry | None = None
        self._clock = clock
        self._tick_s = tick_s
        self._seen: dict[str, Sighting] = {}
        self._intents: dict[str, tuple[Intent, float]] = {}  # and when it was first seen (monotonic)
        self._status: dict[str, dict[str, Any]] = {}
        self._errors: dict[str, str] = {}
        self._acts: deque[dict[str, Any]] = deque(maxlen=_ACTS_KEPT)

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
        """Settle promotions whose holder is gone, and let the backend unload what is warm no longer."""
        for model in self._models():
            try:
                if self._tend_one(model):
                    self._errors.pop(model, None)
            except Exception as error:
                log.error("the promotion of model %s cannot be settled: %r", model, error)
                self._errors[model] = f"{type(error).__name__}: {error}"
        sweep = getattr(self._backend, "sweep", None)
        if sweep is not None:
            try:
                sweep(self._clock().wall)
                self._errors.pop("(sweep)", None)
            except Exception as error:
                log.error("the backend cannot be swept: %r", error)
                self._errors["(sweep)"] = f"{type(error).__name__}: {error}"

    def _models(self) -> list[str]:
        folder = self.home.serving / "models"
        if not folder.is_dir():
            return []
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and MODEL_NAME.fullmatch(path.name))

    def _look(self, model: str) -> tuple[Observed, str | None]:
        """What is wanted, and why its candidates must go.

        The lease stands in the desired state, a file: a router or supervisor that does not answer hides
        nothing. The clocks are read first, so a lease is never judged by a time after it was read.
        """
        now = self._clock()
        release = self._backend.desired(model)
        observed = leased(model, release)
        seen = sight(observed, now, self._seen.get(model))
        if seen is None:
            self._seen.pop(model, None)
        else:
            self._seen[model] = seen
        return observed, overdue(observed, now, seen)

    def _watch_one(self, model: str) -> dict[str, Any]:
        observed, reason = self._look(model)
        found = intent.read(self.home, model)
        state = "idle" if observed.lease_until is None else "leased"
        if found is not None and observed.rollout_id in (None, found.rollout_id):
            state = "promoting"  # not ours to undo without the registry: see tend
        elif reason is not None:
            observed = self._backend.abort(model, reason, BY)
            self._act(model, "abort", reason)
            state = "aborted"
        return {
            "state": state,
            "rollout_id": observed.rollout_id,
            "token": observed.token,
            "lease_until": observed.lease_until,
            "aborted": observed.aborted,
        }

    def _tend_one(self, model: str) -> bool:
        """Settle the model's intent, if there is one; False while that must wait for the registry."""
        found = intent.read(self.home, model)
        if found is None:
            self._intents.pop(model, None)
            return True
        known, since = self._intents.get(model, (None, 0.0))
        if known != found:
            since = self._clock().monotonic
            self._intents[model] = (found, since)
        reason = self._look(model)[1]
        observed = self._backend.observe(model)
        waited = self._clock().monotonic - since
        lease_over = reason is not None or (observed.lease_until is None and waited >= INTENT_PATIENCE_S)
        due = lease_over or observed.aborted is not None
        standing = self._standing(found) if due else None
        action = settle(found, observed, lease_over, standing)
        if action == "drop":
            intent.clear(self.home, model)
            self._act(
                model, "drop", f"intent of rollout {found.rollout_id}: rollout {observed.rollout_id} has the traffic"
            )
        elif action == "finish":
            self._finish(found)
        elif action == "undo":
            self._undo(found, observed, standing, reason)
        return standing is not None or not due

    def _finish(self, found: Intent) -> None:
        release = self._backend.desired(found.model)
        final = promoted(release, found.candidate) if release is not None else None
        if final is None:
            raise ServingError(
                f"version {found.candidate} of model {found.model!r} was promoted, but has no traffic here",
                hint="deploy the champion again, then remove " + str(intent.path(self.home, found.model)),
            )
        if final != release:
            self._backend.apply(final)
        intent.clear(self.home, found.model)
        self._act(found.model, "finish", f"the registry has promoted version {found.candidate}")

    def _undo(self, found: Intent, observed: Observed, standing: Standing | None, reason: str | None) -> None:
        why = f"promotion of version {found.candidate} was never committed: {reason or 'its holder is gone'}"
        if observed.lease_until is None and observed.aborted is None:
            raise ServingError(
                f"model {found.model!r} has version {found.candidate} as champion in its traffic, the registry has"
                f" {standing.champion if standing else None}",
                hint="promote it in the registry or deploy the champion again",
            )
        if standing is None or standing.rollout not in _CLOSED:
            # First the registry: from here on a holder that comes back is refused. If it was quicker than
            # we, the registry refuses us, and the next round finishes.
            self._client().update_rollout(
                found.rollout_id, max(found.token, observed.token), state="rolled_back", reason=why
            )
        if observed.aborted is None:
            self._backend.abort(found.model, why, BY)
        intent.clear(self.home, found.model)
        self._act(found.model, "undo", why)

    def _standing(self, found: Intent) -> Standing | None:
        """What the registry says; None when it does not answer."""
        try:
            registry = self._client()
            rollout = str(registry.rollout(found.rollout_id).state)
            champion = registry.champion(found.model)
        except (UnavailableError, StackError) as error:
            log.warning("the registry cannot be asked about model %s: %s", found.model, error)
            self._registry = None  # its address may be another one when it comes back
            self._errors[found.model] = (
                f"promotion of version {found.candidate} waits for the registry: {error.message}"
            )
            return None
        return Standing(rollout, None if champion is None else str(champion.version))

    def _client(self) -> Registry:
        if self._registry is None:
            self._registry = self._connect()
        return self._registry

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
    backend: Backend | None = None,
    registry: Callable[[], Registry] | None = None,
) -> None:
    """Guard ``home`` until ``stop`` is set.

    Args:
        tick_s: seconds between two looks at the leases.
        backend, registry: others than the local ones of ``home``.
    """
    home.serving.mkdir(parents=True, exist_ok=True)
    guard = Guard(home, backend or _local(home), registry or (lambda: _registry(home)), tick_s=tick_s)

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


def _local(home: Home) -> Backend:
    from windtunnel.serving.local import LocalBackend

    return LocalBackend(home)


def _registry(home: Home) -> Registry:
    from windtunnel.registry.connect import from_home

    return from_home(home)


def main() -> None:
    """``python -m windtunnel.serving.guard``."""
    from windtunnel.serving.meter import serve

    serve(run)


if __name__ == "__main__":
    main()
