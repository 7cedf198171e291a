"""Parquet files of the prediction log and of labels: whole or absent, compressed alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from windtunnel import files

if TYPE_CHECKING:
    import pyarrow as pa


def write(path: Path, table: pa.Table) -> None:
    """Put ``table`` at ``path`` in one step and make the folders above it; others may read it.

    Raises:
        OSError: the disk is full or not writable; ``path`` is as it was.
    """
    import pyarrow.parquet as pq

    files.write_with(
        path,
        lambda temporary: pq.write_table(table, temporary, compression="zstd"),
        mode=files.SHARED,
        parents=True,
    )
