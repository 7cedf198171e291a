"""One full flight for all tests of this folder: ``windtunnel demo --json``, whose stack stays up to be questioned.

The flight mostly waits, so it departs first, and while it is under way the rooms are tested that only count
(``MEANWHILE``): docs/decisions/0007-tests-while-the-flight-flies.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hall import group, order

from windtunnel.home import Home
from windtunnel.stackfile import StackFile, read_secret

ROOT = Path(__file__).parents[2]
FLIGHT_LIMIT_S = 2700

#: Rooms whose tests wait for no clock or process of others, so that neither they nor the flight mind each other.
MEANWHILE = (
    "data", "evaluation", "evidence", "hands", "monitoring", "plugins", "registry", "registry_ext", "rehearsal",
    "rollout", "safety", "spec", "stats",
)  # fmt: skip

#: Of these also the tests with a real server: its home and port are its own, and it mostly waits, as the flight does.
OWN_SERVER = ("registry_ext",)


@dataclass(frozen=True)
class Flight:
    """A stack on which the demo has been flown."""

    home: Home
    told: dict[str, Any]
    exit_code: int
    stderr: str

    @property
    def urls(self) -> dict[str, str]:
        return StackFile.read(self.home).urls

    def secret(self, name: str) -> str:
        return read_secret(self.home, name)


def _command(home: Path) -> list[str]:
    return [str(Path(sys.executable).parent / "windtunnel"), "--home", str(home)]


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "WINDTUNNEL_HOME"}


def windtunnel(home: Path, *args: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    return subprocess.run(
        [*_command(home), *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env=_environment(),
        check=False,
    )


class Departed:
    """The demo under way, in a home of its own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="wt-flight-"))
        self.home = Home.find(self.folder / "home")
        self.began = time.monotonic()
        harm = os.environ.get("WINDTUNNEL_HARM", "errors")
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [*_command(self.home.root), "demo", "--json", "--harm", harm],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=ROOT,
                env=_environment(),
                start_new_session=True,
            )

    def landed(self) -> Flight:
        """Wait for the demo's end.

        Raises:
            subprocess.TimeoutExpired: it takes longer than any demo.
        """
        code = self.process.wait(max(1.0, self.began + FLIGHT_LIMIT_S - time.monotonic()))
        out, err = ((self.folder / name).read_text(errors="replace") for name in ("out", "err"))
        return Flight(self.home, json.loads(out) if out.strip() else {}, code, err)

    def end(self) -> None:
        """End the demo and its stack; once more is no error."""
        if self.folder.exists():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            windtunnel(self.home.root, "down")
            shutil.rmtree(self.folder, ignore_errors=True)


_DEPARTED: pytest.StashKey[Departed] = pytest.StashKey()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The rooms for meanwhile, the flight's tests, all others; each in its own order. Without a flight as it was.

    With two workers (``make test``) one is the hall: the flight's tests, then those of every other whole stack, one
    after the other. Beside it the other worker tests file after file, and the hall helps when it is done.
    """
    if getattr(config, "workerinput", None):
        lost = [item.nodeid for item in items if item.get_closest_marker("stack") and group(item.nodeid) != "hall"]
        if lost:
            raise pytest.UsageError(f"a test of a whole stack is not among tests/common/hall.py's: {lost[0]}")
        items.sort(key=lambda item: order(item.nodeid))
    elif any(_flies(item) for item in items):
        items.sort(key=lambda item: 0 if _meanwhile(item) else 1 if _flies(item) else 2)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Depart before the first test, where there is a flight to be tested and something to do meanwhile."""
    begin = session.items[:1]
    wanted = any(map(_flies, session.items)) and not any(map(_flies, begin))
    if wanted and not session.config.option.collectonly and "WINDTUNNEL_FLIGHT" not in os.environ:
        session.config.stash[_DEPARTED] = Departed()
    try:
        return (yield)
    finally:
        if _DEPARTED in session.config.stash:
            session.config.stash[_DEPARTED].end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """After the last of its tests the flight's stack goes, so that it takes nothing from the tests that follow."""
    try:
        return (yield)
    finally:
        departed = item.config.stash.get(_DEPARTED, None)
        if departed and _flies(item) and not (nextitem and _flies(nextitem)):
            departed.end()


def _room(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT / "tests").parts[0] if item.path.is_relative_to(ROOT / "tests") else ""


def _flies(item: pytest.Item) -> bool:
    return "flight" in getattr(item, "fixturenames", ()) and _room(item) == "flight"


def _meanwhile(item: pytest.Item) -> bool:
    room = _room(item)
    if room not in MEANWHILE or item.get_closest_marker("stack"):
        return False
    return room in OWN_SERVER or not item.get_closest_marker("real")


@pytest.fixture(scope="session")
def flight(request: pytest.FixtureRequest) -> Iterator[Flight]:
    """The flight; afterwards ``windtunnel down``. ``WINDTUNNEL_FLIGHT`` names a home flown earlier (for developers)."""
    if flown := os.environ.get("WINDTUNNEL_FLIGHT"):
        home = Home.find(flown)
        yield Flight(home, json.loads((home.root / "told.json").read_text()), 0, "")
        return
    departed = request.config.stash.get(_DEPARTED, None) or Departed()
    request.config.stash[_DEPARTED] = departed
    try:
        yield departed.landed()
    finally:
        departed.end()
