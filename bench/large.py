"""A large registry over HTTP: 1,000,000 versions of 100,000 models on PostgreSQL, governed and plain MLflow (REG-9).

What both can be asked is asked of both, in turn; what only ours can be asked (stage, text, lineage) of ours alone.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

from bench.audit import postgres
from bench.governed import API, both, milliseconds
from bench.quiet import Measured, measure
from bench.search import EACH, FILL_MLFLOW, FILL_OURS, MODELS, TEAMS, fill
from bench.table import Table

CALLS, ROUNDS, BOUND_S = 40, 3, 40.0
LIMIT_MS = 200.0
OURS = "/api/windtunnel/v1"

#: Path and query of one question.
Ask = Callable[[random.Random], tuple[str, dict[str, Any]]]


def model(chance: random.Random) -> str:
    return f"model-{chance.randrange(1, MODELS):06d}"


#: Of both servers.
SHARED: dict[str, Ask] = {
    "get by alias": lambda r: ("/registered-models/alias", {"name": model(r), "alias": "champion"}),
    "get a version": lambda r: ("/model-versions/get", {"name": model(r), "version": str(r.randrange(1, EACH))}),
    "get a model": lambda r: ("/registered-models/get", {"name": model(r)}),
    "models by a name's beginning": lambda r: (
        "/registered-models/search",
        {"filter": f"name LIKE 'model-{r.randrange(10_000):04d}%'", "max_results": 50},
    ),
    "versions by a name's beginning": lambda r: (
        "/model-versions/search",
        {"filter": f"name LIKE 'model-{r.randrange(10_000):04d}%'", "max_results": 50},
    ),
    "versions by a tag, 5,000 have it": lambda r: (
        "/model-versions/search",
        {"filter": f"tags.team = 'team-{r.randrange(TEAMS)}'", "max_results": 50},
    ),
    "versions by a tag, 1 has it": lambda r: (
        "/model-versions/search",
        {"filter": f"tags.build = 'b-{r.randrange(1, MODELS)}-{r.randrange(1, EACH)}'", "max_results": 50},
    ),
}
#: Of ours, in its own language.
OWN: dict[str, Ask] = {
    "our search: a name's beginning": lambda r: (
        "/search",
        {"query": f"name like 'model-{r.randrange(10_000):04d}%'", "limit": 50},
    ),
    "our search: a stage, 10,000 have it": lambda r: ("/search", {"query": "stage = 'Staging'", "limit": 50}),
    "our search: a tag, 5,000 have it": lambda r: (
        "/search",
        {"query": f"tag.team = 'team-{r.randrange(TEAMS)}'", "limit": 50},
    ),
    "lineage backward, depth 3": lambda r: (
        f"/models/{model(r)}/versions/{r.randrange(4, EACH)}/lineage",
        {"direction": "backward", "depth": 3},
    ),
    "lineage forward, depth 3": lambda r: (
        f"/models/{model(r)}/versions/{r.randrange(1, 6)}/lineage",
        {"direction": "forward", "depth": 3},
    ),
    "who was champion at a time": lambda r: (f"/models/{model(r)}/champion", {"at": 1_700_000_000 + r.random() * 1e6}),
}


def filled(url: str, statements: tuple[str, ...]) -> None:
    engine = create_engine(url)
    fill(engine, statements)
    engine.dispose()


def p95(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.95)]


def asked(calls: list[Callable[[], Any]], order: int) -> list[float]:
    """Milliseconds of each server's answer to one question; who is first changes."""
    times = [0.0] * len(calls)
    for which in range(len(calls))[:: 1 if order % 2 else -1]:
        times[which] = milliseconds(calls[which])
    return times


def compare(https: list[Any], prefix: str, ask: Ask, seed: int) -> Measured[list[float]]:
    """95 of 100 calls were answered within so many milliseconds, by server; once a round."""

    def once(nth: int) -> list[float]:
        chance, found = random.Random(seed * 1000 + nth), []
        for number in range(CALLS + 3):
            path, query = ask(chance)
            calls = [lambda h=http: h.get(prefix + path, params=query) for http in https]  # type: ignore[misc]  # noqa: B023
            times = asked(calls, number)
            if number >= 3:
                found.append(times)
        return [p95([times[which] for times in found]) for which in range(len(https))]

    return measure(once, ROUNDS, BOUND_S)


def run() -> Table:
    table = Table(
        f"{MODELS * EACH:,} versions of {MODELS:,} models over HTTP, PostgreSQL: 95 of 100 answers within",
        ("call", "governed", "plain MLflow"),
    )
    folder = Path(tempfile.mkdtemp(prefix="wtb-large-"))
    slow, loud = [], 0
    try:
        with postgres() as first, postgres() as second, both(folder, (first, second)) as servers:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(filled, (first, second), (FILL_MLFLOW + FILL_OURS, FILL_MLFLOW)))
            https = [one.admin() for one in servers]
            for prefix, asks, who in ((API, SHARED, https), (OURS, OWN, https[:1])):
                for seed, (name, ask) in enumerate(asks.items()):
                    found = compare(who, prefix, ask, seed)
                    sides = [sorted(side)[len(side) // 2] for side in zip(*found.values, strict=True)]
                    table.add(name, *(f"{side:.0f} ms" for side in sides), *["-"] * (2 - len(sides)))
                    loud += not found.quiet
                    if sides[0] > LIMIT_MS:
                        slow.append(f"{name}: {sides[0]:.0f} ms")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table.demand(
        f"each governed answer within {LIMIT_MS:.0f} ms in 95 of 100 (REG-9)",
        "; ".join(slow) or "all of them",
        None if loud else not slow,
    )
    table.note = (
        f"Asked as an administrator on one kept connection each, in turn, other values each time; median of {ROUNDS} "
        f"rounds of {CALLS} calls. Both databases on this machine, everything in memory"
        + (f"; in {loud} rows the machine was not quiet" if loud else "")
        + "."
    )
    return table


if __name__ == "__main__":
    sys.stdout.write(run().markdown())
