"""How fast a version's files are verified, beside ``sha256sum`` on the same files in the same run (REG-3, REG-13)."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from bench.pairs import paired
from bench.table import Table
from windtunnel.evidence import manifest

_SIZE = 512 << 20


def _seconds(action: object) -> float:
    began = time.perf_counter()
    action()  # type: ignore[operator]
    return time.perf_counter() - began


def run() -> Table:
    table = Table("Verifying files", ("files", "GB/s", "seconds x sha256sum", "range"))
    block = os.urandom(1 << 20)
    best = 0.0
    with tempfile.TemporaryDirectory(prefix="windtunnel-bench-") as scratch:
        for label, count in (("one of 512 MiB", 1), ("four of 128 MiB", 4)):
            root = Path(scratch) / str(count)
            root.mkdir()
            for number in range(count):
                with (root / str(number)).open("wb") as stream:
                    for _ in range((_SIZE >> 20) // count):
                        stream.write(block)
            sealed = manifest.build(root)
            names = [str(path) for path in root.iterdir()]
            pair = paired(
                lambda root=root, sealed=sealed: _seconds(lambda: manifest.verify(root, sealed)),  # type: ignore[misc]
                lambda names=names: _seconds(
                    lambda: subprocess.run(["sha256sum", *names], check=True, capture_output=True)
                ),  # type: ignore[misc]
            )
            rate = _SIZE / pair.a / 1e9
            best = max(best, rate)
            table.add(label, f"{rate:.2f}", f"{pair.ratio:.2f}", f"{pair.low:.2f} to {pair.high:.2f}")
    table.demand("at least 1 GB/s on two cores", f"{best:.2f} GB/s", best >= 1.0)
    table.note = (
        "Files in the page cache. One file is one chain of SHA-256 and has one processor; several are hashed at once. "
        "`sha256sum` takes one file after the other."
    )
    return table
