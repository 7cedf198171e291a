"""Lineage among 100,000 versions: how long three steps take, and whom a data set has touched (REG-8)."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.audit import postgres
from bench.quiet import Measured, measure
from bench.table import Table

VERSIONS = 100_000
#: Models from the many with few versions to the one that is trained every hour for years.
SIZES = ((1, 20_000), (10, 2_000), (600, 100))
QUESTIONS = 100
DATA_SETS = 5_000
LIMIT_MS = 200.0
_CHUNK = 5_000


def _rows(seed: int) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Rows by table, some versions at a time: each with parent, origins, verdicts; every tenth became champion."""
    chance, seq, made = random.Random(seed), 0, 0
    rows: dict[str, list[dict[str, Any]]] = {}
    for size, (models, count) in enumerate(SIZES):
        for nth in range(models):
            model = f"model-{size}-{nth}"
            for number in range(1, count + 1):
                at, made = 1_700_000_000.0 + made * 60, made + 1
                name, digest = {"model": model, "version": number}, f"sha256:{seed:032x}{made:032x}"
                # A few data sets are used by very many.
                data = f"sha256:{min(int(chance.paretovariate(0.35)), DATA_SETS):064x}"
                rows.setdefault("versions", []).append(
                    {
                        **name, "semver": f"1.0.{number}", "semver_reason": "", "key": f"k{number}", "status": "READY",
                        "state": "candidate", "source": "runs:/r/m", "location": f"0/{made}", "run_id": f"{made:032x}",
                        "recipe": json.dumps({"data": data, "code": "team.train:main"}), "facts": "{}",
                        "parent": number - 1 or None, "digest": digest, "actor": "service", "created_at": at,
                        "sealed_at": at,
                    }
                )  # fmt: skip
                for kind, value in (
                    ("run", f"{made:032x}"), ("data", data), ("source", f"s3://bucket/{nth % 50}"),
                    ("code", "team.train:main"), ("commit", f"{chance.randrange(20_000):040x}"),
                    ("environment", f"sha256:{chance.randrange(300):064x}"), ("dag_run", f"{model}.train/{number}"),
                ):  # fmt: skip
                    rows.setdefault("origins", []).append(
                        {**name, "kind": kind, "value": value, "name": "", "said": "run", "at": at}
                    )
                for kind, subject in (("data-check", data), ("evaluation", digest), ("rollout", digest)):
                    seq += 1
                    rows.setdefault("verdicts", []).append(
                        {
                            "id": f"sha256:{seq:064x}", "claimed": False, "model": model, "kind": kind,
                            "outcome": "PASS", "subject": subject, "version": str(number), "actor": "service",
                            "body": '{"reason":"shown","window":null}', "created_at": at,
                        }
                    )  # fmt: skip
                if number % 10 == 0:
                    rows.setdefault("champions", []).append(
                        {**name, "since": at, "until": at + 600, "actor": "service", "reason": "promoted"}
                    )
                    rows.setdefault("rollouts", []).append(
                        {
                            "id": f"{made:032x}", **name, "champion": None, "token": number, "holder": "h",
                            "state": "promoted", "plan": "{}", "opened_at": at, "updated_at": at, "ended_at": at + 60,
                            "watching": False,
                        }
                    )  # fmt: skip
                if made % _CHUNK == 0:
                    yield rows
                    rows = {}
    if made != VERSIONS:
        raise RuntimeError(f"seeded {made:,} versions, not {VERSIONS:,}")


def seed(engine: Any) -> None:
    """The registry's tables with ``VERSIONS`` versions in them, in bulk."""
    from sqlalchemy import text

    from windtunnel_mlflow import migrate, tables

    migrate.upgrade(engine)
    for rows in _rows(7):
        with engine.begin() as connection:
            for table, found in rows.items():
                connection.execute(getattr(tables, table).insert(), found)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


def _questions() -> dict[str, Callable[[Any, random.Random], Any]]:
    def version(chance: random.Random) -> tuple[str, int]:
        size = chance.randrange(len(SIZES))
        models, count = SIZES[size]
        return f"model-{size}-{chance.randrange(models)}", chance.randint(1, count)

    def lineage(direction: str) -> Callable[[Any, random.Random], Any]:
        def ask(tracing: Any, chance: random.Random) -> Any:
            model, number = version(chance)
            return tracing.lineage(model, str(number), direction=direction, depth=3)

        return ask

    def then(tracing: Any, chance: random.Random) -> Any:
        model, number = version(chance)
        return tracing.lineage(model, str(number), depth=3, as_of=1_700_000_000.0 + VERSIONS * 60)

    return {
        "three steps backward": lineage("backward"),
        "three steps forward": lineage("forward"),
        "three steps both ways": lineage("both"),
        "both ways, as of a date": then,
        "impact of a data set, any": lambda tracing, chance: tracing.impact(
            f"sha256:{chance.randint(2, DATA_SETS):064x}"
        ),
    }


def _times(engine: Any, ask: Callable[[Any, random.Random], Any], seed_: int) -> list[float]:
    """Milliseconds of each question, asked one after the other."""
    from sqlalchemy.orm import Session

    from windtunnel_mlflow.lineage.tracing import Tracing

    class Store:
        def reading(self) -> Any:
            return Session(engine)

    tracing, chance, found = Tracing(Store()), random.Random(seed_), []  # type: ignore[arg-type]
    for _ in range(QUESTIONS):
        began = time.perf_counter()
        ask(tracing, chance)
        found.append((time.perf_counter() - began) * 1e3)
    return sorted(found)


def run() -> Table:
    from sqlalchemy import create_engine

    table = Table("Lineage among 100,000 versions", ("question", "database", "p50", "p95", "slowest"))
    folder = Path(tempfile.mkdtemp(prefix="wtb-lineage-"))
    notes = []
    try:
        with postgres() as server:
            for name, uri in (("SQLite", f"sqlite:///{folder / 'registry.db'}"), ("PostgreSQL", server)):
                engine = create_engine(uri)
                began = time.perf_counter()
                seed(engine)
                notes.append(f"{name} seeded in {time.perf_counter() - began:.0f} s")
                worst, shows = 0.0, True
                for question, ask in _questions().items():
                    _times(engine, ask, 1)  # pages into memory
                    found: Measured[list[float]] = measure(lambda n, a=ask, e=engine: _times(e, a, n + 2), 3, 15.0)  # type: ignore[misc]
                    times = sorted(one for round_ in found.values for one in round_)
                    p50, p95 = times[len(times) // 2], times[int(len(times) * 0.95)]
                    table.add(question, name, f"{p50:.1f} ms", f"{p95:.1f} ms", f"{times[-1]:.1f} ms")
                    shows = shows and found.quiet
                    if question.startswith("three"):
                        worst = max(worst, p95)
                wanted = f"three steps in under {LIMIT_MS:g} ms at p95 on {name}"
                table.demand(wanted, f"{worst:.1f} ms", None if worst >= LIMIT_MS and not shows else worst < LIMIT_MS)
                notes.append(f"{name}: {'quiet' if shows else 'others used the machine, so times are too long'}")
                engine.dispose()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sizes = ", ".join(f"{models:,} of {count:,}" for models, count in SIZES)
    table.note = (
        f"Models by number of versions: {sizes}. A version has a parent, seven origins and three verdicts; every "
        f"tenth a release and a time as champion. {QUESTIONS} questions a round in one process, versions drawn evenly "
        f"over the models' sizes, without HTTP. {'; '.join(notes)}."
    )
    return table
