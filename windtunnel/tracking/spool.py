"""Metrics, parameters and tags on disk first, on the server when it is there (TRK-7).

``RUN_DIR/metrics.jsonl`` is appended to by the run; ``metrics.sent`` holds how many bytes of it the server has.
``facts.json`` holds parameters and tags; ``facts.sent`` the digest of what was delivered. Whoever ships takes a lock,
so a run's own thread, its runner and the steward never ship at once. A batch that was stored but not acknowledged is
sent again with the same times and steps, which MLflow keeps once.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from windtunnel import canonical, files
from windtunnel.errors import TrainingError, UnavailableError
from windtunnel.tracking.server import MetricPoint, Tracking

BATCH = 1000


class Spool:
    """The undelivered words of one run. Writing never waits for a server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = folder / "metrics.jsonl"
        self._sent = folder / "metrics.sent"
        self._facts = folder / "facts.json"
        self._facts_sent = folder / "facts.sent"
        self._refused = folder / "refused.log"
        self._out: int | None = None
        self._lock = threading.Lock()

    # -- writing
    def append(self, points: list[MetricPoint]) -> None:
        """Add points; one write call, so lines of several threads or processes never mix."""
        lines = "".join(json.dumps([p.key, p.value, p.timestamp, p.step]) + "\n" for p in points).encode()
        with self._lock:
            if self._out is None:
                self._out = os.open(self.metrics, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            os.write(self._out, lines)

    def set_facts(self, params: dict[str, str], tags: dict[str, str]) -> None:
        """Merge parameters and tags into what is to be delivered."""
        found = files.read_json(self._facts) or {"params": {}, "tags": {}}
        merged = {"params": {**found["params"], **params}, "tags": {**found["tags"], **tags}}
        files.write_json(self._facts, merged)

    # -- reading
    def points(self, start: int = 0, limit: int | None = None) -> tuple[list[MetricPoint], int]:
        """Points from byte ``start`` on, and the byte after the last of them; a torn last line waits."""
        out: list[MetricPoint] = []
        try:
            with self.metrics.open("rb") as stream:
                stream.seek(start)
                for line in stream:
                    if not line.endswith(b"\n") or (limit is not None and len(out) >= limit):
                        break
                    start += len(line)
                    try:
                        key, value, timestamp, step = json.loads(line)
                    except ValueError:  # a line torn by a crash and written over: lost, and it says so
                        self._refuse(f"unreadable line at byte {start - len(line)}")
                        continue
                    out.append(MetricPoint(key, float(value), int(timestamp), int(step)))
        except FileNotFoundError:
            pass
        return out, start

    def last(self) -> dict[str, MetricPoint]:
        """The newest point of each metric."""
        return {point.key: point for point in self.points()[0]}

    # -- delivering
    def _offset(self) -> int:
        return int(files.read_json(self._sent) or 0)

    def _refuse(self, text: str) -> None:
        with self._refused.open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        descriptor = os.open(self.folder / "ship.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def pending(self) -> bool:
        """Is anything not yet delivered?"""
        if self.metrics.exists() and self.metrics.stat().st_size > self._offset():
            return bool(self.points(self._offset(), 1)[0])
        facts = files.read_json(self._facts)
        return facts is not None and files.read_json(self._facts_sent) != canonical.digest(facts)

    def ship(self, tracking: Tracking, run_id: str, *, batches: int | None = None) -> None:
        """Deliver what waits, in order.

        What the server refuses for good is written to ``refused.log`` and skipped: one bad value must not
        hold back the rest for ever.

        Raises:
            UnavailableError: the server did not answer; the rest stays.
        """
        with self._alone():
            self._ship_facts(tracking, run_id)
            while batches is None or batches > 0:
                points, end = self.points(self._offset(), BATCH)
                if not points:
                    return
                try:
                    tracking.log_batch(run_id, points, {}, {})
                except TrainingError as error:
                    self._refuse(f"{len(points)} metric values: {error.message}")
                files.write_json(self._sent, end)
                if batches is not None:
                    batches -= 1

    def _ship_facts(self, tracking: Tracking, run_id: str) -> None:
        facts: dict[str, Any] | None = files.read_json(self._facts)
        if facts is None:
            return
        mark = canonical.digest(facts)
        if files.read_json(self._facts_sent) == mark:
            return
        for kind in ("params", "tags"):
            items = list(facts[kind].items())
            for at in range(0, len(items), 100):
                part = dict(items[at : at + 100])
                try:
                    tracking.log_batch(run_id, [], part if kind == "params" else {}, part if kind == "tags" else {})
                except TrainingError as error:
                    self._refuse(f"{kind} {', '.join(part)}: {error.message}")
        files.write_json(self._facts_sent, mark)


class Shipper:
    """A thread that keeps delivering while the run works. Its death or the server's never reaches the run."""

    def __init__(self, spool: Spool, tracking: Tracking, run_id: str, *, every: float = 1.0) -> None:
        self._spool, self._tracking, self._run_id, self._every = spool, tracking, run_id, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="windtunnel-shipper", daemon=True)
        self._said = False
        self._thread.start()

    def _work(self) -> None:
        pause = self._every
        while not self._stop.wait(pause):
            try:
                self._spool.ship(self._tracking, self._run_id)
                if self._said:
                    print("windtunnel: the tracking server answers again; everything waiting was delivered", flush=True)
                    self._said = False
                pause = self._every
            except UnavailableError as error:
                if not self._said:
                    print(f"windtunnel: metrics wait on disk, training goes on: {error.message}", flush=True)
                    self._said = True
                pause = min(pause * 2, 15.0)
            except Exception as error:  # the run must not die of its bookkeeping
                print(f"windtunnel: cannot deliver metrics: {type(error).__name__}: {error}", flush=True)
                pause = 15.0

    def stop(self) -> None:
        """End the thread; what it was sending stays on disk until acknowledged."""
        self._stop.set()
        self._thread.join(timeout=12)
