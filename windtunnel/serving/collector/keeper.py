"""Events in, rows of the prediction log out; may be killed at any line.

An event is acknowledged when it is in the inbox, synced. Every ``flush_s`` what has come by then is published under
names that follow from the flush's number, then the flush is marked as done, then its events go. Killed before the mark,
the same events are read again, make the same rows (the moment that decides who has waited enough is on the disk before
anything is published), and replace the same files. Nothing is lost and nothing doubled, whoever is killed when.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from windtunnel import files
from windtunnel.errors import StackError
from windtunnel.serving import publish, spool
from windtunnel.serving.collector import events, inbox, tables
from windtunnel.serving.collector.events import Half
from windtunnel.serving.collector.pairing import Pairs, Taken, Tally
from windtunnel.serving.collector.places import Place
from windtunnel.serving.watermark import Mark

log = logging.getLogger("windtunnel.collector")

#: A model nobody sent an event of for so long (seconds) has no living writer here any more.
IDLE_S = 86_400.0
WRITER = "collector"


@dataclass(slots=True)
class Totals:
    """What was counted up to the last flush that is done.

    Attributes:
        born: milliseconds since the epoch when this spool was made; part of file names, so that a new spool never
            writes over what an earlier one has published.
        rows, dropped, late, seen: by model: rows published, predictions refused, rows that came late, time of the last
            event.
    """

    born: int
    flush: int = 0
    tally: Tally = field(default_factory=Tally)
    rows: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Totals:
        return cls(**{**plain, "tally": Tally(**plain["tally"])})


@dataclass(slots=True)
class _Flush:
    """One flush that is decided and not done yet."""

    number: int
    cutoff: float
    taken: Taken
    tally: Tally
    seen: dict[str, float]
    held_bytes: int
    published: set[tuple[str, str]] = field(default_factory=set)


def framed(headers: dict[str, str], body: bytes, came: float, shadow: bool) -> bytes:
    """An event as the inbox keeps it; ``headers`` are those that ``events.understood`` read."""
    kept = {name: headers[name] for name in events.KEPT if name in headers}
    return inbox.frame({"came": came, "shadow": shadow, "headers": kept}, body)


class Keeper:
    """The events of one spool folder and the log they become; safe to call from several threads.

    Args:
        folder: the spool; nobody else's.
        place: where the log lies.
        instance: tells the collectors that write to one place apart; the same after a restart.
        flush_s: rows are published so often.
        window_s: a half whose other one has not come so long after it is published alone.
        lateness_s: events may come so long after their time and still be before the watermark.
        remember: published events that are known when they come again; about 100 bytes each.
        clock: seconds since the epoch.

    Raises:
        StackError: another collector has the folder.
    """

    def __init__(
        self,
        folder: Path,
        place: Place,
        *,
        instance: str = "0",
        flush_s: float = 10.0,
        window_s: float = 60.0,
        lateness_s: float = 5.0,
        remember: int = 500_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self.place, self.instance = folder, place, publish.safe(instance)
        self.flush_s, self.window_s, self.lateness_s = flush_s, window_s, lateness_s
        self._clock = clock
        self._inbox = threading.Lock()  # the open segment, and who waits for whom
        self._flushing = threading.Lock()
        import pyarrow.parquet  # noqa: F401  (seconds, spent here and not in the first flush)

        folder.mkdir(parents=True, exist_ok=True)
        held = spool.lock(folder)
        if held is None:
            raise StackError(f"{folder} belongs to another collector that lives", hint="give each a spool of its own")
        self._locked: int | None = held
        self._pairs = Pairs(remember)
        self._segment: inbox.Segment | None = None
        self._open: deque[_Flush] = deque()
        self._through: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self.error: str | None = None
        self.flushed_at = clock()
        plain = files.read_json(folder / "totals.json")
        self.totals = Totals.of(plain) if plain is not None else Totals(born=int(clock() * 1000))
        if plain is None:
            files.write_json(folder / "totals.json", asdict(self.totals))
        self._recover()

    # -- in

    def take(self, halves: Sequence[tuple[Half, bytes]]) -> list[bool]:
        """Keep these halves, each with its frame (``framed``); for each whether it is new.

        When it returns, they survive the death of this process and of the machine.

        Raises:
            OSError: the disk is full or broken; none of them is kept.
        """
        with self._inbox:
            fresh: dict[bytes, bytes] = {}
            for half, data in halves:
                if not self._pairs.known(half.key):
                    fresh.setdefault(half.key, data)
            if fresh:
                if self._segment is None:
                    self._segment = inbox.Segment(self.folder, self._next)
                self._segment.append(b"".join(fresh.values()))
            return [self._add(half) for half, _ in halves]

    def refused(self, model: str) -> None:
        """Say that a prediction of ``model`` could not be taken; its sender may not send it again."""
        with self._inbox:
            self.totals.dropped[model] = self.totals.dropped.get(model, 0) + 1

    @property
    def held_bytes(self) -> int:
        """Of events that are not published yet."""
        return self._pairs.held_bytes + sum(flush.held_bytes for flush in self._open.copy())

    @property
    def waiting(self) -> int:
        """Halves whose other one has not come yet."""
        return self._pairs.waiting

    @property
    def tally(self) -> Tally:
        """Counts as of now, over the life of the spool."""
        return replace(self._pairs.tally)

    # -- out

    def flush(self) -> int:
        """Publish what has come, and renew the watermarks; rows published.

        Raises:
            OSError, WindtunnelError: the place or the disk does not take them; nothing is lost, the next call tries
                again.
        """
        with self._flushing:
            try:
                published = 0
                while self._open:  # decided earlier, or by a predecessor that was killed
                    published += self._finish(self._open[0])
                    self._open.popleft()
                begun = self._clock()
                with self._inbox:
                    if self._segment is not None or self._pairs.due(begun - self.window_s):
                        if self._segment is not None:
                            self._segment.close()
                            self._segment = None
                        self._decide(self._next, begun - self.window_s)
                        self._next += 1
                    oldest = self._pairs.oldest()
                while self._open:
                    published += self._finish(self._open[0])
                    self._open.popleft()
                self._renew(begun, oldest)
            except Exception as error:
                self.error = f"{type(error).__name__}: {error}"
                raise
            self.error, self.flushed_at = None, self._clock()
            return published

    def close(self) -> None:
        """Publish what is complete and let the spool go; halves that wait stay in it.

        Raises: like ``flush``; then everything stays in the spool.
        """
        try:
            self.flush()
        finally:
            if self._segment is not None:
                self._segment.close()
                self._segment = None
            if self._locked is not None:
                os.close(self._locked)
                self._locked = None

    # -- steps

    def _add(self, half: Half) -> bool:
        self._seen[half.model] = half.came
        return self._pairs.add(half)

    def _decide(self, number: int, cutoff: float) -> None:
        """Settle what flush ``number`` publishes; what comes from now on belongs to the next."""
        held = self._pairs.held_bytes
        taken = self._pairs.take(cutoff)
        self._open.append(
            _Flush(number, cutoff, taken, replace(self._pairs.tally), dict(self._seen), held - self._pairs.held_bytes)
        )

    def _finish(self, flush: _Flush) -> int:
        """Publish a flush and mark it as done. May be killed, or fail, and be repeated at any line."""
        number, totals = flush.number, self.totals
        plan = inbox.place(self.folder, number, "plan")
        if not plan.exists():
            files.write_json(plan, {"cutoff": flush.cutoff})
        rows, late = dict(totals.rows), dict(totals.late)
        for (model, version), found in tables.by_version(flush.taken.rows).items():
            if (model, version) not in flush.published:
                name = f"{publish.safe(version)}-{WRITER}_{self.instance}-{totals.born}{number:010d}"
                self.place.rows(model, name, tables.table(found, f"{WRITER}_{self.instance}"))
                flush.published.add((model, version))
            rows[model] = rows.get(model, 0) + sum(row.count for row in found)
            through = self._through.get(model, 0.0)
            late[model] = late.get(model, 0) + sum(row.count for row in found if row.at < through)
        carried = [(events.plain(half), b"") for half in flush.taken.carried]
        inbox.write_frames(inbox.place(self.folder, number, "carry"), carried)
        inbox.write_keys(inbox.place(self.folder, number, "keys"), flush.taken.keys)
        with self._inbox:
            done = replace(totals, flush=number, tally=flush.tally, rows=rows, late=late, seen=flush.seen)
            done.dropped = dict(totals.dropped)
        files.write_json(self.folder / "totals.json", asdict(done))
        with self._inbox:
            done.dropped = totals.dropped
            self.totals = done
            self._pairs.remember(number, flush.taken.keys)
            forgotten = self._pairs.forget()
        for old in forgotten:
            inbox.place(self.folder, old, "keys").unlink(missing_ok=True)
        self._sweep()
        return sum(row.count for row in flush.taken.rows)

    def _renew(self, begun: float, oldest: dict[str, float]) -> None:
        """Say of each model how far its log is complete."""
        for model, seen in list(self.totals.seen.items()):
            idle = begun - seen > IDLE_S and model not in oldest
            through = min(begun - self.lateness_s, oldest.get(model, begun))
            self._through[model] = max(through, self._through.get(model, 0.0))
            mark = Mark(model, WRITER, self.instance, flushed_through=self._through[model], at=begun)
            mark.rows, mark.late = self.totals.rows.get(model, 0), self.totals.late.get(model, 0)
            mark.dropped, mark.every_s = self.totals.dropped.get(model, 0), self.flush_s
            mark.closed, mark.run = idle, self.totals.born
            self.place.mark(mark, f"{WRITER}-{self.instance}")
            if idle:
                with self._inbox:
                    if self._seen.get(model) == seen:
                        del self._seen[model]
                del self.totals.seen[model]

    # -- after a start

    def _recover(self) -> None:
        """Where the predecessor was: flushes that are not done are decided again, as they were."""
        folder, done = self.folder, self.totals.flush
        self._sweep()
        self._pairs.tally = replace(self.totals.tally)
        self._seen = dict(self.totals.seen)
        for number in inbox.numbers(folder, "keys"):
            if number <= done:
                self._pairs.remember(number, inbox.read_keys(inbox.place(folder, number, "keys")))
        self._pairs.carry(events.half_of(plain) for plain, _ in inbox.frames(inbox.place(folder, done, "carry")))
        unfinished = sorted({*inbox.numbers(folder, "events"), *inbox.numbers(folder, "plan")})
        for number in unfinished:
            for kept, body in inbox.frames(inbox.place(folder, number, "events")):
                half = events.understood(kept["headers"], body, kept["came"], shadow=kept["shadow"])
                if half is not None:
                    self._add(half)
            plan = files.read_json(inbox.place(folder, number, "plan"))
            self._decide(number, float(plan["cutoff"]) if plan else self._clock() - self.window_s)
        self._next = max([done, *unfinished]) + 1
        if unfinished:
            log.info("took up %d flushes of a predecessor in %s", len(unfinished), folder)

    def _sweep(self) -> None:
        """Remove what flushes that are done have left."""
        done = self.totals.flush
        for suffix in ("events", "plan", "carry"):
            for number in inbox.numbers(self.folder, suffix):
                if number < done or (number == done and suffix != "carry"):
                    inbox.place(self.folder, number, suffix).unlink(missing_ok=True)
