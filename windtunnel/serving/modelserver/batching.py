"""Requests served together: one call of the model for the rows of several (``serving.batch``).

MLServer's own batching makes one request of several, and with that one id, one log line and one refusal. Here only the
model's call is shared: each request is decoded, answered and logged by itself, and where the shared call fails each is
tried alone, so that one request's rows cannot fail another's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

Columns = dict[str, list[Any]]
#: What the model says of some rows: milliseconds that the first of them waited, one prediction a row, further outputs
#: by name.
Result = tuple[float, list[Any], dict[str, Any]]


@dataclass(slots=True)
class _Waiting:
    columns: Columns
    rows: int
    arrived: float
    future: asyncio.Future[Result]


class Batcher:
    """Gathers requests of one event loop.

    Args:
        call: columns, rows and when the first of them arrived (``time.monotonic``) to the model's answer; may raise
            anything.
        size: most requests in one call.
        delay_s: longest that the first of them waits for others.
    """

    def __init__(self, call: Callable[[Columns, int, float], Awaitable[Result]], size: int, delay_s: float) -> None:
        self._call, self._size, self._delay_s = call, size, delay_s
        self._groups: dict[tuple[str, ...], list[_Waiting]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, columns: Columns, rows: int, arrived: float) -> Result:
        """The model's answer to these rows alone.

        Raises:
            Exception: what the model raised for them.
        """
        loop = asyncio.get_running_loop()
        one = _Waiting(columns, rows, arrived, loop.create_future())
        key = tuple(columns)  # requests that leave out an optional feature are no rows of the same table
        group = self._groups.setdefault(key, [])
        group.append(one)
        if len(group) >= self._size:
            self._go(key, group)
        elif len(group) == 1:
            loop.call_later(self._delay_s, self._go, key, group)
        return await one.future

    def _go(self, key: tuple[str, ...], group: list[_Waiting]) -> None:
        if self._groups.get(key) is not group:
            return  # it was full before its time
        del self._groups[key]
        task = asyncio.get_running_loop().create_task(self._run(group))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, group: Sequence[_Waiting]) -> None:
        wanted = [one for one in group if not one.future.done()]
        if not wanted:
            return
        try:
            first = min(one.arrived for one in wanted)
            waited, outputs, more = await self._call(_together(wanted), sum(one.rows for one in wanted), first)
            parts = _parts(wanted, first, waited, outputs, more)
        except Exception as error:
            if len(wanted) == 1:
                _refuse(wanted[0], error)
                return
            for one in wanted:
                await self._run([one])
            return
        for one, part in zip(wanted, parts, strict=True):
            if not one.future.done():
                one.future.set_result(part)


def _refuse(one: _Waiting, error: Exception) -> None:
    if not one.future.done():
        one.future.set_exception(error)


def _together(group: Sequence[_Waiting]) -> Columns:
    return {name: [value for one in group for value in one.columns[name]] for name in group[0].columns}


def _parts(
    group: Sequence[_Waiting], first: float, waited: float, outputs: list[Any], more: dict[str, Any]
) -> list[Result]:
    """Each request's share, in order.

    Raises:
        ValueError: a further output has not one value a row, so nobody can say whose is which.
    """
    rows = sum(one.rows for one in group)
    odd = [name for name, values in more.items() if len(values) != rows]
    if len(outputs) != rows or odd:
        raise ValueError(f"{', '.join(odd) or 'the predictions'}: not one value a row")
    found: list[Result] = []
    at = 0
    for one in group:
        end = at + one.rows
        mine = max(0.0, waited - (one.arrived - first) * 1000)
        found.append((mine, outputs[at:end], {name: values[at:end] for name, values in more.items()}))
        at = end
    return found
