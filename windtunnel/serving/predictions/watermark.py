"""Watermarks: how far each writer's rows are published, and so how far the log is complete.

Each writer renews ``ROOT/MODEL/_watermark/VERSION-INSTANCE.json`` even when nothing happens. The log is
complete up to the earliest ``flushed_through`` of all living writers. A writer that stopped renewing may
hold rows nobody sees: then the log is *stale*, and a window over it is INCONCLUSIVE, never empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from windtunnel import files


@dataclass(slots=True)
class Mark:
    """One writer's watermark. Times are seconds since the epoch.

    Attributes:
        flushed_through: every row before this event time is published, or counted in ``dropped``.
        rows: rows published, over all runs of this writer.
        dropped: rows lost: buffer full, or not yet spooled when the process was killed.
        late: rows whose time was already declared complete when they came.
        sampled_out: rows left out by the sampling rule.
        misfits: values that did not fit their column.
        at: heartbeat.
        every_s: how often the writer promises a heartbeat.
        run: number of the run that wrote this; ``folded``: totals of the runs before it.
        error: why publishing fails right now (disk full ...), None when it does not.
        closed: the writer ended and everything it had is published.
    """

    model: str
    version: str
    instance: str
    flushed_through: float
    at: float
    rows: int = 0
    dropped: int = 0
    late: int = 0
    sampled_out: int = 0
    misfits: int = 0
    every_s: float = 2.0
    closed: bool = False
    error: str | None = None
    run: int = 0
    folded: dict[str, int] = field(default_factory=dict)
    v: int = 1


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far a model's prediction log is complete.

    Attributes:
        time: every row before this event time is there (seconds since the epoch); None when nobody ever wrote.
        dropped: rows lost so far, over all writers (cumulative).
        stale: a writer stopped renewing, or none is alive: what the log shows may not be all.
        reason: why it is stale, empty when it is not.
        rows, late, writers: rows published, rows that came late, living writers.
    """

    time: float | None
    dropped: int
    stale: bool
    reason: str = ""
    rows: int = 0
    late: int = 0
    writers: int = 0


def folder(root: Path, model: str) -> Path:
    return root / model / "_watermark"


def write(root: Path, mark: Mark, name: str, *, durable: bool) -> None:
    """Publish ``mark`` as ``name`` (``VERSION-INSTANCE``).

    Raises:
        OSError: the disk is full or not writable.
    """
    path = folder(root, mark.model) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, asdict(mark), durable=durable)


def read(path: Path) -> Mark | None:
    """The mark in ``path``; None when it is absent or not one."""
    return _of(files.read_json(path, broken_ok=True))


def parsed(data: bytes | None) -> Mark | None:
    """The mark that ``data`` is; None when it is none."""
    try:
        return _of(json.loads(data)) if data is not None else None
    except ValueError:
        return None


def _of(plain: Any) -> Mark | None:
    if not isinstance(plain, dict):
        return None
    known: dict[str, Any] = {name: plain[name] for name in Mark.__dataclass_fields__ if name in plain}
    try:
        return Mark(**known)
    except TypeError:
        return None


def read_all(root: Path, model: str) -> list[Mark]:
    """Marks of every writer the model ever had."""
    marks = [read(path) for path in sorted(folder(root, model).glob("*.json"))]
    return [mark for mark in marks if mark is not None]


def stale_after(mark: Mark) -> float:
    """Silence after which a writer counts as stopped: three missed heartbeats, and at least 10 s."""
    return max(10.0, 3 * mark.every_s)


def combine(marks: Iterable[Mark], now: float) -> Watermark:
    """How far the log is complete, from the marks of all writers.

    Living writers bound it: the earliest wins. With none alive it is complete up to where the last one
    ended, and stale once that is longer ago than a heartbeat may be: a stopped log must be noticed.
    """
    everything = list(marks)
    totals = {
        "dropped": sum(mark.dropped for mark in everything),
        "rows": sum(mark.rows for mark in everything),
        "late": sum(mark.late for mark in everything),
    }
    if not everything:
        return Watermark(time=None, stale=True, reason="no writer has ever reported", **totals)
    alive = [mark for mark in everything if not mark.closed]
    if not alive:
        last = max(everything, key=lambda mark: mark.flushed_through)
        stale = now - last.flushed_through > stale_after(last)
        reason = f"no living writer; the last one ended at {last.flushed_through:.3f}" if stale else ""
        return Watermark(time=last.flushed_through, stale=stale, reason=reason, **totals)
    silent = [mark for mark in alive if now - mark.at > stale_after(mark)]
    reason = "; ".join(
        f"writer {mark.version}-{mark.instance} reported {now - mark.at:.1f} s ago, expected every {mark.every_s:g} s"
        + (f" ({mark.error})" if mark.error else "")
        for mark in silent
    )
    return Watermark(
        time=min(mark.flushed_through for mark in alive),
        stale=bool(silent),
        reason=reason,
        writers=len(alive) - len(silent),
        **totals,
    )
