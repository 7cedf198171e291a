"""The meter: counts, errors and latency per version, from the router's access log.

A crashed model server writes no rows, so the numbers a gate judges come from the router. This process
tails its access log and publishes cumulative counters, one file per model, that any process can read
(``read_traffic``). It also rotates the log and publishes what dead prediction-log writers left behind.

Counters and the position in the log are one file, replaced in one step: killed at any moment and started
again, it neither loses nor doubles a request. What is published was kept first, so a reader never sees a
counter go back.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from windtunnel import files
from windtunnel.home import Home
from windtunnel.loopback import UnixConnection
from windtunnel.names import MODEL_NAME
from windtunnel.serving.predictions import publish
from windtunnel.serving.traffic.accesslog import Tail
from windtunnel.serving.traffic.counters import Counters, Counts
from windtunnel.serving.traffic.countfiles import (
    DEAD_AFTER_S,
    NamedSegments,
    read_recent,
    read_traffic,
    recent_path,
    traffic_path,
)

__all__ = ["DEAD_AFTER_S", "Meter", "main", "read_recent", "read_traffic", "run"]

log = logging.getLogger("windtunnel.meter")

#: The log is looked at this often, ...
POLL_S = 0.1
#: ... kept and published this often.
PUBLISH_S = 0.5
#: The live log is rotated at this size; so many rotated ones are kept.
ROTATE_BYTES = 64 * 2**20
KEEP = 2
_SWEEP_S = 5.0


class Meter:
    """The meter of one home; ``step`` does one round, ``run`` does them until told to stop."""

    def __init__(
        self,
        home: Home,
        *,
        clock: Callable[[], float] = time.time,
        rotate_bytes: int = ROTATE_BYTES,
        keep: int = KEEP,
        quiet_s: float = 30.0,
        reopen: Callable[[Path], bool] | None = None,
    ) -> None:
        self.home = home
        self._clock = clock
        self._rotate_bytes, self._keep, self._quiet_s = rotate_bytes, keep, quiet_s
        self._reopen = reopen or reopen_logs
        self._state_path = home.serving / "traffic" / "_meter.json"
        self._state_path.parent.mkdir(parents=True, exist_ok=True)
        home.access_log.parent.mkdir(parents=True, exist_ok=True)
        self.counters, positions = self._restore()
        self._tail = Tail(home.access_log, positions)
        self._named = NamedSegments(home)
        self._kept: dict[str, int] | None = None
        self._published_at = float("-inf")

    def step(self, *, force: bool = False) -> None:
        """Read what came; keep and publish it when that is due, or with ``force``."""
        began = self._clock()
        self._learn_segments()
        for lines in self._tail.poll():
            for line in lines:
                self.counters.add(line)
        if force or abs(began - self._published_at) >= PUBLISH_S:
            self._keep_state()
            self._publish(began)
            self._published_at = began
            self._rotate(began)

    def close(self) -> None:
        self._tail.close()

    def _learn_segments(self) -> None:
        """Which segments each model's release names, where clients send any at all."""
        for model, counts in self.counters.models.items():
            if counts.segments or counts.shadow_segments:
                self.counters.named[model] = self._named.of(model)

    def _restore(self) -> tuple[Counters, dict[str, int]]:
        plain = files.read_json(self._state_path, broken_ok=True)
        if isinstance(plain, dict):
            try:
                counters = Counters.from_dict(plain)
                positions = {str(key): int(offset) for key, offset in plain["files"].items()}
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                log.warning("%s cannot be understood (%r): counting starts again", self._state_path, error)
            else:
                for model in counters.models:
                    counters.recent[model] = {
                        version: {second: list(pair) for second, pair in seconds.items()}
                        for version, seconds in read_recent(self.home, model).items()
                    }
                return counters, positions
        return Counters(), {}

    def _keep_state(self) -> None:
        """Counters and positions in one step; before anybody is told of them."""
        positions = self._tail.positions()
        if positions == self._kept:
            return
        files.write_json(self._state_path, {**self.counters.to_dict(), "files": positions})
        self._kept = positions

    def _publish(self, at: float) -> None:
        self.counters.forget(at)
        for model in self._models():
            plain = {
                "v": 1,
                "model": model,
                "epoch": self.counters.epoch,
                "at": at,
                **self.counters.models.get(model, Counts()).to_dict(),
            }
            files.write_json(traffic_path(self.home, model), plain, durable=False)
            recent = self.counters.recent.get(model)
            if recent:
                files.write_json(
                    recent_path(self.home, model), {"v": 1, "model": model, "at": at, "arms": recent}, durable=False
                )

    def _models(self) -> set[str]:
        """Models that had traffic or are deployed: a deployed one without a request yet has zero, not nothing."""
        deployed = self.home.serving / "models"
        found = set(self.counters.models)
        if deployed.is_dir():
            found |= {path.name for path in deployed.iterdir() if path.is_dir() and MODEL_NAME.fullmatch(path.name)}
        return found

    def _rotate(self, now: float) -> None:
        """Rename the live log when it is large, have the router open a new one, delete old ones.

        The router goes on writing to the renamed file until it opens the new one; both are read. So nothing
        is lost if it cannot be reached right now: it is asked again each round.
        """
        live = self.home.access_log
        if self._tail.live_size() >= self._rotate_bytes:
            live.rename(live.with_name(f"{live.name}.{int(now * 1000):015d}"))
        old = self._tail.rotated()
        if old and not live.exists():
            self._reopen(admin_socket(self.home))
        for path in old[: max(0, len(old) - self._keep)]:
            if self._tail.finished(path, self._quiet_s, now):
                path.unlink(missing_ok=True)


