"""Two hundred training pods and two hundred rollouts followed at the same time by one triggerer: Airflow's own process.

The tasks wait in Airflow's database (PostgreSQL); the triggerer finds them there, reads its connections, asks a real
governed registry for orders, writes tasks' logs and events. The APIs are those of ``pods`` and ``seldon``.
"""

from __future__ import annotations

import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import deferred, governed, pods, rig, seldon
from bench.audit import postgres
from bench.table import Table

BOTH = 200
EVERY_S = 10.0
SECONDS = 80.0
GATE, POD = "windtunnel_airflow.triggers.GateTrigger", "windtunnel_airflow.pods.trigger.TrainingPodTrigger"
#: What a gate says of each look.
_LOOK = re.compile(r"^(hold|wait|advance|pause|rollback)\b.*: ", re.IGNORECASE)


@dataclass
class Seen:
    """What the triggerer did while it followed both.

    Attributes:
        looks: starts of each rollout's looks, monotonic by the clock of the logs (seconds since the epoch).
        pauses: seconds between two looks of a rollout; ``ended``: gates that said something.
        late: seconds from a pod's end until its task was told, by Airflow's database.
        asked: requests by kind, of pods and of models; ``processor``, ``memory``: of triggerer and its child, seconds
            and MiB, over ``seconds``.
        blocked: how often Airflow found the loop blocked.
    """

    looks: int
    pauses: list[float]
    ended: list[str]
    late: list[float]
    asked_pods: dict[str, int]
    asked_models: dict[str, int]
    processor: float
    memory: float
    seconds: float
    blocked: int


