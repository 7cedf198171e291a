"""Group commit: what several requests have to write at the same moment is one transaction, one wait for the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Entries in one transaction.
MOST = 200


class _Waiting(Generic[T]):
    def __init__(self, item: T) -> None:
        self.item = item
        self.called = threading.Event()
        self.done = False
        self.error: BaseException | None = None


class Together(Generic[T]):
    """Whoever comes while another writes waits to be called: its item was written, or it is next to write.

    One lock that each waits for would keep those whose item is written behind the next writer, and batches small.

    Args:
        write: writes a batch in one transaction and says which items are durable. It must write the first; it may
            leave others for later.
    """

    def __init__(self, write: Callable[[list[T]], list[bool]]) -> None:
        self._write = write
        self._queue: list[_Waiting[T]] = []
        self._queueing = threading.Lock()
        self._led = False

    def add(self, item: T) -> None:
        """Return when ``item`` is durable.

        Raises:
            Exception: whatever kept it from being written.
        """
        mine = _Waiting(item)
        with self._queueing:
            self._queue.append(mine)
            leads, self._led = not self._led, True
        if not leads:
            mine.called.wait()
        if not mine.done:
            self._lead(mine)
        if mine.error is not None:
            raise mine.error

    def _lead(self, mine: _Waiting[T]) -> None:
        with self._queueing:
            batch = [mine, *(one for one in self._queue if one is not mine)][:MOST]
        written = [False] * len(batch)
        try:
            written = self._write([one.item for one in batch])
        except BaseException as error:
            if len(batch) == 1 or not isinstance(error, Exception):
                mine.error = error
            else:
                # One of them cannot be written; which, shows when each goes by itself.
                self._alone(mine)
            written = [True]
            batch = [mine]
        finally:
            self._call(one for one, done in zip(batch, written, strict=True) if done)

    def _call(self, done: Iterable[_Waiting[T]]) -> None:
        """Those whose item was dealt with, and the next to write."""
        with self._queueing:
            for one in done:
                one.done = True
                self._queue.remove(one)
                one.called.set()
            self._led = bool(self._queue)
            if self._queue:
                self._queue[0].called.set()

    def _alone(self, mine: _Waiting[T]) -> None:
        try:
            self._write([mine.item])
        except BaseException as error:
            mine.error = error
