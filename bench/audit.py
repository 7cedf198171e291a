"""The audit: durable entries a second on SQLite and PostgreSQL, and how long a million of them take to check."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.quiet import Measured, measure
from bench.rig import process, wait_until
from bench.table import Table

ENTRIES = 1_000_000
MODELS = 1_000
CHECKPOINTS = 1_000
THREADS = 64
SECONDS = 5.0
WANTED, LIMIT_S = 1_500.0, 10.0


def _appends(uri: str, threads: int, seconds: float, answer: Any) -> None:
    """In a process of its own: refusals of many requests at once, each returned when it is on the disk."""
    from windtunnel_mlflow.store import GovernedStore

    store = GovernedStore(uri)
    counts = [0] * threads
    end = time.monotonic() + seconds

    def work(number: int) -> None:
        detail = {"message": f"version {number} may not become champion", "missing": ["a PASS verdict of kind rollout"]}
        while time.monotonic() < end:
            store.note_refusal(f"m{number % 8}", "set-alias", "WT_POLICY", version=number, detail=detail)
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    answer.put(sum(counts) / seconds)


def _changes(uri: str, threads: int, seconds: float, answer: Any) -> None:
    """In a process of its own: whole changes, each with its entry in its own transaction."""
    from mlflow.entities.model_registry import RegisteredModelTag

    from windtunnel_mlflow.store import GovernedStore

    store = GovernedStore(uri)
    counts = [0] * threads
    for number in range(threads):
        if not store._model_exists(f"c{number}"):
            store.create_registered_model(f"c{number}")
    end = time.monotonic() + seconds

    def work(number: int) -> None:
        while time.monotonic() < end:
            store.set_registered_model_tag(f"c{number}", RegisteredModelTag("k", str(counts[number])))
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    answer.put(sum(counts) / seconds)


def _rate(uri: str, what: Any, threads: int) -> float:
    spawn = multiprocessing.get_context("spawn")
    answer = spawn.Queue()
    process = spawn.Process(target=what, args=(uri, threads, SECONDS, answer))
    process.start()
    found = float(answer.get(timeout=SECONDS * 20 + 60))
    process.join()
    return found


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of our own on loopback, with fsync as it comes."""
    from windtunnel.loopback import any_free

    folder = Path(tempfile.mkdtemp(prefix="wtb-pg-", dir="/tmp"))
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres", "postgres")
    port, data = any_free(), str(folder / "data")

    def run(*argv: str) -> None:
        subprocess.run([*user, *argv], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/")

    try:
        run("initdb", "-D", data, "-A", "trust", "-U", "wt")
        # Our own child, so that what it uses counts as ours.
        argv = ["postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
        with process([*user, *argv], cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            ready = ["pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
            try:
                wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, 60.0, "PostgreSQL")
                yield f"postgresql+psycopg2://wt@127.0.0.1:{port}/postgres"
            finally:
                run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make(path: Path, entries: int = ENTRIES) -> list[Any]:
    """An export of ``entries`` of ``MODELS`` models, and the checkpoints over it."""
    from windtunnel.evidence import entry
    from windtunnel.evidence.checkpoint import Checkpoint
    from windtunnel.evidence.merkle import Frontier

    heads: dict[str, str] = {}
    tree, points = Frontier(), []
    detail = '{"id":"sha256:' + "a" * 64 + '","kind":"evaluation","outcome":"PASS","subject":"sha256:' + "b" * 64 + '"}'
    with path.open("wb") as file:
        for seq in range(1, entries + 1):
            model = f"model-{seq * 7919 % MODELS}"
            row = {
                "at": 1_763_735_456.123 + seq * 0.01, "actor": "service", "action": "verdict", "model": model,
                "version": "3", "outcome": "done", "code": None, "detail": detail, "correlation_id": "c" * 32,
                "prev": heads.get(model, entry.GENESIS), "seq": seq,
            }  # fmt: skip
            row["hash"] = heads[model] = entry.chain_hash(row)
            file.write(entry.line(row) + b"\n")
            tree.append(entry.leaf(seq, heads[model]))
            if seq % (entries // CHECKPOINTS) == 0:
                points.append(Checkpoint("bench", seq, tree.root()))
    return points


def _verify(path: Path, points: list[Any], processes: int) -> tuple[float, float]:
    """Seconds by the clock, and of processor time, with the start of the processes."""
    from windtunnel.registry.auditfiles import verify

    before, began = sum(os.times()[:4]), time.perf_counter()
    report = verify(path, points, processes=processes)
    took = time.perf_counter() - began
    if str(report.outcome) != "PASS" or report.checkpoints != len(points):
        raise RuntimeError(f"a whole audit was not found whole: {report}")
    return took, sum(os.times()[:4]) - before


def _told(found: Measured[float]) -> tuple[str, str]:
    return f"{statistics.median(found.values):,.0f}", f"{min(found.values):,.0f} to {max(found.values):,.0f}"


def run() -> Table:
    table = Table("The audit", ("what", "median", "range"))
    folder = Path(tempfile.mkdtemp(prefix="wtb-audit-"))
    notes = []
    try:
        with postgres() as server:
            for name, uri in (("SQLite", f"sqlite:///{folder / 'audit.db'}"), ("PostgreSQL", server)):
                for what, told, threads in (
                    (_appends, "refusals", THREADS),
                    (_appends, "refusals", 1),
                    (_changes, "changes", 8),
                ):
                    found = measure(lambda _, u=uri, w=what, t=threads: _rate(u, w, t), 3, 90.0)  # type: ignore[misc]
                    table.add(f"{told} a second, {threads} writers at once, {name}, fsync on", *_told(found))
                    if what is _appends and threads == THREADS:
                        rate = statistics.median(found.values)
                        wanted = f"{WANTED:,.0f} durable appends/s on {name}"
                        table.demand(wanted, f"{rate:,.0f}", found.shows(rate >= WANTED))
                        notes.append(f"{name}: {found.note}")
        path = folder / "audit.jsonl"
        points = make(path)
        for processes in (2, 1):
            checked = measure(lambda _, p=processes: _verify(path, points, p), 3, 120.0)  # type: ignore[misc]
            clock = [took for took, _ in checked.values]
            used = statistics.median([cpu for _, cpu in checked.values])
            table.add(
                f"{ENTRIES:,} entries of {MODELS:,} models against {CHECKPOINTS:,} checkpoints, {processes} processes",
                f"{statistics.median(clock):.1f} s ({used:.1f} s of processor)",
                f"{min(clock):.1f} to {max(clock):.1f} s",
            )
            if processes == 2:
                took = statistics.median(clock)
                wanted = f"a million entries checked in {LIMIT_S:g} s on two cores"
                table.demand(wanted, f"{took:.1f} s", checked.shows(took <= LIMIT_S))
                notes.append(f"checking: {checked.note}")
        size = path.stat().st_size / 2**20
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table.note = (
        f"A refusal returns when it is on the disk; those of a moment are one transaction. A change (a tag) has its "
        f"entry in its own transaction: most of its time is MLflow's. The export has {size:,.0f} MiB. "
        + "; ".join(notes)
        + "."
    )
    return table


if __name__ == "__main__":
    sys.stdout.write(run().markdown())
