"""What runs in a training pod: ``python -P -m windtunnel.tracking.pods.entry``.

It fetches what is to be done and its inputs from the object store, lets the local runner do it (``tracking.local``: the
same code, limits and exit codes as on one machine), stores checkpoints meanwhile and everything it made at the end, and
leaves with the run's exit code. Its log is the run's. TERM ends the training, saves its last checkpoint, and counts as
transient: the next attempt goes on from there.

    WINDTUNNEL_STORE             s3://BUCKET/PREFIX or file:///FOLDER
    WINDTUNNEL_SPEC_DIGEST       digest of runs/RUN/spec.json
    WINDTUNNEL_RUN_ID            the run
    WINDTUNNEL_ATTEMPT           from 1
    WINDTUNNEL_CHECKPOINT_EVERY  seconds between two checkpoints
    WINDTUNNEL_HOME              a folder that can be written
    WINDTUNNEL_NODE_RANK         which of the training's nodes this is, from 0; only node 0 speaks for the run
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from windtunnel import files
from windtunnel.data import objects, parcels
from windtunnel.errors import DataError, IntegrityError, UnavailableError, WindtunnelError
from windtunnel.home import Home
from windtunnel.tracking import failures, lifelock, local, nodes, processes
from windtunnel.tracking.contract import EXIT, Failure, RunStatus, run_dir
from windtunnel.tracking.pods import nodes as others
from windtunnel.tracking.pods.depot import Depot

TERMINATION_LOG = Path("/dev/termination-log")
#: For how long a finished run insists on leaving what it made.
LEAVE_WITHIN = 300.0
LOOK_EVERY = 0.2


def say(text: str) -> None:
    print(f"windtunnel: {text}", flush=True)


@dataclass(frozen=True, slots=True)
class Order:
    """What the pod's environment says."""

    store: str
    spec_digest: str
    run_id: str
    attempt: int
    checkpoint_every: float
    home: Home

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Order:
        """
        Raises:
            DataError: a variable is missing or no number.
        """
        try:
            return cls(
                store=environment["WINDTUNNEL_STORE"],
                spec_digest=environment["WINDTUNNEL_SPEC_DIGEST"],
                run_id=environment["WINDTUNNEL_RUN_ID"],
                attempt=int(environment.get("WINDTUNNEL_ATTEMPT", "1")),
                checkpoint_every=float(environment.get("WINDTUNNEL_CHECKPOINT_EVERY", "600")),
                home=Home(Path(environment["WINDTUNNEL_HOME"])),
            )
        except KeyError as error:
            raise DataError(
                f"variable {error.args[0]} is not set", hint="this is started by windtunnel in a training pod"
            ) from None
        except ValueError as error:
            raise DataError(f"a variable of this pod is no number: {error}") from None


class _Told(Exception):
    """The pod is told to stop while it stores a checkpoint."""


