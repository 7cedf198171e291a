"""The look log: every look a gate took at a rollout, beside the traffic it judged.

One JSON object per line, appended and fsynced, so that a trigger that died goes on from the last
look and anybody can replay a decision. Numbers are canonical JSON (``windtunnel.canonical``): NaN and
infinities come back as they were.

A gate looks every ten seconds for hours, so it does not read all of that again at each look: ``tail`` remembers, in
this process, how far the file was read and what a gate goes on from. The file alone decides; a process that
remembers nothing finds the same.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType
from typing import Any

from windtunnel import canonical
from windtunnel.home import Home
from windtunnel.names import check_model_name

#: Rollouts whose tails are remembered; of more, those nobody asked for the longest are read again when needed.
REMEMBERED = 5000
#: Actions a gate must find again: its step has passed, or the rollout is over; and as they stand in a line.
_ENDING = ("advance", "promote", "roll_back", "withdraw")
_DECISIVE = tuple(f'"{action}"'.encode() for action in _ENDING)


class _Look(dict[str, Any]):
    """A look and the line it was read from: to compare lines is cheaper than to compare looks."""

    def __init__(self, look: dict[str, Any], line: bytes) -> None:
        super().__init__(look)
        self.line = line


@dataclass(slots=True)
class _Tail:
    """What is remembered of one rollout; true for the first ``read`` bytes of file ``inode``."""

    inode: int = -1
    read: int = 0
    decisive: list[dict[str, Any]] = field(default_factory=list)
    newest: bytes | None = None  # its line: far smaller than what it says as Python values
    lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self, inode: int) -> None:
        self.inode, self.read, self.decisive, self.newest = inode, 0, [], None


_tails: OrderedDict[tuple[Path, str], _Tail] = OrderedDict()
_tails_lock = threading.Lock()


class LookLog:
    """``HOME/serving/models/MODEL/looks.jsonl``.

    A look is a plain dict with at least ``rollout_id``; what else is in it belongs to the rollout room.
    """

    def __init__(self, home: Home, model: str) -> None:
        self.path = home.serving_model(check_model_name(model)) / "looks.jsonl"

    def append(self, look: dict[str, Any], *, after: Mapping[str, Any] | EllipsisType | None = ...) -> bool:
        """Add ``look``; when this returns True it is on the disk.

        A last line that a crash tore is cut off first: it was never acknowledged.

        Args:
            after: the newest look of the rollout that ``look`` goes on from (None: there was none). When another one
                has been added meanwhile, by a gate that was thought dead, nothing is written and the answer is
                False: what was decided without it has to be decided again. Left out: whatever the newest is.

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
            if not isinstance(after, EllipsisType) and not _goes_on(descriptor, end, str(look["rollout_id"]), after):
                return False
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
        return True

    def read(self, rollout_id: str) -> list[dict[str, Any]]:
        """All looks of one rollout, oldest first; empty when there are none."""
        return [look for look in self._looks() if look.get("rollout_id") == rollout_id]

    def all(self) -> list[dict[str, Any]]:
        """Every look of every rollout of the model, oldest first."""
        return list(self._looks())

    def last(self, rollout_id: str) -> dict[str, Any] | None:
        """The newest look of one rollout."""
        looks = self.read(rollout_id)
        return looks[-1] if looks else None

    def tail(self, rollout_id: str) -> list[dict[str, Any]]:
        """What a gate needs to go on, oldest first, in time that does not grow with the log.

        Returns:
            The looks that let a step pass or ended the rollout, of these only ``at`` and the decision without its
            state (but for ``step``); then the newest look, whole.
        """
        kept = _remembered(self.path, rollout_id)
        with kept.lock:
            try:
                self._catch_up(kept, rollout_id)
            except FileNotFoundError:
                kept.forget(-1)
            newest = _parsed(kept.newest, rollout_id) if kept.newest else None
            if newest is None or kept.newest is None:
                return []
            earlier = kept.decisive[:-1] if _decisive(newest) else kept.decisive
            return [*earlier, _Look(newest, kept.newest)]

    def _catch_up(self, kept: _Tail, rollout_id: str) -> None:
        """Read what was appended since; from the start when the file is another, or shorter than what was read."""
        with self.path.open("rb") as file:
            # An append that fails takes its line back: it must not be seen before it is known to stay.
            fcntl.flock(file.fileno(), fcntl.LOCK_SH)
            stat = os.fstat(file.fileno())
            if stat.st_ino != kept.inode or stat.st_size < kept.read:
                kept.forget(stat.st_ino)
            file.seek(kept.read)
            data = file.read(stat.st_size - kept.read)
        whole = data.rfind(b"\n") + 1  # what follows was never acknowledged, and will be written anew
        name = json.dumps(rollout_id).encode()
        mine = [line for line in data[:whole].splitlines() if name in line]
        for line in reversed(mine):
            if _parsed(line, rollout_id) is not None:
                kept.newest = line
                break
        for line in mine:
            # Most looks only say "hold": those are not even parsed.
            if any(action in line for action in _DECISIVE):
                look = _parsed(line, rollout_id)
                if look is not None and _decisive(look):
                    kept.decisive.append(_gist(look))
        kept.read += whole

    def _looks(self) -> Iterator[dict[str, Any]]:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        # What follows the last newline was never acknowledged.
        for line in data[: data.rfind(b"\n") + 1].splitlines():
            look = _parsed(line)
            if look is not None:
                yield look


def _parsed(line: bytes, rollout_id: str | None = None) -> dict[str, Any] | None:
    """The look in ``line``; None when the disk damaged it (the others still count), or it is of another rollout."""
    try:
        look = canonical.loads(line)
    except ValueError:
        return None
    if not isinstance(look, dict) or (rollout_id is not None and look.get("rollout_id") != rollout_id):
        return None
    return look


def _decisive(look: dict[str, Any]) -> bool:
    decision = look.get("decision")
    return isinstance(decision, dict) and decision.get("action") in _ENDING


def _gist(look: dict[str, Any]) -> dict[str, Any]:
    decision = look["decision"]
    step = {"step": decision["state"]["step"]}
    return {"rollout_id": look["rollout_id"], "at": look["at"], "decision": {**decision, "state": step}}


def _remembered(path: Path, rollout_id: str) -> _Tail:
    with _tails_lock:
        kept = _tails.setdefault((path, rollout_id), _Tail())
        _tails.move_to_end((path, rollout_id))
        while len(_tails) > REMEMBERED:
            _tails.popitem(last=False)
    return kept


def _goes_on(descriptor: int, end: int, rollout_id: str, after: Mapping[str, Any] | None) -> bool:
    """Whether ``after`` is the newest look of the rollout in the first ``end`` bytes; None: whether it has none."""
    name, size = json.dumps(rollout_id).encode(), 65_536
    while True:
        start = max(0, end - size)
        lines = os.pread(descriptor, end - start, start).splitlines()
        for line in reversed(lines if start == 0 else lines[1:]):  # the first may be a part
            if name not in line:
                continue
            if isinstance(after, _Look) and after.line == line:
                return True
            look = _parsed(line, rollout_id)
            if look is not None:
                # NaN is not equal to itself, its bytes are.
                return look == after or (after is not None and canonical.dumps(look) == canonical.dumps(dict(after)))
        if start == 0:
            return after is None
        size *= 4


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
