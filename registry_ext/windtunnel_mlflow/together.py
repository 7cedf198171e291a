"""Group commit: what several requests have to write at the same moment is one transaction, one wait for the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Entries in one transaction.
MOST = 200


class _Waiting(Generic[T]):
    def __init__(self, item: T) -> None:
        self.item = item
        self.done = False
        self.error: BaseException | None = None


class Together(Generic[T]):
    """Whoever comes while another writes waits, and then finds its item written by the next in line.

    Args:
        write: writes a batch in one transaction and says which items are durable. It must write the first; it may
            leave others for later.
    """

    def __init__(self, write: Callable[[list[T]], list[bool]]) -> None:
        self._write = write
        self._queue: list[_Waiting[T]] = []
        self._queueing, self._writing = threading.Lock(), threading.Lock()

    def add(self, item: T) -> None:
        """Return when ``item`` is durable.

        Raises:
            Exception: whatever kept it from being written.
        """
        mine = _Waiting(item)
        with self._queueing:
            self._queue.append(mine)
        while not mine.done:
            with self._writing:
                if not mine.done:
                    self._lead(mine)
        if mine.error is not None:
            raise mine.error

    def _lead(self, mine: _Waiting[T]) -> None:
        with self._queueing:
            batch = [mine, *(one for one in self._queue if one is not mine)][:MOST]
        try:
            written = self._write([one.item for one in batch])
        except BaseException as error:
            if len(batch) == 1 or not isinstance(error, Exception):
                written, mine.error = [True], error
            else:
                # One of them cannot be written; which, shows when each goes by itself.
                written = self._alone(mine)
            batch = [mine]
        with self._queueing:
            for one, done in zip(batch, written, strict=True):
                if done:
                    one.done = True
                    self._queue.remove(one)

    def _alone(self, mine: _Waiting[T]) -> list[bool]:
        try:
            return self._write([mine.item])
        except BaseException as error:
            mine.error = error
            return [True]
