"""What is known of the way back: asked for often, checked rarely, never waited for (DEMAND ROL-12)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from windtunnel.errors import ServingError
from windtunnel.serving.release.wayback import FORGET_S, WayBack

KEY = ("/home", "r1")


class Later:
    """Runs what it is given when it is told to, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waiting: list[Callable[[], None]] = []

    def run(self) -> None:
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            one()


@pytest.fixture
def later() -> Later:
    return Later()


def test_checks_keep_their_rhythm_however_often_it_is_asked(later: Later) -> None:
    way = WayBack(lambda check: later.waiting.append(check), every_s=60, clock=lambda: later.now)
    found = ["its server is not ready"]
    made = []

    def check() -> list[str]:
        made.append(later.now)
        return list(found)

    for second in range(200):
        later.now = float(second)
        said = way.problems(KEY, check)
        assert said == (() if second < 1 or second > 120 else ("its server is not ready",))
        later.run()
        if second == 100:
            found.clear()
    assert made == [0, 60, 120, 180]


def test_a_slow_check_is_made_more_rarely_and_never_twice_at_once(later: Later) -> None:
    way = WayBack(lambda check: later.waiting.append(check), every_s=60, clock=lambda: later.now)

    def check() -> list[str]:
        later.now += 30
        return []

    way.problems(KEY, check)
    way.problems(KEY, check)
    assert len(later.waiting) == 1
    later.run()
    later.now = 599.0
    way.problems(KEY, check)
    assert not later.waiting
    later.now = 600.0
    way.problems(KEY, check)
    assert len(later.waiting) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ServingError("its state cannot be read"), "it cannot be checked: its state cannot be read"),
        (OSError("no such file"), "it cannot be checked: OSError: no such file"),
    ],
)
def test_what_cannot_be_checked_is_no_way_back(error: Exception, said: str) -> None:
    def check() -> list[str]:
        raise error

    way = WayBack(lambda check: check())
    way.problems(KEY, check)
    assert way.problems(KEY, check) == (said,)


def test_what_nobody_asks_about_is_forgotten(later: Later) -> None:
    way = WayBack(lambda check: check(), clock=lambda: later.now)
    way.problems(KEY, lambda: ["broken"])
    later.now = FORGET_S + 1
    way.problems(("/home", "r2"), list)
    assert set(way._known) == {("/home", "r2")}
