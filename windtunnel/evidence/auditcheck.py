"""Is an audit whole? Lines of an export against their own hashes, their chains and signed checkpoints. Pure.

The lines are checked in chunks of ``CHUNK``, each by itself (``check_chunk``, so that several processes can), and put
together in order (``Checker``). A chunk is a whole subtree of the Merkle tree, so the root at any checkpoint's size
is found without hashing anything twice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any

from windtunnel.evidence import merkle
from windtunnel.evidence.checkpoint import Checkpoint
from windtunnel.evidence.entry import GENESIS, LINE
from windtunnel.evidence.verdict import Outcome

#: Lines checked in one piece: a power of two.
CHUNK = 1 << 14
#: Breaks and clock steps kept of one chunk; the rest is counted.
KEPT = 50
#: Entries of different models are written at the same time, so their times may cross by a little (seconds).
CROSSING = 1.0
_GENESIS = GENESIS.encode()


@dataclass(frozen=True, slots=True)
class Break:
    """Something that a whole audit would not have.

    Attributes:
        kind: ``form`` (no entry of an export), ``edited`` (content and hash differ), ``order`` (numbers do not
            grow), ``removed`` (the predecessor is not there), ``forked`` (the predecessor has another successor),
            ``moved`` (the predecessor comes later), ``truncated`` (a checkpoint saw more entries), ``rewritten`` (a
            checkpoint saw other entries), ``checkpoint`` (it cannot be read, or no trusted key signed it).
        message: one sentence.
        index: place of the entry in the log, from 0; None where no single entry is meant.
        seq: its number in the database.
        model: its model.
        prev: for a broken link: the hash that was expected to exist.
    """

    kind: str
    message: str
    index: int | None = None
    seq: int | None = None
    model: str | None = None
    prev: str | None = None


@dataclass(frozen=True, slots=True)
class ClockStep:
    """An entry whose time is before its predecessor's: the clock was set back. No break: the order is by number."""

    index: int
    seq: int
    seconds: float


@dataclass(slots=True)
class Ends:
    """What a chunk knows of one model: its first link and its last entry."""

    index: int
    seq: int
    prev: bytes
    first_at: float
    last: bytes
    last_at: float


@dataclass(slots=True)
class Chunk:
    """What was found in one chunk. ``parts``: roots of its whole subtrees, largest first; ``cuts``: the same for its
    first so many lines, by number of lines."""

    first: int
    count: int = 0
    parts: list[bytes] = field(default_factory=list)
    cuts: dict[int, list[bytes]] = field(default_factory=dict)
    models: dict[bytes, Ends] = field(default_factory=dict)
    breaks: list[Break] = field(default_factory=list)
    broken: int = 0
    steps: list[ClockStep] = field(default_factory=list)
    stepped: int = 0
    gaps: int = 0
    first_seq: int | None = None
    last_seq: int | None = None
    first_at: float = 0.0
    last_at: float = 0.0

    def note(
        self, kind: str, message: str, index: int, seq: int | None = None, model: bytes = b"", **more: Any
    ) -> None:
        """Count a break, and keep it if there is room."""
        self.broken += 1
        if len(self.breaks) < KEPT:
            self.breaks.append(Break(kind, message, index, seq, _name(model), **more))

    def step(self, index: int, seq: int, seconds: float) -> None:
        """Count a clock step, and keep it if there is room."""
        self.stepped += 1
        if len(self.steps) < KEPT:
            self.steps.append(ClockStep(index, seq, round(seconds, 6)))


def check_chunk(lines: Sequence[bytes], first: int, sizes: Iterable[int] = ()) -> Chunk:
    """Check lines by themselves.

    Args:
        lines: at most ``CHUNK``, without newlines.
        first: place of the first in the log; a multiple of ``CHUNK``.
        sizes: sizes of checkpoints that end inside (``first < size <= first + len(lines)``).
    """
    found = Chunk(first, len(lines))
    leaves: list[bytes] = []
    models = found.models
    match, last_seq, last_at = LINE.fullmatch, None, 0.0
    for index, line in enumerate(lines, first):
        fields = match(line)
        if fields is None:
            leaves.append(merkle.leaf_hash(line))
            found.note("form", f"line {index + 1} is no entry of an audit: {line[:80]!r}", index)
            continue
        at_text, _, hashed, model, prev, _, seq_text = fields.groups()
        hash_start, hash_end = fields.span(2)
        seq_start, seq_end = fields.span(6)
        body = line[:hash_start] + line[hash_end:seq_start] + line[seq_end:]
        seq, at = int(seq_text), _seconds(at_text)
        leaves.append(sha256(b'\x00{"hash":"' + hashed + b'","seq":' + seq_text + b"}").digest())
        if sha256(body).hexdigest().encode() != hashed[7:]:
            found.note(
                "edited", f"entry {seq} is not what was written: its hash does not fit its content", index, seq, model
            )
        if last_seq is None:
            found.first_seq, found.first_at = seq, at
        else:
            if seq <= last_seq:
                found.note("order", f"entry {seq} comes after entry {last_seq}", index, seq, model)
            elif seq > last_seq + 1:
                found.gaps += seq - last_seq - 1
            if at < last_at - CROSSING:
                found.step(index, seq, last_at - at)
        known = models.get(model)
        if known is None:
            models[model] = Ends(index, seq, prev, at, hashed, at)
        else:
            if prev != known.last:
                found.note(*_unlinked(seq), index, seq, model, prev=prev.decode())
            elif last_at - CROSSING <= at < known.last_at:
                found.step(index, seq, known.last_at - at)
            known.last, known.last_at = hashed, at
        last_seq, last_at = seq, at
    found.last_seq, found.last_at = last_seq, last_at
    _grow(found, leaves, sizes)
    return found


