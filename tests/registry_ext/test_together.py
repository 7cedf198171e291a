"""Group commit: an entry is durable when the call returns, in few transactions; a bad one harms nobody else."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from windtunnel_mlflow.together import MOST, Together


def test_many_at_once_are_few_transactions() -> None:
    batches: list[list[int]] = []
    first, go = threading.Event(), threading.Event()

    def write(items: list[int]) -> list[bool]:
        batches.append(list(items))
        first.set()
        assert go.wait(30)
        return [True] * len(items)

    together = Together(write)
    with ThreadPoolExecutor(20) as pool:
        done = [pool.submit(together.add, 0)]
        assert first.wait(30)
        done += [pool.submit(together.add, number) for number in range(1, 20)]
        while len(together._queue) < 20:
            time.sleep(0.01)
        go.set()
        for one in done:
            one.result(30)
    assert batches[0] == [0]
    assert sorted(batches[1]) == list(range(1, 20))
    assert together._queue == []


def test_what_was_left_is_written_by_itself() -> None:
    written: list[int] = []

    def write(items: list[int]) -> list[bool]:
        written.append(items[0])
        return [True] + [False] * (len(items) - 1)

    together = Together(write)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(together.add, range(50)))
    assert sorted(written) == list(range(50))


def test_a_bad_entry_fails_alone() -> None:
    written: list[int] = []

    def write(items: list[int]) -> list[bool]:
        assert len(items) <= MOST
        if 13 in items:
            raise ValueError("thirteen")
        written.extend(items)
        return [True] * len(items)

    together = Together(write)

    def add(number: int) -> str | None:
        try:
            together.add(number)
        except ValueError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(add, range(60)))
    assert [number for number, error in enumerate(said) if error] == [13]
    assert sorted(written) == [number for number in range(60) if number != 13]
    with pytest.raises(ValueError, match="thirteen"):
        together.add(13)
