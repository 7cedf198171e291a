"""Registering a model of 5 GB: how much longer than reading its files once (REG-13)."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import httpx

from bench.moving import MLMODEL, client, seconds, server
from bench.quiet import measure
from bench.table import Table
from windtunnel.evidence import manifest
from windtunnel.home import Home
from windtunnel.stackfile import read_secret

SIZE, COPY, HUGE = 5_000_000_000, 1_000_000_000, 100_000_000_000
LIMIT_S, RELOAD_MS = 10.0, 500.0
ROUNDS, BOUND_S = 3, 240.0
_BLOCK = 1 << 22


def write(folder: Path, count: int, size: int, holes: bool = False) -> None:
    """``size`` bytes in so many files, and an ``MLmodel``; holes are bytes to whoever reads and take no disk."""
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text(MLMODEL, encoding="utf-8")
    block = os.urandom(_BLOCK)
    for number in range(count):
        with (folder / f"weights-{number}").open("wb") as stream:
            if holes:
                stream.truncate(size // count)
                continue
            left = size // count
            while left > 0:
                left -= stream.write(block[: min(left, _BLOCK)])


def read(folder: Path) -> None:
    """All its bytes once, and nothing done with them."""
    buffer = memoryview(bytearray(_BLOCK))
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def registered(
    home: Home, url: str, model: str, count: int, size: int = SIZE, holes: bool = False
) -> tuple[float, float]:
    """Seconds of the registration until it is sealed, and of reading its files once."""
    auth = ("admin", read_secret(home, "mlflow-admin"))
    with httpx.Client(base_url=url, auth=auth, timeout=60, trust_env=False) as http:
        made = http.post("/api/2.0/mlflow/runs/create", json={"experiment_id": "0"}).raise_for_status().json()
    run_id = made["run"]["info"]["run_id"]
    place = home.mlflow / "artifacts" / "0" / run_id / "artifacts" / "model"
    write(place, count, size, holes)
    try:
        once = seconds(lambda: read(place))
        with client(home, url) as registry:
            took = seconds(
                lambda: registry.register(
                    model, source=f"runs:/{run_id}/model", run_id=run_id, recipe={}, correlation_id=None, cause="bench"
                )
            )
    finally:
        # Its bytes, not its place: what is sealed stays where it is, and the disk is not ours alone.
        for path in place.iterdir():
            os.truncate(path, 0)
    return took, once


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def run() -> Table:
    table = Table("A model of 5 GB", ("what", "seconds", "reading the files once", "longer by"))
    folder = Path(tempfile.mkdtemp(prefix="wtb-sealing-"))
    worst, quiet = 0.0, True
    try:
        home = Home(folder / "home")
        with server(home) as url:
            for count in (1, 10):
                found = measure(lambda _, c=count: registered(home, url, f"large-{c}", c), ROUNDS, BOUND_S)  # type: ignore[misc]
                took, once = (middle([pair[side] for pair in found.values]) for side in (0, 1))
                worst, quiet = max(worst, took - once), quiet and found.quiet
                files = "one file" if count == 1 else f"{count} files"
                table.add(f"registered and sealed, {files}", f"{took:.1f}", f"{once:.1f} s", f"{took - once:.1f} s")
            free = shutil.disk_usage(folder).free
            took, once = registered(home, url, "huge", 10, HUGE, holes=True)
            grown = max(0, free - shutil.disk_usage(folder).free)
            table.add("100 GB, 10 files of holes", f"{took:.0f}", f"{once:.0f} s", f"{took - once:.0f} s")
        reload = 0.0
        for count in (1, 4):
            place = folder / f"copy-{count}"
            write(place, count, COPY)
            sealed = manifest.build(place)
            again = measure(lambda _, p=place, m=sealed: seconds(lambda: manifest.verify(p, m)), 5, 60.0)  # type: ignore[misc]
            once, took = seconds(lambda p=place: read(p)), middle(again.values)  # type: ignore[misc]
            reload, quiet = max(reload, took), quiet and again.quiet
            files = "one file" if count == 1 else f"{count} files"
            table.add(f"1 GB verified again before it is loaded, {files}", f"{took:.2f}", f"{once:.2f} s", "")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    wanted = f"5 GB registered less than {LIMIT_S:.0f} s beyond reading the files once"
    table.demand(wanted, f"{worst:.1f} s", worst < LIMIT_S if quiet else None)
    table.demand(
        "100 GB registered without a second copy", f"{grown / 1e9:.2f} GB more on the disk", grown < HUGE / 100
    )
    wanted = f"a copy of 1 GB verified and reloaded within {RELOAD_MS:.0f} ms"
    table.demand(wanted, f"{reload * 1000:.0f} ms", reload * 1000 < RELOAD_MS if quiet else None)
    table.note = (
        "On SQLite over HTTP; files in the page cache. Registering reads them to hash and to look through, and signs; "
        "one file is one chain of SHA-256 and has one processor, several are hashed at once."
    )
    return table