def _unlinked(seq: int) -> tuple[str, str]:
    return "removed", f"entry {seq} does not follow its model's entry before it"


def _grow(found: Chunk, leaves: list[bytes], sizes: Iterable[int]) -> None:
    levels = [leaves]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([sha256(b"\x01" + a + b).digest() for a, b in zip(below[::2], below[1::2], strict=False)])

    def parts(count: int) -> list[bytes]:
        hashes, done = [], 0
        for height in range(count.bit_length() - 1, -1, -1):
            if count >> height & 1:
                hashes.append(levels[height][done >> height])
                done += 1 << height
        return hashes

    found.parts = parts(found.count)
    found.cuts = {size - found.first: parts(size - found.first) for size in sizes}


def _seconds(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0  # a tagged infinity or NaN: nothing to compare


def _name(model: bytes) -> str | None:
    import json

    return str(json.loads(model)) if model else None


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        outcome: FAIL with any break; INCONCLUSIVE without a trusted checkpoint that holds; else PASS.
        entries, models, first_seq, last_seq: how much was looked at.
        root: root over all entries, hex.
        checkpoints: trusted checkpoints that hold.
        vouched: entries under the newest of them; of later ones a newest few could be missing or made anew unseen.
        breaks: the first of them, in order of place; those of checkpoints follow the entries'.
        broken: how many there are.
        steps, stepped: where time goes back, and how often.
        gaps: numbers that no entry has: transactions that were undone (PostgreSQL).
    """

    outcome: Outcome
    entries: int
    models: int
    root: str
    first_seq: int | None
    last_seq: int | None
    checkpoints: int
    vouched: int
    breaks: tuple[Break, ...]
    broken: int
    steps: tuple[ClockStep, ...]
    stepped: int
    gaps: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "outcome": str(self.outcome)}


class Checker:
    """Puts chunks together, in order.

    Args:
        checkpoints: those that a trusted key signed.
        problems: breaks of checkpoints that were found when they were read.
    """

    def __init__(self, checkpoints: Iterable[Checkpoint] = (), problems: Iterable[Break] = ()) -> None:
        self._checkpoints = sorted(set(checkpoints), key=lambda one: one.size)
        self._sizes = [one.size for one in self._checkpoints]
        self._problems = list(problems)
        self._tree = merkle.Frontier()
        self._all = Chunk(0)
        self._bad: list[Break] = []
        self._held = self._failed = self._vouched = 0
        for one in self._checkpoints[: bisect_right(self._sizes, 0)]:
            self._compare(one, merkle.EMPTY)

    def sizes(self, first: int, count: int) -> tuple[int, ...]:
        """Sizes of checkpoints that end within ``count`` lines from ``first`` on."""
        low, high = bisect_right(self._sizes, first), bisect_right(self._sizes, first + count)
        return tuple(sorted(set(self._sizes[low:high])))

    def add(self, chunk: Chunk) -> None:
        """The next chunk. It must begin where the last one ended, which must have been a full one.

        Raises:
            ValueError: it does not.
        """
        if chunk.first != self._tree.size or chunk.first % CHUNK:
            raise ValueError(f"expected lines from {self._tree.size} on, found {chunk.first}")
        for one in self._checkpoints[bisect_right(self._sizes, chunk.first) :]:
            if one.size > chunk.first + chunk.count:
                break
            self._compare(one, self._tree.root_with(chunk.cuts[one.size - chunk.first]))
        height = chunk.count.bit_length() - 1
        for part in chunk.parts:
            while not chunk.count >> height & 1:
                height -= 1
            self._tree.append_subtree(part, 1 << height)
            height -= 1
        self._join(chunk)

    def _join(self, chunk: Chunk) -> None:
        total, seams = self._all, Chunk(chunk.first)
        if chunk.first_seq is not None:
            if total.first_seq is None:
                total.first_seq = chunk.first_seq
            elif total.last_seq is not None:
                if chunk.first_seq <= total.last_seq:
                    seams.note(
                        "order",
                        f"entry {chunk.first_seq} comes after entry {total.last_seq}",
                        chunk.first,
                        chunk.first_seq,
                    )
                else:
                    total.gaps += chunk.first_seq - total.last_seq - 1
                if chunk.first_at < total.last_at - CROSSING:
                    seams.step(chunk.first, chunk.first_seq, total.last_at - chunk.first_at)
            total.last_seq, total.last_at = chunk.last_seq, chunk.last_at
        for model, ends in chunk.models.items():
            known = total.models.get(model)
            if known is None:
                if ends.prev != _GENESIS:
                    seams.note(*_unlinked(ends.seq), ends.index, ends.seq, model, prev=ends.prev.decode())
                total.models[model] = ends
                continue
            if ends.prev != known.last:
                seams.note(*_unlinked(ends.seq), ends.index, ends.seq, model, prev=ends.prev.decode())
            known.last, known.last_at = ends.last, ends.last_at
        total.gaps += chunk.gaps
        total.broken += chunk.broken + seams.broken
        total.stepped += chunk.stepped + seams.stepped
        total.breaks += sorted(chunk.breaks + seams.breaks, key=lambda one: one.index or 0)
        total.steps += sorted(chunk.steps + seams.steps, key=lambda one: one.index)
        del total.breaks[KEPT:], total.steps[KEPT:]

    def _compare(self, one: Checkpoint, found: bytes) -> None:
        if one.root == found:
            self._held += 1
            self._vouched = max(self._vouched, one.size)
            return
        self._failed += 1
        if self._failed == 1:
            self._bad.append(
                Break(
                    "rewritten",
                    f"the checkpoint at {one.size} entries saw others: the first that differs is one of the entries "
                    f"{self._vouched + 1} to {one.size} of the log",
                    index=self._vouched,
                )
            )

    def report(self) -> Report:
        """What was found, once the last chunk was added."""
        total, missing = self._all, self._checkpoints[bisect_right(self._sizes, self._tree.size) :]
        bad = list(self._bad)
        if missing:
            bad.append(
                Break(
                    "truncated",
                    f"the log has {self._tree.size} entries, the checkpoint at {missing[-1].size} saw "
                    f"{missing[-1].size - self._tree.size} more",
                    index=self._tree.size,
                )
            )
        broken = total.broken + self._failed + len(missing) + len(self._problems)
        outcome = Outcome.FAIL if broken else Outcome.PASS if self._held else Outcome.INCONCLUSIVE
        return Report(
            outcome,
            self._tree.size,
            len(total.models),
            self._tree.root().hex(),
            total.first_seq,
            total.last_seq,
            self._held,
            self._vouched,
            tuple(total.breaks + bad + self._problems),
            broken,
            tuple(total.steps),
            total.stepped,
            total.gaps,
        )


def explained(report: Report, log: Any) -> Report:
    """The report with broken links told apart: removed, forked or moved.

    Args:
        log: the whole log as bytes, or anything with their ``find`` (a mapped file).
    """
    told = []
    for one in report.breaks:
        if one.prev is None:
            told.append(one)
            continue
        here = log.find(f'"prev":"{one.prev}","seq":{one.seq},'.encode())
        there = log.find(f'"hash":"{one.prev}",'.encode())
        if one.prev == GENESIS or 0 <= there < here:
            kind = "forked"
            message = f"entry {one.seq} begins a second history: what it follows has another successor before it"
        elif there < 0:
            kind, message = "removed", f"the entry before entry {one.seq} of its model is not there, or was made anew"
        else:
            kind, message = "moved", f"entry {one.seq} comes before the entry that it follows"
        told.append(replace(one, kind=kind, message=message))
    return replace(report, breaks=tuple(told))


def check(lines: Sequence[bytes], checkpoints: Iterable[Checkpoint] = (), problems: Iterable[Break] = ()) -> Report:
    """Check a log that is in memory, in this process."""
    checker = Checker(checkpoints, problems)
    for first in range(0, len(lines), CHUNK):
        part = lines[first : first + CHUNK]
        checker.add(check_chunk(part, first, checker.sizes(first, len(part))))
    return explained(checker.report(), b"\n".join(lines))
