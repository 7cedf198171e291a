"""The governed registry beside plain MLflow over HTTP: same kind of database, same auth, call by call in turn (REG-9).

A governed write asks who may, holds the model's lock, and has its audit entry and its event in its own transaction.
Sealing reads files and is measured apart (``verify``).
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from bench.audit import postgres
from bench.governed import API, Server, both, milliseconds
from bench.quiet import Measured, measure
from bench.table import Table

CALLS, ROUNDS, LIMIT_S = 40, 7, 120.0
WRITE, READ = 1.2, 1.05
MODELS = 30

Call = Callable[[], Any]


class Hands:
    """One user of one server, with its own models, and the calls that are compared."""

    def __init__(self, server: Server, http: Any) -> None:
        self.http, self.artifacts = http, server.home.mlflow / "artifacts"
        self.numbers = count()
        # Its own, for the one that is there belongs to nobody.
        self.experiment = self._ok("POST", "/experiments/create", json={"name": "bench"})["experiment_id"]
        for n in range(MODELS):
            self._ok("POST", "/registered-models/create", json={"name": f"m{n}"})
        self.version("m0")
        self.version("m0")
        at = {"name": "m0", "alias": "blue", "version": "1"}
        self._ok("POST", "/registered-models/alias", json=at)
        self._ok("POST", "/registered-models/set-tag", json={"name": "m0", "key": "team", "value": "a"})
        self.runs: list[str] = []

    def _ok(self, method: str, path: str, **more: Any) -> Any:
        response = self.http.request(method, API + path, **more)
        response.raise_for_status()
        return response.json()

    def run(self) -> str:
        """A run with a small model."""
        made = self._ok("POST", "/runs/create", json={"experiment_id": self.experiment})["run"]["info"]["run_id"]
        folder = self.artifacts / self.experiment / made / "artifacts" / "model"
        folder.mkdir(parents=True)
        (folder / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n")
        (folder / "weights").write_bytes(made.encode())
        return str(made)

    def version(self, model: str) -> None:
        run = self.run()
        body = {"name": model, "source": f"runs:/{run}/model", "run_id": run}
        self.settle(self.http.request("POST", f"{API}/model-versions/create", json=body))

    def settle(self, made: Any) -> None:
        """Wait until the version that ``made`` answered is sealed: sealing is measured apart."""
        found = made.raise_for_status().json()["model_version"]
        while found["status"] == "PENDING_REGISTRATION":
            time.sleep(0.02)
            at = {"name": found["name"], "version": found["version"]}
            found = self._ok("GET", "/model-versions/get", params=at)["model_version"]

    def post(self, path: str, method: str = "POST", **body: Any) -> Any:
        return self.http.request(method, API + path, json=body)

    def get(self, path: str, **params: Any) -> Any:
        return self.http.get(API + path, params=params)

    def create(self) -> Any:
        run = self.runs.pop()
        body = {"name": f"m{next(self.numbers) % (MODELS - 1) + 1}", "source": f"runs:/{run}/model", "run_id": run}
        return self.http.post(f"{API}/model-versions/create", json=body)

    def ready(self, needed: int) -> None:
        """Runs for ``create``, made outside of what is timed."""
        while len(self.runs) < needed:
            self.runs.append(self.run())

    def calls(self) -> dict[str, tuple[bool, Call]]:
        """Name: whether it writes, and the call."""
        n, of = self.numbers, {"name": "m0", "version": "1"}

        def alias() -> Any:
            return self.post("/registered-models/alias", name="m0", alias="green", version=str(next(n) % 2 + 1))

        def describe() -> Any:
            return self.post("/model-versions/update", "PATCH", **of, description=str(next(n)))

        def tag(what: str, **of: str) -> Any:
            return self.post(f"/{what}/set-tag", **of, key="k", value=str(next(n)))

        return {
            "tag a model": (True, lambda: tag("registered-models", name="m0")),
            "tag a version": (True, lambda: tag("model-versions", **of)),
            "set an alias": (True, alias),
            "describe a version": (True, describe),
            "create a version": (True, self.create),
            "get a version": (False, lambda: self.get("/model-versions/get", **of)),
            "get by alias": (False, lambda: self.get("/registered-models/alias", name="m0", alias="blue")),
            "search models": (False, lambda: self.get("/registered-models/search", filter="name LIKE 'm1%'")),
            "search versions": (False, lambda: self.get("/model-versions/search", filter="name = 'm0'")),
        }


def round_of(ours: Call, plain: Call, calls: int, settle: Callable[[Any], None] | None = None) -> tuple[float, float]:
    """Median milliseconds of each, called in turn; who goes first changes every time.

    Args:
        settle: what follows each of our calls, not timed: else the next one would have it in its time.
    """
    times: tuple[list[float], list[float]] = ([], [])
    answer: list[Any] = [None]

    def timed() -> Any:
        answer[0] = ours()
        return answer[0]

    for n in range(calls):
        for side in ((0, 1), (1, 0))[n % 2]:
            times[side].append(milliseconds((timed, plain)[side]))
            if side == 0 and settle is not None:
                settle(answer[0])
    return statistics.median(times[0]), statistics.median(times[1])


def compare(hands: tuple[Hands, Hands], name: str) -> Measured[tuple[float, float]]:
    ours, plain = (hand.calls()[name][1] for hand in hands)

    def once(_: int) -> tuple[float, float]:
        if name != "create a version":
            return round_of(ours, plain, CALLS)
        for hand in hands:
            hand.ready(CALLS)
        return round_of(ours, plain, CALLS, hands[0].settle)

    if name != "create a version":
        round_of(ours, plain, 5)
    return measure(once, ROUNDS, LIMIT_S)


def run() -> Table:
    columns = ("call", "governed, ms", "plain MLflow, ms", "ratio", "range")
    table = Table("The governed registry beside plain MLflow", columns)
    folder = Path(tempfile.mkdtemp(prefix="wtb-registry-"))
    only = os.environ.get("BENCH_ONLY", "SQLite,PostgreSQL").split(",")
    loud = 0
    try:
        with postgres() as first, postgres() as second:
            for kind, databases in (("SQLite", (None, None)), ("PostgreSQL", (first, second))):
                if kind not in only:
                    continue
                worst = {True: (0.0, ""), False: (0.0, "")}
                told = {True: True, False: True}
                with both(folder / kind, databases) as servers:
                    hands = tuple(Hands(server, server.user()) for server in servers)
                    for name, (writes, _) in hands[0].calls().items():
                        found = compare(hands, name)  # type: ignore[arg-type]
                        ratios = [a / b for a, b in found.values]
                        ratio = statistics.median(ratios)
                        table.add(
                            f"{name}, {kind}",
                            *(f"{statistics.median(pair[side] for pair in found.values):.1f}" for side in (0, 1)),
                            f"{ratio:.2f}",
                            f"{min(ratios):.2f} to {max(ratios):.2f}",
                        )
                        worst[writes] = max(worst[writes], (ratio, name))
                        told[writes] &= found.quiet
                        loud += not found.quiet
                for writes, limit in ((True, WRITE), (False, READ)):
                    ratio, name = worst[writes]
                    met = ratio <= limit if told[writes] else None
                    what = "writes" if writes else "reads"
                    table.demand(f"{what} at most {limit} x plain MLflow on {kind}", f"{ratio:.2f} x ({name})", met)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table.note = (
        f"Over HTTP on one kept connection each, the same auth app and settings, one worker; {CALLS} calls of each in "
        f"turn make a round, its ratio is of the medians, the table has the median of {ROUNDS} rounds and their range. "
        "fsync on. A new version's files are sealed in the background, apart"
        + (f"; in {loud} rows the machine was not quiet" if loud else "")
        + "."
    )
    return table


if __name__ == "__main__":
    sys.stdout.write(run().markdown())
