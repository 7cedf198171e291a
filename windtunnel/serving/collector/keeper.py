"""Events in, rows of the prediction log out; may be killed at any line.

An event is acknowledged when it is in the inbox, synced. Every ``flush_s`` what has come by then is published under
names that follow from the flush's number, then the flush is marked as done, then its events go. Killed before the mark,
the same events are read again, make the same rows (what a flush does is on the disk before it does any of it), and
replace the same files. Nothing is lost and nothing doubled, whoever is killed when.

Of several collectors one is at home for a prediction. A half that has waited ``hand_s`` elsewhere goes to the outbox,
on the disk with the flush that puts it there, and from there to its home, which acknowledges it like any event.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from windtunnel import files
from windtunnel.errors import StackError
from windtunnel.serving.collector import events, homes, inbox, tables
from windtunnel.serving.collector.events import Half
from windtunnel.serving.collector.marks import WRITER, Marks
from windtunnel.serving.collector.outbox import Hold, Outbox, Said
from windtunnel.serving.collector.pairing import Pairs, Taken, Tally
from windtunnel.serving.collector.places import Place
from windtunnel.serving.collector.plans import Plan
from windtunnel.serving.collector.totals import Totals
from windtunnel.serving.predictions import publish, spool

log = logging.getLogger("windtunnel.collector")

#: A model nobody sent an event of for so long (seconds) has no living writer here any more.
IDLE_S = 86_400.0
#: What its home may have without having said so is published here after so long (seconds): its home is not coming back.
UNSURE_S = 600.0


@dataclass(slots=True)
class _Flush:
    """One flush that is decided and not done yet."""

    number: int
    plan: Plan
    taken: Taken
    outbox: list[Half]
    holds: list[Hold]
    tally: Tally
    seen: dict[str, float]
    held_bytes: int
    published: set[tuple[str, str]] = field(default_factory=set)


def framed_guest(half: Half) -> bytes:
    """A half that another collector handed over, as the inbox keeps it."""
    return inbox.frame({"half": events.plain(half)}, b"")


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
        lateness_s: events may come so long after their time and still be before the watermark. Of several collectors
            each adds ``flush_s`` to it: one that had nothing of a model yet says for the first time after a flush
            how far it is, and until then only the others' watermarks wait for it.
        peers: names of the other collectors of this log; without any nothing is handed over.
        hand_s: a half waits so long here before it goes to its home.
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
        peers: Collection[str] = (),
        hand_s: float = 5.0,
        remember: int = 500_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self.place, self.instance = folder, place, publish.safe(instance)
        self.flush_s, self.window_s, self.hand_s = flush_s, window_s, min(hand_s, window_s / 2)
        self.peers = frozenset(peers) - {self.instance}
        self._names = self.peers | {self.instance}
        self.lateness_s = lateness_s + (flush_s if self.peers else 0.0)
        self._marks = Marks(place, self.instance, flush_s, self.lateness_s)
        self._clock = clock
        self._inbox = threading.Lock()  # the open segment, and who waits for whom
        self._flushing = threading.Lock()
        import pyarrow.parquet  # noqa: F401  (seconds, spent here and not in the first flush)

        folder.mkdir(parents=True, exist_ok=True)
        held = spool.lock(folder)
        if held is None:
            raise StackError(f"{folder} belongs to another collector that lives", hint="give each a spool of its own")
        self._locked: int | None = held
        self._pairs, self._outbox = Pairs(remember), Outbox()
        self._segment: inbox.Segment | None = None
        self._open: deque[_Flush] = deque()
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
                if not self._pairs.known(half):
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
        flushed = sum(flush.held_bytes for flush in self._open.copy())
        return self._pairs.held_bytes + self._outbox.held_bytes + flushed

    @property
    def waiting(self) -> int:
        """Halves whose other one has not come yet."""
        return self._pairs.waiting

    @property
    def handing(self) -> int:
        """Halves that wait for their home to take them."""
        return self._outbox.waiting

    @property
    def tally(self) -> Tally:
        """Counts as of now, over the life of the spool."""
        return replace(self._pairs.tally)

    # -- to other collectors

    def to_hand(self, home: str, count: int = 500, size: int = 8 * 2**20) -> list[Half]:
        """Halves for ``home``, to be sent now; say afterwards what came of it (``handed``).

        Args:
            count, size: at most so many, and so many bytes beyond the first.
        """
        with self._inbox:
            return self._outbox.fly(home, count, size)

    def handed(self, halves: Sequence[Half], said: Said) -> None:
        """What became of halves that were sent."""
        with self._inbox:
            self._outbox.landed([half.key for half in halves], said, self._clock() + self._marks.hold_s)

    def readdress(self, gone: Collection[str]) -> None:
        """This collector ends: what was for ``gone`` goes to another one that lives, if any."""
        living = self.peers - set(gone)
        with self._inbox:
            for half in self._outbox.halves() if living else ():
                self._outbox.send_to(half.key, homes.home(half.pair, living), gone)

    def leave(self) -> None:
        """Put everything that waits into the outbox: this collector ends, and the others go on.

        Raises: like ``flush``.
        """
        self.flush(leaving=True)

    def forget_holds(self) -> None:
        """The others' watermarks speak of everything that was handed over."""
        with self._inbox:
            self._outbox.release()

    # -- out

    def flush(self, *, leaving: bool = False) -> int:
        """Publish what has come, and renew the watermarks; rows published.

        Args:
            leaving: whatever waits goes to another collector, where there is one.

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
                    plan = self._plan(begun, leaving=leaving)
                    if self._segment is not None or plan.moves or self._pairs.due(plan.cutoff):
                        if self._segment is not None:
                            self._segment.close()
                            self._segment = None
                        self._decide(self._next, plan, leaving=leaving)
                        self._next += 1
                    oldest, guests = self._pairs.oldest(), self._pairs.oldest(guests=True)
                    for model, at in self._outbox.oldest(begun).items():
                        oldest[model] = min(at, oldest.get(model, at))
                while self._open:
                    published += self._finish(self._open[0])
                    self._open.popleft()
                self._renew(begun, oldest, guests)
            except Exception as error:
                self.error = f"{type(error).__name__}: {error}"
                raise
            self.error, self.flushed_at = None, self._clock()
            return published

    def close(self) -> bool:
        """Publish what is complete and let the spool go; halves that wait stay in it.

        Returns:
            Whether nothing is left in it; then the watermarks are closed, and nobody waits for this collector.

        Raises: like ``flush``; then everything stays in the spool.
        """
        try:
            self.flush()
            with self._inbox:
                done = not (self._pairs.waiting or self._outbox.halves() or self._outbox.holds(self._clock()))
            if done:
                self._marks.close(self.totals, self._clock())
            return done
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

    def _home(self, half: Half) -> str:
        return homes.home(half.pair, self._names)

    def _plan(self, now: float, *, leaving: bool = False) -> Plan:
        """What a flush does that begins ``now``."""
        cutoff = now - self.window_s
        gone, back = self._outbox.settle(cutoff, cutoff - UNSURE_S, self.instance)
        handed: frozenset[bytes] = frozenset()
        if self.peers:
            handed = frozenset(
                half.key
                for half in self._pairs.halves()
                if leaving or (half.came < now - self.hand_s and not half.guest and self._home(half) != self.instance)
            )
        return Plan(cutoff, handed, tuple(gone), tuple(back))

    def _decide(self, number: int, plan: Plan, *, leaving: bool = False) -> None:
        """Settle what flush ``number`` publishes; what comes from now on belongs to the next."""
        outbox, held = self._outbox, self._pairs.held_bytes + self._outbox.held_bytes
        gone = outbox.pop(plan.gone)
        for half in outbox.pop(plan.back):
            self._pairs.again(half)
        self._pairs.tally.handed += len(gone)
        taken = self._pairs.take(plan.cutoff, plan.handed)
        for half in taken.handed:
            outbox.put(half, homes.home(half.pair, self.peers if leaving else self._names))
        taken.keys += [half.key for half in gone]
        left = held - self._pairs.held_bytes - outbox.held_bytes
        tally, seen = replace(self._pairs.tally), dict(self._seen)
        holds = outbox.holds(self._clock())
        self._open.append(_Flush(number, plan, taken, outbox.halves(), holds, tally, seen, left))

    def _finish(self, flush: _Flush) -> int:
        """Publish a flush and mark it as done. May be killed, or fail, and be repeated at any line."""
        number, totals = flush.number, self.totals
        plan = inbox.place(self.folder, number, "plan")
        if not plan.exists():
            files.write_json(plan, flush.plan.plain())
        rows, late = dict(totals.rows), dict(totals.late)
        for (model, version), found in tables.by_version(flush.taken.rows).items():
            if (model, version) not in flush.published:
                name = f"{publish.safe(version)}-{WRITER}_{self.instance}-{totals.born}{number:010d}"
                self.place.rows(model, name, tables.table(found, f"{WRITER}_{self.instance}"))
                flush.published.add((model, version))
            rows[model] = rows.get(model, 0) + sum(row.count for row in found)
            through = self._marks.through(model)
            late[model] = late.get(model, 0) + sum(row.count for row in found if row.at < through and not row.guest)
        carried = [(events.plain(half), b"") for half in flush.taken.carried]
        inbox.write_frames(inbox.place(self.folder, number, "carry"), carried)
        if flush.outbox or flush.holds:
            told = [({"hold": asdict(hold)}, b"") for hold in flush.holds]
            told += [({"half": events.plain(half)}, b"") for half in flush.outbox]
            inbox.write_frames(inbox.place(self.folder, number, "hand"), told)
        inbox.write_keys(inbox.place(self.folder, number, "keys"), flush.taken.keys)
        with self._inbox:
            done = replace(totals, flush=number, tally=flush.tally, rows=rows, late=late, seen=flush.seen)
            done.dropped = dict(totals.dropped)
        files.write_json(self.folder / "totals.json", asdict(done))
        with self._inbox:
            done.dropped = totals.dropped
            self.totals = done
            self._pairs.remember(number, flush.taken.keys)
            self._outbox.ready(half.key for half in flush.taken.handed)
            forgotten = self._pairs.forget()
        for old in forgotten:
            inbox.place(self.folder, old, "keys").unlink(missing_ok=True)
        self._sweep()
        return sum(row.count for row in flush.taken.rows)

    def _renew(self, begun: float, oldest: dict[str, float], guests: dict[str, float]) -> None:
        """Say of each model how far its log is complete; arguments as ``Marks.renew``."""
        for model, seen in list(self.totals.seen.items()):
            idle = begun - seen > IDLE_S and model not in oldest
            self._marks.renew(self.totals, model, begun, oldest, guests, idle=idle)
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
        for kept, _ in inbox.frames(inbox.place(folder, done, "hand")):
            if "hold" in kept:
                self._outbox.hold(Hold(**kept["hold"]))
            else:
                half = events.half_of(kept["half"])
                self._pairs.know(half.key)
                self._outbox.found(half, self._home(half))
        unfinished = sorted({*inbox.numbers(folder, "events"), *inbox.numbers(folder, "plan")})
        for number in unfinished:
            for kept, body in inbox.frames(inbox.place(folder, number, "events")):
                if "half" in kept:
                    self._add(events.half_of(kept["half"]))
                    continue
                read = events.understood(kept["headers"], body, kept["came"], shadow=kept["shadow"])
                if read is not None:
                    self._add(read)
            plain = files.read_json(inbox.place(folder, number, "plan"))
            plan = Plan.of(plain) if plain else self._plan(self._clock())
            self._outbox.landed(plan.gone, Said.TOOK, self._clock() + self._marks.hold_s)
            self._decide(number, plan)
        self._next = max([done, *unfinished]) + 1
        if unfinished:
            log.info("took up %d flushes of a predecessor in %s", len(unfinished), folder)

    def _sweep(self) -> None:
        """Remove what flushes that are done have left."""
        done = self.totals.flush
        for suffix in ("events", "plan", "carry", "hand"):
            for number in inbox.numbers(self.folder, suffix):
                if number < done or (number == done and suffix not in ("carry", "hand")):
                    inbox.place(self.folder, number, suffix).unlink(missing_ok=True)