class PodRun:
    """One attempt at a run, in its pod."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.depot = Depot(objects.connect(order.store), order.run_id)
        self.rank = nodes.rank()
        self.folder = run_dir(order.home, order.run_id)
        self.told = False
        self.saved = 0
        self.seen: object = None

    def go(self) -> RunStatus:
        """
        Raises:
            WindtunnelError: it could not be started.
        """
        signal.signal(signal.SIGTERM, self._asked_to_stop)
        order = self.order
        spec = self.depot.fetch(order.spec_digest, order.home.root / "inputs")
        say(f"inputs of run {order.run_id} are here and verified: {', '.join(spec.inputs) or 'none'}")
        # A queue may take a whole set back and let it go again later, which is no other attempt.
        if order.attempt > 1 or nodes.count() > 1:
            found = self.depot.restore(self.folder, say)
            say(f"attempt {order.attempt} goes on from {found}" if found else f"attempt {order.attempt} begins anew")
            if self.rank > 0:
                others.forget_words(self.folder)
            # The runner counts attempts: to it, the one before was lost with its machine.
            if before := max(order.attempt - 1, 1 if found else 0):
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                files.write_json(self.folder / "start.json", {"attempt": before, "at": time.time()})
            self._go_on_counting()
        local.start(order.home, spec, check=False)
        return self._watch()

    def _go_on_counting(self) -> None:
        """Checkpoints of this very attempt that are there already: a set that its queue took back made them. What comes
        now must sort behind them. And what was just brought back is no newer checkpoint."""
        prefix = f"{self.order.attempt:04d}-"
        names = [key.rpartition("/")[2] for key in self.depot.checkpoints()]
        self.saved = max((int(name.removeprefix(prefix)) + 1 for name in names if name.startswith(prefix)), default=0)
        with suppress(DataError, OSError):
            self.seen = self._as_it_is()

    def _as_it_is(self) -> dict[str, tuple[int, int]]:
        """Files of the training's checkpoint: when they were written, and their sizes."""
        inner = parcels.contents(self.folder / "checkpoint")
        return {name: (path.stat().st_mtime_ns, path.stat().st_size) for name, path in inner.items()}

    def _asked_to_stop(self, *_: object) -> None:
        self.told = True

    def _watch(self) -> RunStatus:
        offset, told, next_save = 0, False, time.monotonic() + self.order.checkpoint_every
        while True:
            status = local.status(self.order.home, self.order.run_id)
            offset = self._pump(offset)
            if status.ended and not lifelock.held(self.folder):
                break
            if self.told and not told and status.pid is not None:
                say("told to stop (TERM): ending the training, keeping its last checkpoint")
                self._ask_why()
                processes.kill([status.pid], signal.SIGTERM)
                told = True
            if time.monotonic() >= next_save and not told:
                self._checkpoint()
                next_save = time.monotonic() + self.order.checkpoint_every
            time.sleep(LOOK_EVERY)
        self._pump(offset)
        if status.state != "succeeded":
            self._checkpoint(last=True)
        self._leave(status)
        return status

    def _ask_why(self) -> None:
        """A person's cancel left a word in the store; the runner reads it here. None: this pod is taken away."""
        with suppress(WindtunnelError):
            if (reason := self.depot.wish(self.order.attempt)) is not None:
                files.write_json(self.folder / "cancel.json", {"reason": reason, "at": time.time()})

    def _pump(self, offset: int) -> int:
        while True:
            text, end = local.tail(self.order.home, self.order.run_id, offset)
            if end == offset:
                return offset
            sys.stdout.write(text)
            sys.stdout.flush()
            offset = end

    def _go_on(self) -> None:
        """
        Raises:
            _Told: the training has to be told now, that it may keep its last checkpoint.
        """
        if self.told:
            raise _Told

    def _checkpoint(self, *, last: bool = False) -> None:
        """A checkpoint that cannot be stored is told and tried again later: it must not end the training.

        Of several nodes node 0's is stored; each gets it back.

        Args:
            last: nothing comes after it, so that nothing is given up for it.
        """
        if self.rank > 0:
            return
        try:
            seen = self._as_it_is()
            if seen == self.seen:
                return  # the training has not written a newer one
            name = f"{self.order.attempt:04d}-{self.saved:06d}"
            saved = self.depot.save_checkpoint(self.folder, name, None if last else self._go_on)
        except _Told:
            say(f"told to stop (TERM) while checkpoint {name} was being stored: the one before it stays the newest")
            return
        except (DataError, IntegrityError, UnavailableError, OSError) as error:
            say(f"no checkpoint stored: {getattr(error, 'message', error)}")
            return
        self.seen = seen
        if saved is not None:
            self.saved += 1
            say(f"checkpoint {name} is stored and verified: {len(saved.files)} files, {saved.size} bytes")

    def _leave(self, status: RunStatus) -> None:
        """
        Raises:
            WindtunnelError: the store did not take it, in all the time there was.
        """
        end = time.monotonic() + LEAVE_WITHIN
        while True:
            try:
                if self.rank > 0:
                    others.leave(self.depot, self.folder, self.order.attempt, self.rank, status)
                else:
                    self.depot.leave(self.folder, self.order.attempt, status)
                return
            except UnavailableError as error:
                if self.told or time.monotonic() > end:
                    raise
                say(f"waiting for the object store: {error.message}")
                time.sleep(2.0)


def last_words(failure: Failure | None, message: str) -> None:
    """Where the kubelet looks for a container's last words."""
    with suppress(OSError):
        TERMINATION_LOG.write_text(json.dumps({"failure": failure, "message": message})[:4000], encoding="utf-8")


def main() -> int:
    """Run one attempt; the exit code that tells how it went."""
    try:
        status = PodRun(Order.read(os.environ)).go()
    except WindtunnelError as error:
        failure: Failure = failures.classify(error)
        say(f"{failure}: {error}")
        last_words(failure, str(error))
        return EXIT[failure]
    if status.state == "succeeded":
        return 0
    ended: Failure = status.failure or "transient"
    last_words(ended, status.message)
    return EXIT[ended]


if __name__ == "__main__":
    sys.exit(main())