def admin_socket(home: Home) -> Path:
    """The router's admin socket."""
    from windtunnel.serving.local import envoy

    return envoy.admin_socket(home)


def reopen_logs(path: Path) -> bool:
    """Ask the router at admin socket ``path`` to open its log files anew; False when it cannot be reached."""
    connection = UnixConnection(path, timeout_s=2.0)
    try:
        connection.request("POST", "/reopen_logs")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def run(home: Home, stop: threading.Event, *, rotate_bytes: int = ROTATE_BYTES, keep: int = KEEP) -> None:
    """Meter ``home`` until ``stop`` is set. A second meter of the same home waits until the first is gone.

    Args:
        rotate_bytes: size at which the access log is rotated; ``keep`` rotated ones stay.
    """
    folder = home.serving / "traffic"
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "_meter.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop.wait(0.5):
                    return
        sweeper = threading.Thread(target=_sweep, args=(home, stop), name="prediction-log sweep", daemon=True)
        sweeper.start()
        meter = Meter(home, rotate_bytes=rotate_bytes, keep=keep)
        log.info("metering %s, epoch %s", home.access_log, meter.counters.epoch)
        while not stop.wait(POLL_S):
            _round(meter)
        _round(meter, force=True)
        meter.close()
    finally:
        os.close(descriptor)


def _round(meter: Meter, *, force: bool = False) -> None:
    try:
        meter.step(force=force)
    except OSError as error:
        # Nothing is published, so the heartbeat ages and readers see a dead source: unknown is not good.
        log.error("cannot keep the counters: %s", error)
        time.sleep(0.5)


def _sweep(home: Home, stop: threading.Event) -> None:
    """Publish what killed model servers left in their spools."""
    while not stop.wait(_SWEEP_S):
        try:
            if done := publish.sweep(home.predictions):
                log.info("published the spools of %d ended prediction-log writers", done)
        except Exception as error:
            log.error("the prediction log cannot be swept: %r", error)


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, component, operation (OPS-7)."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": round(record.created, 3),
                "level": record.levelname,
                "component": record.name,
                "operation": record.funcName,
                "message": record.getMessage(),
            }
        )


def serve(loop: Callable[[Home, threading.Event], None]) -> None:
    """Run one of our small servers on ``$WINDTUNNEL_HOME`` until SIGTERM or SIGINT."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    loop(Home.find(), stop)


def main() -> None:
    """``python -m windtunnel.serving.traffic.meter``."""
    serve(run)


if __name__ == "__main__":
    main()
