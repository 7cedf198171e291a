"""Which window is next: every factor that decides it."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import DataError
from windtunnel.home import Home
from windtunnel.monitoring import windows
from windtunnel.monitoring.windows import Window, WindowState
from windtunnel.spec import Monitoring

SPEC = Monitoring(window="60s", lateness="5s")


def decide(state: WindowState, *, now: float = 1e6, **given: Any) -> Window | None:
    facts: dict[str, Any] = {"watermark": None, "stale": False, "dropped": 0, "first_row": None, "now": now}
    return windows.decide(state, SPEC, **(facts | given))


FRESH = WindowState()
AT_600 = WindowState(closed_end=600.0)


@pytest.mark.parametrize(
    ("name", "state", "given", "expected"),
    [
        ("nobody ever wrote", FRESH, {"stale": True}, None),
        ("no row yet", FRESH, {"watermark": 5_000}, None),
        ("starts at the first row's window", FRESH, {"watermark": 1_000, "first_row": 610}, (600, 660)),
        ("one second too early", AT_600, {"watermark": 664, "first_row": 601}, None),
        ("just complete", AT_600, {"watermark": 665, "first_row": 601}, (600, 660)),
        ("catches up in order", AT_600, {"watermark": 5_000, "first_row": 601}, (600, 660)),
        ("the clock alone closes nothing", AT_600, {"watermark": 640, "first_row": 601, "now": 9_000}, None),
    ],
)
def test_when_a_window_closes(name: str, state: WindowState, given: dict[str, Any], expected: Any) -> None:
    """DEMAND MON-1: windows close by themselves, in order."""
    found = decide(state, **given)
    assert (None if found is None else (found.start, found.end)) == expected, name
    if found is not None:
        assert not found.stale
        assert not found.empty


def test_a_silent_log_closes_stale_and_only_after_a_grace() -> None:
    """DEMAND MON-9: a stopped log is told, not taken for quiet."""
    given: dict[str, Any] = {"watermark": 630, "stale": True, "first_row": 601, "reason": "writer 1-0 is silent"}
    assert decide(AT_600, now=700, **given) is None
    found = decide(AT_600, now=726, **given)
    assert found == Window(600, 660, stale=True, reason="writer 1-0 is silent")


def test_a_window_that_was_complete_before_the_silence_is_not_stale() -> None:
    found = decide(AT_600, watermark=700, stale=True, first_row=601, now=10_000)
    assert found == Window(600, 660)


def test_a_night_without_traffic_is_one_window() -> None:
    found = decide(AT_600, watermark=30_000, first_row=30_030)
    assert found == Window(600, 29_940, empty=True)  # whole windows up to where the log is complete
    found = decide(AT_600, watermark=30_000, first_row=6_030)
    assert found == Window(600, 6_000, empty=True)  # and never beyond the next row
    down = decide(AT_600, watermark=650, stale=True, now=30_000, reason="no living writer")
    assert down is not None
    assert (down.stale, down.empty, down.start) == (True, True, 600)
    assert down.end > 29_000


def test_every_moment_is_judged_once() -> None:
    """Any sequence of watermarks lays windows end to end."""
    for seed in range(30):
        source = random.Random(seed)
        rows = sorted(source.uniform(0, 5_000) for _ in range(source.choice([3, 40, 400])))
        state, mark, seen = FRESH, 0.0, []
        while mark < 6_000:
            mark += source.uniform(0, 400)
            closed = state.closed_end if state.closed_end is not None else -1.0
            known = next((row for row in rows if closed <= row < mark), None)
            found = decide(state, watermark=mark, first_row=known, now=mark)
            if found is not None:
                seen.append(found)
                assert found.empty == (not any(found.start <= row < found.end for row in rows))
                state = state.close(found, "1")
                assert state.close(found, "1") == state  # not counted twice
        for before, after in itertools.pairwise(seen):
            assert before.end == after.start
        assert len(state.closed) == len(seen)


def test_lost_rows_are_counted_per_window() -> None:
    state = WindowState(closed_end=600.0, dropped=10)
    found = decide(state, watermark=1_000, first_row=601, dropped=25)
    assert found is not None
    assert found.dropped == 15
    assert state.close(found, "1").dropped == 25


def test_state_survives_the_disk(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert windows.load(home, "visits") == WindowState()
    state = WindowState(closed_end=60.0, retrain_at=3.0).close(Window(60, 120), "7")
    windows.save(home, "visits", state)
    assert windows.load(home, "visits") == state
    (tmp_path / "monitoring" / "visits" / "windows.json").write_text("{")
    with pytest.raises(DataError, match=r"windows\.json cannot be read"):
        windows.load(home, "visits")
