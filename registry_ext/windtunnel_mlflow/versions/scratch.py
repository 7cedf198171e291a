"""Temporary folders that tell whose they are, so that what a killed server leaves behind is found at the next start."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from windtunnel import procfs

_logger = logging.getLogger(__name__)
_NAME = re.compile(r"windtunnel-[a-z]+-(\d+)\.(\d+)-[^/]+")


@contextmanager
def folder(purpose: str) -> Iterator[Path]:
    """A temporary folder of this process; gone at the end.

    Args:
        purpose: one word, for whoever looks into the folder of temporary files.
    """
    pid = os.getpid()
    with tempfile.TemporaryDirectory(prefix=f"windtunnel-{purpose}-{pid}.{procfs.started(pid) or 0}-") as found:
        yield Path(found)


def sweep() -> int:
    """Remove such folders of processes that are gone; how many. A remote store's copy of a model may be in them."""
    gone = 0
    for path in Path(tempfile.gettempdir()).glob("windtunnel-*-*"):
        named = _NAME.fullmatch(path.name)
        if named is None or procfs.alive(int(named[1]), int(named[2])):
            continue
        try:
            if path.lstat().st_uid == os.getuid() and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
                gone += 1
        except OSError:
            _logger.warning("%s, left by a process that is gone, could not be removed", path, exc_info=True)
    return gone
