"""From spool to Parquet: atomic, and the same again when it is done twice."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from windtunnel import files
from windtunnel.serving.predictions import columns, parquet, spool, watermark
from windtunnel.serving.predictions.watermark import Mark

if TYPE_CHECKING:
    import pyarrow as pa


def safe(name: str) -> str:
    """A name for files: no separators, no dashes (they part version, instance and number)."""
    return "".join(c if c.isalnum() or c in "._" else "_" for c in str(name)).lstrip("._") or "0"


def partition(root: Path, model: str, second: float) -> Path:
    """Folder of the hour (UTC) that holds an event time."""
    moment = datetime.fromtimestamp(second, UTC)
    return root / model / f"date={moment:%Y-%m-%d}" / f"hour={moment:%H}"


def publish(root: Path, model: str, name: str, tables: list[pa.Table]) -> int:
    """Write the rows of one spool file as ``name`` (``VERSION-INSTANCE-SEQ``) into the hours they belong to.

    Every file is written beside its place, fsynced and renamed, so a reader sees all of it or nothing;
    publishing the same spool again replaces the same files by the same rows.

    Returns:
        Rows published.

    Raises:
        OSError: the disk is full; the spool is still there, try again later.
    """
    import pyarrow as pa

    if not tables:
        return 0
    if len({table.schema for table in tables}) > 1:
        kinds = unified([table.schema for table in tables])
        tables = [columns.conform(table, kinds) for table in tables]
    table = pa.concat_tables(tables)
    hours = [second // 3_600_000_000 for second in table.column("time").cast(pa.int64()).to_pylist()]
    for hour in sorted(set(hours)):
        rows = table if len(set(hours)) == 1 else table.filter(pa.array([h == hour for h in hours]))
        parquet.write(partition(root, model, hour * 3600) / f"{name}.parquet", rows)
    return int(table.num_rows)


def unified(schemas: list[pa.Schema]) -> dict[str, str]:
    """Column name to type name that holds the columns of all ``schemas``; fixed columns first, output last."""
    found: dict[str, list[str]] = {}
    for schema in schemas:
        for field in schema:
            if field.name not in columns.FIXED:
                found.setdefault(field.name, []).append(columns.kind_name(field.type))
    output = found.pop(columns.PREDICTION, ["null"])
    kinds = dict(columns.FIXED)
    kinds.update({name: columns.widest(seen) for name, seen in found.items()})
    kinds[columns.PREDICTION] = columns.widest(output)
    return kinds


def recover(root: Path, folder: Path, mark: Mark | None, now: float | None = None) -> Mark | None:
    """Publish what a dead writer left in its spool folder and count what it lost. Call with the folder's lock held.

    May be killed and repeated at any line: files are published under fixed names, and a run's counters are
    removed only after the watermark says that they are in its totals.

    Args:
        mark: the writer's last watermark, None when it never wrote one.

    Returns:
        The watermark after it, closed; None when there was nothing and never had been.

    Raises:
        OSError: the disk is full; nothing is lost by trying again.
    """
    now = time.time() if now is None else now
    waiting, runs = spool.spool_files(folder), spool.counts_files(folder)
    if mark is None:
        identity = files.read_json(folder / "identity.json", broken_ok=True)
        if not isinstance(identity, dict):
            return None  # killed before its first row
        mark = Mark(**identity, flushed_through=0.0, at=now)
    upto: dict[int, int] = {}
    for file in waiting:
        run, _, _ = file.stem.partition("-")
        tables, spooled = spool.read_spool(file)
        publish(root, mark.model, published_name(folder, file), tables)
        upto[int(run)] = max(upto.get(int(run), 0), spooled)
    folded = int(mark.folded.get("run", 0))
    for counts_file in runs:
        number = int(counts_file.stem)
        if number <= folded:
            continue  # in the totals already; killed before its file was removed
        fold(mark, number, spool.read_counts(counts_file), upto.get(number, 0))
    if waiting or runs or not mark.closed:
        mark.at, mark.closed, mark.error = now, True, None
        watermark.write(root, mark, folder.name, durable=True)
    for done in (*waiting, *runs):
        done.unlink(missing_ok=True)
    return mark


def published_name(folder: Path, file: Path) -> str:
    """``VERSION-INSTANCE-SEQ`` of the Parquet file that a spool file becomes; the same for ever."""
    return f"{folder.name}-{file.stem.replace('-', '')}"


def fold(mark: Mark, run: int, counts: spool.Counts, spooled: int) -> None:
    """Add an ended run to the totals. Accepted but in no whole frame is lost, and counted."""
    spooled = max(counts.spooled, spooled)
    totals = {
        "rows": mark.folded.get("rows", 0) + spooled,
        "dropped": mark.folded.get("dropped", 0) + counts.overflow + max(0, counts.accepted - spooled),
        "late": mark.folded.get("late", 0) + counts.late,
        "sampled_out": mark.folded.get("sampled_out", 0) + counts.sampled_out,
        "misfits": mark.folded.get("misfits", 0) + counts.misfits,
    }
    mark.folded = {"run": run, **totals}
    mark.rows, mark.dropped, mark.late = totals["rows"], totals["dropped"], totals["late"]
    mark.sampled_out, mark.misfits = totals["sampled_out"], totals["misfits"]


def sweep(root: Path, now: float | None = None) -> int:
    """Publish what dead writers left, for every model; each spool once, by its fixed name.

    A living writer's folder is locked and left alone.

    Returns:
        Writers whose remains were published or whose watermark was closed.
    """
    done = 0
    for folder in sorted(root.glob("*/_spool/*/")):
        path = watermark.folder(root, folder.parent.parent.name) / f"{folder.name}.json"
        mark = watermark.read(path)
        if mark is not None and mark.closed and not spool.spool_files(folder) and not spool.counts_files(folder):
            continue
        held = spool.lock(folder)
        if held is None:
            continue
        try:
            mark = watermark.read(path)  # again, now that nobody else writes it
            done += recover(root, folder, mark, now) is not None
        finally:
            os.close(held)
    return done
