"""Two hundred rollouts on Seldon watched by one triggerer: missed looks, processor, requests to the API.

Real triggers in one asyncio loop, the real backend, journal, list and watch, and the real reader of Prometheus, over
HTTP to an API and a Prometheus of the tests' own in a process of their own, so that the watcher is measured and not the
watched. The registry that people order by is in this process and silent.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.table import Table

ROLLOUTS = 200
EVERY_S = 15.0
#: From here on every gate looks at a time of its own.
SETTLED_S = 1.5 * EVERY_S
#: The way back is asked for once a minute, so whole minutes are counted.
SECONDS = SETTLED_S + 60.0
#: Requests a second of each model's callers.
RATE = 20.0
_COMMON = Path(__file__).parents[1] / "tests" / "common"


def serve(folder: str, pipe: Any) -> None:
    """The API, and a Prometheus whose counters grow with the time; until told."""
    sys.path.insert(0, str(_COMMON))
    import fakeseldon

    with fakeseldon.cluster() as cluster, Counters(cluster) as prometheus:
        cluster.kubeconfig(Path(folder) / "kubeconfig")
        pipe.send(prometheus.url)
        while pipe.recv() != "end":
            pipe.send(Counter(map(kind, cluster.requests)))


def kind(request: Any) -> str:
    """What a request to the API is for."""
    if request.path.endswith("/proxy") or "/proxy/" in request.path:
        return "way back"
    return f"{request.method} watch" if "watch" in request.query else str(request.method)


class Counters:
    """As much of a Prometheus as ``fakeseldon.Seldon`` is, of models whose operator has nothing to do."""

    def __new__(cls, cluster: Any) -> Any:
        import fakeseldon

        class Still(fakeseldon.Seldon):
            def _reconcile(self) -> None:
                while not self._stop.is_set():
                    for thing in cluster.all("seldondeployments"):
                        if not thing.get("status"):
                            self._one(thing)
                    self._stop.wait(0.2)

            def query(self, text: str, at: str | None) -> list[dict[str, Any]]:
                model = text.split('deployment_name="', 1)[1].split('"', 1)[0]
                n = int((time.time() - began) * RATE / 2)
                self.counts.clear()
                self.counts.update({(model, version, "200"): n for version in ("v1", "v2")})
                return super().query(text, at)

        began = time.time() - 3600
        return Still(cluster, after_s=0.0)


@dataclass
class Watched:
    """What the triggerer did.

    Attributes:
        gaps: seconds between the starts of two looks at one rollout; ``took``: seconds of each look.
        asked: all requests to the API, without those of the first ``SETTLED_S``; ``wrong``: gates that ended.
    """

    looks: int
    gaps: list[float]
    took: list[float]
    asked: Counter[str]
    wrong: list[str]
    processor: float
    seconds: float


def deploy(place: Any, rollouts: int) -> list[str]:
    """Models at 50 %, each by its own release."""
    from concurrent.futures import ThreadPoolExecutor

    from windtunnel.serving.backend import Arm, Release

    names = [f"m{n:03d}" for n in range(rollouts)]
    rows = [{f"x{n}": 0.5 for n in range(30)}] * 32

    def one(model: str) -> None:
        arms = [Arm(v, f"sha256:{v * 64}", f"models:/{model}/{v}", 50) for v in ("1", "2")]
        settings = {version: {"warmup": rows, "serving": {}} for version in ("1", "2")}
        exposed = {"lease_until": time.time() + 600, "lease_s": 120.0, "rollout_id": f"r-{model}"}
        place.backend.apply(Release(model, arms[0], (arms[1],), token=1, settings=settings, **exposed))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, names))
    return names


@dataclass
class Cluster:
    """The running API and Prometheus.

    Attributes:
        connection: extra of Airflow's connection to it.
    """

    connection: dict[str, Any]
    pipe: Any

    def asked(self) -> Counter[str]:
        """Requests so far, by what they are for."""
        self.pipe.send("count")
        found: Counter[str] = self.pipe.recv()
        return found


@contextmanager
def served(folder: Path) -> Iterator[Cluster]:
    """In a process of their own; Airflow's connection ``windtunnel_seldon`` leads there."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(str(folder), theirs), daemon=True)
    server.start()
    theirs.close()  # so that a server that dies ends the waiting for it
    try:
        told = {"prometheus": ours.recv(), "kubeconfig": str(folder / "kubeconfig")}
        extra = {"image": "i", "registry": "r", "poll_s": 0.2, **told}
        os.environ["AIRFLOW_CONN_WINDTUNNEL_SELDON"] = json.dumps({"conn_type": "windtunnel_seldon", "extra": extra})
        yield Cluster(extra, ours)
    finally:
        ours.send("end")
        server.join(20)


