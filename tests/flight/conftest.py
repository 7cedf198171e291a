"""One full flight for all tests of this folder: ``windtunnel demo --json``, whose stack stays up to be questioned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from windtunnel.home import Home
from windtunnel.stackfile import StackFile, read_secret

ROOT = Path(__file__).parents[2]
FLIGHT_LIMIT_S = 1500


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


def windtunnel(home: Path, *args: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "windtunnel"), "--home", str(home), *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "WINDTUNNEL_HOME"},
        check=False,
    )


@pytest.fixture(scope="session")
def flight() -> Iterator[Flight]:
    """The flight; afterwards ``windtunnel down``. ``WINDTUNNEL_FLIGHT`` names a home flown earlier (for developers)."""
    if flown := os.environ.get("WINDTUNNEL_FLIGHT"):
        home = Home.find(flown)
        yield Flight(home, json.loads((home.root / "told.json").read_text()), 0, "")
        return
    with tempfile.TemporaryDirectory(prefix="wt-flight-") as folder:
        home = Home.find(Path(folder) / "home")
        harm = os.environ.get("WINDTUNNEL_HARM", "errors")
        try:
            ran = windtunnel(home.root, "demo", "--json", "--harm", harm, timeout=FLIGHT_LIMIT_S)
            told = json.loads(ran.stdout) if ran.stdout.strip() else {}
            yield Flight(home, told, ran.returncode, ran.stderr)
        finally:
            windtunnel(home.root, "down")
