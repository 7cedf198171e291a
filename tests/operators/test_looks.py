"""Many rollouts watched by one process: none is missed, none waits for another."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from bench import looks, rig
from windtunnel_airflow.gatekeeping import Answer
from windtunnel_airflow.triggers import GateTrigger

WATCH = {"home": "/nowhere", "model": "visits", "rollout_id": "r", "token": 1}


def test_a_hundred_rollouts_are_looked_at_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many looks a second as in the benchmark of a thousand. How many a second there are in truth is told there:
    here none is forgotten, however slow the machine: where one had its fifth look, all had their third.
    """
    monkeypatch.setattr(looks, "EVERY_S", 1.0)
    with rig.temporary_home() as home:
        seen = looks.together(home, 100, 120.0, enough=5)
    assert seen.ended == 0
    assert min(seen.each) >= 5
    assert max(seen.each) <= min(seen.each) + 2


def test_routers_that_hang_do_not_hold_up_the_others() -> None:
    go = threading.Event()

    class Hangs(GateTrigger):
        def look(self) -> Answer:
            assert go.wait(120)
            return Answer("advance", "PASS", "", {}, 0, 0.0)

    class Looks(GateTrigger):
        def look(self) -> Answer:
            return Answer("advance", "PASS", "", {}, 0, 0.0)

    async def first(trigger: GateTrigger) -> Any:
        async for event in trigger.run():
            return event
        return None

    async def run() -> None:
        hanging = [asyncio.create_task(first(Hangs(WATCH, 10.0))) for _ in range(40)]
        await asyncio.sleep(0.1)
        try:
            assert await asyncio.wait_for(first(Looks(WATCH, 10.0)), 100) is not None
            assert not any(task.done() for task in hanging)
        finally:
            go.set()
            await asyncio.gather(*hanging)

    asyncio.run(run())
