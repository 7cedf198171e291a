"""Several guards of one cluster: each alone, in turns that are drawn anew at every call, killed and held up there."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import greenlet
from airborne import Died
from seldonsky import ClusterSky, _Guard

from windtunnel.serving.release.lease import Clock

#: Of a round's steps: how many kill the guard that was to go on, and how many hold it up, for how many rounds.
KILLED, HELD, ROUNDS = 0.01, 0.02, (2, 40)


class Guards:
    """In the place of ``ClusterSky.guard``. One that was killed is made anew and remembers nothing; one that was held
    up goes on from there, with what it had decided long ago.

    Attributes:
        killed, held: how often that was.
    """

    def __init__(self, sky: ClusterSky, count: int, seed: int) -> None:
        self._sky, self._rng = sky, random.Random(seed)
        self._guards = [self._new(number) for number in range(count)]
        self._late: dict[tuple[int, str], tuple[Any, int]] = {}  # what was held up, and for how many rounds yet
        self.killed = self.held = 0

    def watch(self) -> None:
        self._round("watch")

    def tend(self) -> None:
        self._round("tend")

    def _new(self, number: int) -> _Guard:
        """Each by the clock of its own machine."""
        place, world, ahead = self._sky.place(), self._sky.world, 0.4 * number
        place.backend._clock = lambda: world.wall + ahead
        self._sky.running.enter_context(place.backend.following())
        return _Guard(
            self._sky.home, place.backend, lambda: self._sky.registry,
            clock=lambda: Clock(world.wall + ahead, world.real), intents=place.intents, looks=place.looks,
        )  # fmt: skip

    def _round(self, what: str) -> None:
        main, former = greenlet.getcurrent(), self._sky.world.on_edge
        self._sky.world.on_edge = lambda name: main.switch()
        try:
            going: dict[tuple[int, str], Any] = {}
            for key, (thread, left) in list(self._late.items()):
                self._late[key] = (thread, left - 1)
                if left <= 1:
                    going[key] = self._late.pop(key)[0]
                    going[key].parent = main
            for number, guard in enumerate(self._guards):
                if (number, what) not in self._late and (number, what) not in going:
                    run: Callable[[], None] = getattr(guard, what)
                    going[number, what] = greenlet.greenlet(run, main)
            while going:
                self._step(going, self._rng.choice(sorted(going)))
        finally:
            self._sky.world.on_edge = former

    def _step(self, going: dict[tuple[int, str], Any], key: tuple[int, str]) -> None:
        thread, drawn = going[key], self._rng.random()
        if thread and drawn < KILLED:
            self.killed += 1
            for mine in [one for one in {*going, *self._late} if one[0] == key[0]]:  # both its threads
                # Not "or": a greenlet that has not begun is false.
                self._end(going.pop(mine) if mine in going else self._late.pop(mine)[0])
            self._guards[key[0]] = self._new(key[0])
        elif thread and drawn < KILLED + HELD and len(self._late) + 1 < len(self._guards):
            self.held += 1
            self._late[key] = (going.pop(key), self._rng.randint(*ROUNDS))
        else:
            thread.switch()
            if thread.dead:
                del going[key]

    def _end(self, thread: Any) -> None:
        former, self._sky.world.on_edge = self._sky.world.on_edge, None
        try:
            if thread:
                thread.parent = greenlet.getcurrent()
                thread.throw(Died)
        except Died:
            pass
        finally:
            self._sky.world.on_edge = former
