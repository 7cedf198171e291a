"""Many rollouts watched by one process: none is missed, none waits for another."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from bench import looks, rig
from windtunnel_airflow.gatekeeping import Answer
from windtunnel_airflow.triggers import GateTrigger

WATCH = {"home": "/nowhere", "model": "visits", "rollout_id": "r", "token": 1}


def test_a_hundred_rollouts_are_looked_at_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thousand at ten seconds of the benchmark, at a tenth of both: as many looks a second."""
    monkeypatch.setattr(looks, "EVERY_S", 1.0)
    with rig.temporary_home() as home:
        seen = looks.together(home, 100, 6.0)
    assert seen.ended == 0
    assert seen.looks >= 500
    assert max(seen.gaps) < 3.0  # others use this machine too; the benchmark allows two periods


def test_routers_that_hang_do_not_hold_up_the_others() -> None:
    go = threading.Event()

    class Hangs(GateTrigger):
        def look(self) -> Answer:
            go.wait(20)
            return Answer("advance", "PASS", "", {}, 0, 0.0)

    class Looks(GateTrigger):
        def look(self) -> Answer:
            return Answer("advance", "PASS", "", {}, 0, 0.0)

    async def run() -> float:
        async def first(trigger: GateTrigger) -> Any:
            async for event in trigger.run():
                return event
            return None

        hanging = [asyncio.create_task(first(Hangs(WATCH, 10.0))) for _ in range(40)]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await asyncio.wait_for(first(Looks(WATCH, 10.0)), 10)
        took = time.monotonic() - began
        go.set()
        await asyncio.gather(*hanging)
        return took

    assert asyncio.run(run()) < 2.0
