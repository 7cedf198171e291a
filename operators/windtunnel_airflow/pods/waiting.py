"""Waiting for a pod or a set in the worker, by the same triggers that wait in a triggerer (``deferrable=False``).

A signal ends the waiting: who sent it decides what becomes of the pod (``podded``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

#: Seconds between two looks for a signal.
LOOK_S = 0.5


def event_of(trigger: Any, stopped: Callable[[], bool]) -> dict[str, Any] | None:
    """What a trigger says; None: this process is told to stop. Blocks.

    Args:
        trigger: one of ours.
        stopped: whether a signal has come.
    """
    return asyncio.run(_first(trigger, stopped))


async def _first(trigger: Any, stopped: Callable[[], bool]) -> dict[str, Any] | None:
    async def says() -> dict[str, Any]:
        async for event in trigger.run():
            return dict(event.payload)
        raise RuntimeError(f"{type(trigger).__name__} said nothing")

    saying = asyncio.create_task(says())
    try:
        while not saying.done():
            if stopped():
                return None
            await asyncio.wait({saying}, timeout=LOOK_S)
        return saying.result()
    finally:
        saying.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await saying
        await trigger.cleanup()
