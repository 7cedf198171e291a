"""Following a log file that rotates."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path


def follow(path: Path, *, pause_s: float = 0.3) -> Iterator[str]:
    """Lines that are added to ``path`` from now on, through rotations, for ever."""
    file = path.open("r", encoding="utf-8", errors="replace")
    file.seek(0, os.SEEK_END)
    part = ""
    try:
        while True:
            piece = file.readline()
            if piece.endswith("\n"):
                yield (part + piece).rstrip("\n")
                part = ""
                continue
            part += piece
            try:
                now = path.stat()
            except OSError:  # between rename and re-creation
                time.sleep(pause_s)
                continue
            if now.st_ino != os.fstat(file.fileno()).st_ino or now.st_size < file.tell():
                file.close()
                file = path.open("r", encoding="utf-8", errors="replace")
                part = ""
                continue
            time.sleep(pause_s)
    finally:
        file.close()
