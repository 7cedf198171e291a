"""Several requests, one call of the model (DEMAND SRV-9): each gets its own rows back, whatever happens to others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from windtunnel.serving.modelserver.batching import Batcher, Columns, Result


class Model:
    """Doubles ``x``; rows below zero break it."""

    def __init__(self) -> None:
        self.calls: list[list[float]] = []

    async def __call__(self, columns: Columns, rows: int, arrived: float) -> Result:
        self.calls.append(list(columns["x"]))
        assert rows == len(columns["x"])
        await asyncio.sleep(0)
        if any(x < 0 for x in columns["x"]):
            raise ValueError("below zero")
        return 5.0, [2 * x for x in columns["x"]], {"confidence": [x / 10 for x in columns["x"]]}


def ask(batcher: Batcher, *requests: Any, arrived: float = 1.0) -> list[Any]:
    async def all_at_once() -> list[Any]:
        return await asyncio.gather(
            *(batcher.ask({"x": xs} if isinstance(xs, list) else xs, _rows(xs), arrived) for xs in requests),
            return_exceptions=True,
        )

    return asyncio.run(all_at_once())


def _rows(xs: Any) -> int:
    return len(xs if isinstance(xs, list) else xs["x"])


def test_they_share_a_call_and_get_their_own_rows() -> None:
    model = Model()
    found = ask(Batcher(model, 3, 60.0), [1.0], [2.0, 3.0], [4.0])
    assert model.calls == [[1.0, 2.0, 3.0, 4.0]]
    assert [one[1] for one in found] == [[2.0], [4.0, 6.0], [8.0]]
    assert [one[2]["confidence"] for one in found] == [[0.1], [0.2, 0.3], [0.4]]


def test_fewer_wait_no_longer_than_they_may() -> None:
    model = Model()
    assert [one[1] for one in ask(Batcher(model, 10, 0.01), [1.0], [2.0])] == [[2.0], [4.0]]
    assert len(model.calls) == 1


def test_more_than_fit_are_several_calls() -> None:
    model = Model()
    found = ask(Batcher(model, 2, 0.01), *([float(n)] for n in range(5)))
    assert [one[1] for one in found] == [[0.0], [2.0], [4.0], [6.0], [8.0]]
    assert sorted(map(len, model.calls)) == [1, 2, 2]


def test_one_bad_request_fails_alone() -> None:
    model = Model()
    good, bad, other = ask(Batcher(model, 3, 60.0), [1.0], [-1.0], [2.0])
    assert (good[1], other[1]) == ([2.0], [4.0])
    assert isinstance(bad, ValueError)
    assert model.calls == [[1.0, -1.0, 2.0], [1.0], [-1.0], [2.0]]


def test_rows_of_other_columns_are_no_rows_of_the_same_table() -> None:
    model = Model()
    found = ask(Batcher(model, 2, 0.01), {"x": [1.0]}, {"x": [2.0], "y": [0.0]})
    assert [one[1] for one in found] == [[2.0], [4.0]] and len(model.calls) == 2


@pytest.mark.parametrize("odd", [{"shape": [7.0]}, {}])
def test_an_answer_that_cannot_be_divided_is_asked_for_one_by_one(odd: dict[str, Any]) -> None:
    calls = []

    async def model(columns: Columns, rows: int, arrived: float) -> Result:
        calls.append(rows)
        return 0.0, [1.0] * (rows if odd or rows == 1 else 0), odd if rows > 1 else {}

    found = ask(Batcher(model, 2, 60.0), [1.0], [2.0])
    assert calls == [2, 1, 1] and [one[1] for one in found] == [[1.0], [1.0]]


def test_waiting_is_told_of_each() -> None:
    async def both() -> list[Result]:
        batcher = Batcher(Model(), 2, 60.0)
        return list(await asyncio.gather(batcher.ask({"x": [1.0]}, 1, 10.0), batcher.ask({"x": [2.0]}, 1, 10.003)))

    first, second = asyncio.run(both())
    assert first[0] == 5.0 and second[0] == pytest.approx(2.0)