@contextmanager
def triggerer(log: Path) -> Iterator[Any]:
    import psutil

    with log.open("wb") as file:
        argv = [sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs"]
        with rig.process(argv, stdout=file, stderr=file) as child:
            process = psutil.Process(child.pid)
            try:
                yield process
            finally:
                for one in family(process):  # a runner that is busy outlives its supervisor
                    one.kill()


def family(process: Any) -> list[Any]:
    return [process, *process.children(recursive=True)]


def used(process: Any) -> float:
    """Processor seconds."""
    return sum(sum(one.cpu_times()[:2]) for one in family(process))


def looks_of(place: deferred.Airflow, gate: str) -> list[float]:
    """When each look of a gate was told."""
    lines = [json.loads(line) for line in place.log(gate)]
    return [
        datetime.fromisoformat(line["timestamp"].replace("Z", "+00:00")).timestamp()
        for line in lines
        if _LOOK.match(str(line.get("event")))
    ]


def follow(folder: Path, database: str, registry: governed.Server, many: int, seconds: float) -> Seen:
    from windtunnel.serving.place import in_cluster
    from windtunnel.serving.seldon import Seldon

    password = (registry.home.secrets / "mlflow-admin").read_text(encoding="utf-8")
    told = {
        "conn_type": "windtunnel", "host": registry.url, "login": "admin", "password": password,
        "extra": {"home": str(folder / "home"), "store": (folder / "store").as_uri()},
    }  # fmt: skip
    os.environ["AIRFLOW_CONN_WINDTUNNEL_DEFAULT"] = json.dumps(told)
    (folder / "seldon").mkdir()
    (folder / "pods").mkdir()
    models = [f"m{n:03d}" for n in range(many)]
    gates = {model: f"{model}.gate" for model in models}
    trainings = {f"wt-{model}": f"{model}.train" for model in models}
    with (
        seldon.served(folder / "seldon") as cluster,
        pods.api(folder / "pods") as api,
        deferred.airflow(folder / "airflow", database, models, ["gate", "train"]) as place,
    ):
        seldon.deploy(in_cluster(Seldon.of(cluster.connection)), many)
        place.defer(
            {
                task: (GATE, {"watch": seldon.gate_of(folder / "home", model), "look_every": EVERY_S})
                for model, task in gates.items()
            }
        )
        with triggerer(folder / "triggerer.log") as process:
            rig.wait_until(lambda: all(looks_of(place, gate) for gate in gates.values()), 120, "each gate's first look")
            time.sleep(EVERY_S)  # their second looks come at times of their own
            dice = random.Random(7)
            api.begin(0.0)
            before, spent, began = cluster.asked(), used(process), time.time()
            api.make({name: dice.uniform(*pods.LIVES) for name in trainings})
            place.defer(
                {
                    task: (POD, {"pod_name": name, "pod_namespace": pods.NAMESPACE, "began": time.time(),
                                 "kubernetes_conn_id": pods.CONNECTION})
                    for name, task in trainings.items()
                }
            )  # fmt: skip
            time.sleep(max(0.0, seconds - (time.time() - began)))
            ended = time.time()
            spent, memory = used(process) - spent, sum(one.memory_info().rss for one in family(process)) / 2**20
            asked_models, asked = cluster.asked() - before, api.told()
        states = place.told()
        looks = [[at for at in looks_of(place, gate) if began <= at <= ended] for gate in gates.values()]
    over = {name: states[task] for name, task in trainings.items() if states[task][0] != "deferred"}
    return Seen(
        looks=sum(map(len, looks)),
        pauses=seldon.pauses(looks, began, ended),
        ended=[task for task in gates.values() if states[task][0] != "deferred"],
        late=[over[name][1] - asked["ended"][name] for name in over if name in asked["ended"]],
        asked_pods=asked["asked"],
        asked_models=dict(asked_models),
        processor=spent,
        memory=memory,
        seconds=ended - began,
        blocked=(folder / "triggerer.log").read_text(errors="replace").count("thread was blocked"),
    )


def run() -> Table:
    os.environ.pop("KUBECONFIG", None)
    table = Table(
        f"{BOTH} training pods and {BOTH} rollouts at once, in one triggerer of Airflow's", ("what", "measured")
    )
    with tempfile.TemporaryDirectory(prefix="wtb-") as made, postgres() as database:
        folder = Path(made)
        with governed.server(folder / "registry", None, governed=True) as registry:
            seen = follow(folder, database, registry, BOTH, SECONDS)
    missed = sum(pause > 2 * EVERY_S for pause in seen.pauses)
    table.demand(
        f"a look at each of {BOTH} rollouts every {EVERY_S:g} s, none missed in {seen.seconds:.0f} s",
        f"{seen.looks:,} looks, {missed} missed, longest pause {max(seen.pauses):.1f} s, {len(seen.ended)} gates ended",
        not missed and not seen.ended,
    )
    lost, late = BOTH - len(seen.late), sorted(seen.late)
    table.demand(
        f"the end of each of {BOTH} pods heard meanwhile",
        f"{lost} lost; from the end until Airflow's database has it {statistics.median(late or [0.0]):.2f} s in the "
        f"median, {late[-1] if late else 0.0:.2f} s at most",
        not lost,
    )
    minutes = seen.seconds / 60
    steady = sum(n for kind, n in seen.asked_pods.items() if kind not in ("create", "log", "events")) / BOTH / minutes
    models = sum(n for verb, n in seen.asked_models.items() if "watch" not in verb) / BOTH / minutes
    table.demand("API requests per pod and minute <= 6 without start and logs", f"{steady:.3f}", steady <= 6)
    table.add(f"requests about models, per rollout and minute, looked at every {EVERY_S:g} s", f"{models:.1f}")
    table.add("processor of the triggerer and its runner", f"{100 * seen.processor / seen.seconds:.0f} % of one core")
    table.add("memory of both", f"{seen.memory:.0f} MiB")
    table.add("Airflow's own warnings that its loop was blocked", str(seen.blocked))
    table.note = (
        "The gates were there before; the pods came all at once, and lived 30 to 60 s. A look's time is that of its "
        "line in the task's log, a pod's that of its task's row. Looks come as often as on one machine, by default a "
        "cluster's come every 15 s; the questions after ways back are among the requests. PostgreSQL, registry, both "
        "APIs and Prometheus share the machine."
    )
    return table


if __name__ == "__main__":
    print(run().markdown())
