"""The look log: every look a gate took at a rollout, beside the traffic it judged.

One JSON object per line, appended and fsynced, so that a trigger that died goes on from the last
look and anybody can replay a decision. Numbers are canonical JSON (``windtunnel.canonical``): NaN and
infinities come back as they were.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from typing import Any

from windtunnel import canonical
from windtunnel.home import Home
from windtunnel.names import check_model_name


class LookLog:
    """``HOME/serving/models/MODEL/looks.jsonl``.

    A look is a plain dict with at least ``rollout_id``; what else is in it belongs to the rollout room.
    """

    def __init__(self, home: Home, model: str) -> None:
        self.path = home.serving_model(check_model_name(model)) / "looks.jsonl"

    def append(self, look: dict[str, Any]) -> None:
        """Add ``look``; when this returns it is on the disk.

        A last line that a crash tore is cut off first: it was never acknowledged.

        Raises:
            TypeError: ``look`` holds something that is not plain JSON.
            ValueError: it names no ``rollout_id``.
            OSError: the disk is full or not writable; the log is as it was.
        """
        if not look.get("rollout_id"):
            raise ValueError(f"a look needs its rollout_id, found keys {sorted(look)}")
        line = canonical.dumps(look) + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            end = _whole(descriptor)
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
            try:
                written = os.write(descriptor, line)
                if written != len(line):
                    raise OSError(28, f"only {written} of {len(line)} bytes fit", str(self.path))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)

    def read(self, rollout_id: str) -> list[dict[str, Any]]:
        """All looks of one rollout, oldest first; empty when there are none."""
        return [look for look in self._looks() if look.get("rollout_id") == rollout_id]

    def last(self, rollout_id: str) -> dict[str, Any] | None:
        """The newest look of one rollout."""
        looks = self.read(rollout_id)
        return looks[-1] if looks else None

    def _looks(self) -> Iterator[dict[str, Any]]:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        # What follows the last newline was never acknowledged.
        for line in data[: data.rfind(b"\n") + 1].splitlines():
            try:
                look = canonical.loads(line)
            except ValueError:
                continue  # a line the disk damaged: the others still count
            if isinstance(look, dict):
                yield look


def _whole(descriptor: int) -> int:
    """Length of the part that consists of whole lines."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 65_536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