def gate_of(folder: Path, model: str) -> dict[str, Any]:
    """What the trigger of a model's gate is told: a rollout at 50 % that goes on for hours."""
    from windtunnel.rollout import Plan
    from windtunnel.serving.release.lookout import Watch
    from windtunnel.spec import Rollout

    plan = Plan.from_spec(
        Rollout.model_validate({"gates": [{"metric": "errors", "margin": 0.005}, {"metric": "latency", "margin": 0.05}],
                                "steps": [{"weight": 50, "hold": "4h"}]}),
        False,
    ).to_dict()  # fmt: skip
    return Watch(
        home=str(folder), model=model, version="2", champion="1", rollout_id=f"r-{model}", token=1, plan=plan,
        step=0, lease_s=120.0, digest=f"sha256:{'2' * 64}", seldon_conn_id="windtunnel_seldon",
    ).to_dict()  # fmt: skip


def watched(folder: Path, rollouts: int, seconds: float) -> Watched:
    os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="wt-airflow-"))
    with served(folder) as cluster:
        return _watched(folder, cluster, rollouts, seconds)


def _watched(folder: Path, cluster: Cluster, rollouts: int, seconds: float) -> Watched:
    from windtunnel.registry.orders import OrdersPage
    from windtunnel.serving.place import in_cluster
    from windtunnel.serving.seldon import Seldon
    from windtunnel_airflow import orderbook, places
    from windtunnel_airflow.triggers import GateTrigger

    os.environ["AIRFLOW_CONN_WINDTUNNEL_DEFAULT"] = json.dumps({"conn_type": "windtunnel", "host": "127.0.0.1"})
    models = deploy(in_cluster(Seldon.of(cluster.connection)), rollouts)
    starts: dict[str, list[float]] = {}
    took: list[float] = []

    class Registry:
        def orders(self, since: int = 0) -> OrdersPage:
            return OrdersPage(0, (), ())

    book = orderbook.OrderBook(Registry)

    class Gate(GateTrigger):
        def orders(self) -> Any:
            return book.standing(self.watch["rollout_id"], self.watch["model"])

        def look(self) -> Any:
            began = time.monotonic()
            found = super().look()
            starts.setdefault(self.watch["model"], []).append(began)
            took.append(time.monotonic() - began)
            return found

    async def gate(model: str) -> list[str]:
        return [str(event.payload) async for event in Gate(gate_of(folder, model), EVERY_S).run()]

    async def run() -> tuple[list[str], Counter[str]]:
        gates = [asyncio.create_task(gate(model)) for model in models]
        await asyncio.sleep(SETTLED_S)
        before = await asyncio.to_thread(cluster.asked)
        done, pending = await asyncio.wait(gates, timeout=seconds - SETTLED_S)
        asked = await asyncio.to_thread(cluster.asked) - before
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        return [one for task in done for one in task.result()], asked

    used, began = time.process_time(), time.monotonic()
    wrong, asked = asyncio.run(run())
    used, lasted = time.process_time() - used, time.monotonic() - began
    places.forget()
    gaps = pauses((starts.get(model, []) for model in models), began, began + seconds)
    return Watched(len(took), gaps, took, asked, wrong, used, lasted)


def pauses(starts: Iterable[list[float]], began: float, ended: float) -> list[float]:
    """Seconds between two looks of each rollout, before its first and after its last one too."""
    return [b - a for looks in starts for a, b in pairwise([began, *looks, ended])]


def run() -> Table:
    from windtunnel.spec import Rollout

    table = Table("Rollouts on Seldon, watched by one triggerer", ("what", "measured", "demanded"))
    with tempfile.TemporaryDirectory(prefix="wt-seldon-") as folder:
        seen = watched(Path(folder), ROLLOUTS, SECONDS)
    assert Rollout().looks_every(in_cluster=True).total_seconds() == EVERY_S
    missed = sum(gap > 2 * EVERY_S for gap in seen.gaps)
    minutes = (SECONDS - SETTLED_S) / 60
    each = sum(n for verb, n in seen.asked.items() if "watch" not in verb) / ROLLOUTS / minutes
    table.demand(
        f"{ROLLOUTS} rollouts, a look every {EVERY_S:g} s, none missed in {SECONDS:g} s",
        f"{seen.looks:,} looks, {missed} missed, longest pause {max(seen.gaps):.1f} s, {len(seen.wrong)} gates ended, "
        f"median {1e3 * statistics.median(seen.took):.0f} ms a look, "
        f"{100 * seen.processor / seen.seconds:.0f} % of one core",
        missed == 0 and not seen.wrong,
    )
    shown = ", ".join(f"{n} {verb}" for verb, n in sorted(seen.asked.items()))
    table.demand(
        "API requests per rollout and minute <= 6 without start", f"{each:.1f} ({shown} in a minute)", each <= 6.0
    )
    table.note = (
        "The first look of every rollout is due at once, as after a restart, and the second within one pause; "
        f"requests are counted from {SETTLED_S:g} s on, the question after each way back among them (one inference "
        "a minute, through the API where ``direct`` names no other way). A look every 10 s is six writes. The API, its "
        "watch and Prometheus are the tests' own, in another process on the same machine."
    )
    return table


if __name__ == "__main__":
    print(run())
