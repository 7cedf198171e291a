"""Collectors of the tests: as keepers with a clock of their own, killed at a line, and as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import seldonevents
import waiting

from windtunnel.errors import UnavailableError
from windtunnel.serving.collector import events
from windtunnel.serving.collector.events import Half
from windtunnel.serving.collector.keeper import Keeper, framed
from windtunnel.serving.collector.places import Folder
from windtunnel.serving.predictions import PredictionLog

START = 1_800_000_000.0


class Killed(BaseException):
    """In place of SIGKILL: nothing runs after it."""


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def event(what: str, request_id: str, body: bytes, came: float = START, **more: Any) -> tuple[Half, bytes]:
    headers = seldonevents.headers(what, request_id, time="", **more)
    half = events.understood(headers, body, came)
    assert half is not None
    return half, framed(headers, body, came, False)


def pair(number: int, came: float = START, **more: Any) -> list[tuple[Half, bytes]]:
    """Both halves of prediction ``number``."""
    return [
        event("request", f"r{number}", seldonevents.asks(float(number)), came, id=f"q{number}", **more),
        event("response", f"r{number}", seldonevents.answers(number * 2.0), came + 0.01, id=f"a{number}", **more),
    ]


def dead(keeper: Keeper) -> None:
    """What the kernel does with a killed process: its lock is free."""
    if keeper._locked is not None:
        os.close(keeper._locked)
        keeper._locked = None


def logged(root: Path) -> list[str]:
    """Prediction ids in all files, as they are: a doubled one is there twice."""
    import pyarrow.parquet as pq

    found: list[str] = []
    for path in sorted(root.rglob("*.parquet")):
        found += pq.read_table(path, columns=["prediction_id"]).column("prediction_id").to_pylist()
    return sorted(found)


def steps(monkeypatch: pytest.MonkeyPatch, die_at: int | None) -> list[str]:
    """Count what changes the disk; at step ``die_at`` (from 0) the process is dead before it, and stays so."""
    done: list[str] = []

    def watched(name: str, real: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            if die_at is not None and len(done) >= die_at:
                raise Killed
            done.append(name)
            return real(*args, **more)

        return call

    for module, name in ((os, "pwrite"), (os, "fdatasync"), (os, "fsync"), (os, "ftruncate")):
        monkeypatch.setattr(module, name, watched(name, getattr(module, name)))
    for name in ("replace", "unlink", "mkdir", "chmod"):
        monkeypatch.setattr(Path, name, watched(name, getattr(Path, name)))
    return done


class Away(Folder):
    """A store that does not answer."""

    away = True

    def rows(self, model: str, name: str, table: Any) -> None:
        if self.away:
            raise UnavailableError("the store does not answer")
        super().rows(model, name, table)


TOKEN = "let-me-in"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@dataclass
class Running:
    """A collector's process, its folders and a client."""

    folder: Path
    port: int
    options: tuple[str, ...]
    preexec: Callable[[], None] | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> PredictionLog:
        return PredictionLog(self.folder / "log")

    def start(self) -> None:
        (self.folder / "token").write_text(TOKEN)
        command = [
            str(Path(sys.executable).with_name("windtunnel")), "collector", "--spool", str(self.folder / "spool"),
            "--to", (self.folder / "log").as_uri(), "--port", str(self.port), "--token-file",
            str(self.folder / "token"), *self.options,
        ]  # fmt: skip
        with (self.folder / "out").open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, preexec_fn=self.preexec)
        waiting.until(lambda: self.alive() and httpx.get(f"{self.url}/healthz").status_code == 200, every_s=0.1)

    def alive(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "out").read_text()
        return True

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(self, what: str, request_id: str, body: bytes, query: str = "", **more: str) -> httpx.Response:
        headers = seldonevents.headers(what, request_id, **more)
        return httpx.post(f"{self.url}/v1/events{query}", content=body, headers=headers)

    def number(self, name: str) -> float:
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith(f"windtunnel_collector_{name} "):
                return float(line.split()[-1])
        raise LookupError(name)
