"""A whole life through ``dag.test`` in a process of its own: real data, training, registry; traffic from a fake.

    python flight.py HOME [life|first-errors|pods|seldon|core2]

Airflow's database, the MLflow server with the governed store and the detached training runner are real. Where Envoy
and model servers would be is ``FakeBackend``: it fetches and verifies the artifacts as the real one does, and counts
requests as time goes by. In mode ``pods`` training runs in pods of a Kubernetes API on loopback, whose pods are plain
processes. In mode ``seldon`` it is released on Seldon: the real backend over HTTP to an API, an operator, a gateway and
a Prometheus of the tests' own; the home that deploys is another one than the home that trained. Mode ``core2`` is the
same with Seldon Core 2, and a person who aborts the last release. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent
HOME = Path(sys.argv[1])
MODE = sys.argv[2] if len(sys.argv) > 2 else "life"
#: The version whose requests fail half of the time.
HARMFUL = "1" if MODE == "first-errors" else "3"

from windtunnel.errors import FencedError  # noqa: E402
from windtunnel.home import Home  # noqa: E402
from windtunnel.serving import artifacts  # noqa: E402
from windtunnel.serving.backend import ArmStatus, ArmTraffic, Observed, Release, Traffic  # noqa: E402
from windtunnel.stats.histogram import Histogram, bucket  # noqa: E402


@dataclass
class World:
    """What all instances of the fake share, as they would share a router."""

    release: Release | None = None
    aborted: str | None = None
    since: float = field(default_factory=time.time)
    counts: dict[str, list[int]] = field(default_factory=dict)
    applied: list[dict[str, int]] = field(default_factory=list)
    renewed: int = 0
    warmed: set[str] = field(default_factory=set)


WORLD = World()
RATE = 400.0


class FakeBackend:
    def __init__(self, home: Home) -> None:
        self.home = home

    def _flow(self) -> None:
        now = time.time()
        spent, WORLD.since = now - WORLD.since, now
        for version, weight in self._weights().items():
            requests, errors = WORLD.counts.setdefault(version, [0, 0])
            more = int(RATE * spent * weight / 100)
            WORLD.counts[version] = [requests + more, errors + (more // 2 if version == HARMFUL else 0)]

    def _weights(self) -> dict[str, int]:
        arms = WORLD.release.arms() if WORLD.release else ()
        exposed = {arm.version: arm.weight for arm in arms}
        if WORLD.aborted and WORLD.release:
            for arm in WORLD.release.candidates:
                exposed[arm.version] = 0
        return exposed

    def refusals(self, release: Release) -> list[str]:
        return []

    def apply(self, release: Release) -> Observed:
        if WORLD.release and release.token < WORLD.release.token:
            raise FencedError("an older token")
        self._flow()
        if WORLD.release is None or release.rollout_id != WORLD.release.rollout_id:
            WORLD.aborted = None
        for arm in release.arms():
            artifacts.ensure(self.home, release.model, arm)
            if arm.version not in WORLD.warmed:
                assert release.settings[arm.version]["warmup"], "no rows to warm up with"
                WORLD.warmed.add(arm.version)
        WORLD.release = release
        WORLD.applied.append(self._weights())
        return self.observe(release.model)

    def observe(self, model: str) -> Observed:
        release = WORLD.release
        arms = {v: ArmStatus(v, w, True, "ready") for v, w in self._weights().items()}
        return Observed(
            model, arms, release.token if release else 0, release.rollout_id if release else None, WORLD.aborted,
            release.lease_until if release else None,
        )  # fmt: skip

    def check_target(self, model: str) -> list[str]:
        return []

    def renew(self, model: str, token: int, until: float) -> None:
        assert WORLD.release is not None
        if token != WORLD.release.token or WORLD.aborted:
            raise FencedError("not the holder")
        WORLD.release = replace(WORLD.release, lease_until=until)
        WORLD.renewed += 1

    def abort(self, model: str, reason: str, by: str, *, token: int | None = None) -> Observed:
        self._flow()
        WORLD.aborted = f"{reason} ({by})"
        WORLD.applied.append(self._weights())
        return self.observe(model)

    def traffic(self, model: str) -> Traffic:
        self._flow()
        arms = {v: ArmTraffic(n, bad, 0, flat(n)) for v, (n, bad) in WORLD.counts.items()}
        return Traffic(model, "one", time.time(), arms)


def flat(requests: int) -> Histogram:
    """All requests took five milliseconds."""
    return Histogram.from_dict({str(bucket(5.0)): requests} if requests else {})


def description(table: Path) -> Any:
    from windtunnel import Model

    return Model.model_validate(
        {
            "name": "small",
            "owner": "tests",
            "data": {"source": str(table), "time": "t", "target": "y", "features": ["a", "b"]},
            "training": {"entry_point": "wt_small:train", "params": {"alpha": 1.0}, "time_limit": "2m"},
            "evaluation": {"metrics": [{"name": "rmse", "maximum": 1.0, "margin": 0.5}], "benchmark": None},
            "rollout": {
                "steps": [
                    {"weight": 10, "hold": "1s", "min_requests": 20},
                    {"weight": 50, "hold": "1s", "min_requests": 20},
                ],
                "gates": [{"metric": "errors", "margin": 0.02}],
                "first_watch": "1s",
                "look_every": "0.2s",
                "lease": "20s",
            },
            "monitoring": {"window": "10s", "lateness": "0s", "min_rows": 100, "retrain": {"cooldown": "1h"}},
            "steps": [
                {"name": "split", "run": "wt_small:part", "outputs": ["part"], "over": ["x", "y"]},
                {"name": "collect", "run": "wt_small:gather", "after": ["split"], "before": ["train"],
                 "inputs": ["part"], "outputs": ["all"]},
                {"name": "maybe", "run": "wt_small:unwanted", "after": ["check"], "before": ["train"],
                 "when": "wt_small:never"},
                {"name": "note", "run": "wt_small:note", "after": ["train"], "before": ["evaluate"], "critical": False},
            ],
        }
    )  # fmt: skip


def write_table(path: Path) -> None:
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(7)
    frame = pd.DataFrame({"t": 1.7e9 + np.arange(1000.0), "a": random.normal(size=1000), "b": random.normal(size=1000)})
    frame["y"] = 2 * frame["a"] - frame["b"] + random.normal(size=1000) * 0.1
    frame.to_csv(path, index=False)


def write_dag_file(folder: Path, model: Any) -> None:
    """``dag.test`` wants its DAG in a bundle, as the DAG processor finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.json").write_text(json.dumps(model.to_dict()))
    (folder / "small.py").write_text(
        '"""DAGs of the small model."""\n'
        "import json, pathlib\n"
        "from windtunnel_airflow import lifecycle\n"
        "lifecycle(json.loads(pathlib.Path(__file__).with_name('small.json').read_text()))\n"
    )


def log_other_rows(home: Home, version: str) -> None:
    """Predictions for rows unlike those of training, in one window that is over, by the model servers' own writer."""
    import numpy as np

    from windtunnel.serving.predictions import PredictionWriter

    writer = PredictionWriter(home.predictions, "small", version, "0", flush_s=1.0, features=["a", "b"])
    random = np.random.default_rng(3)
    start = (time.time() // 10) * 10 - 20
    for number in range(400):
        row = {"a": float(random.normal() + 3), "b": float(random.normal())}
        writer.write(f"q{number}", start + number / 40, [f"p{number}"], [row], [2 * row["a"] - row["b"]], 5.0, 200)
    writer.close()


def states(run: Any) -> dict[str, str]:
    return {
        ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]": str(getattr(ti.state, "value", ti.state))
        for ti in run.get_task_instances()
    }


def in_pods(home: Home) -> dict[str, Any]:
    """``small.train`` with its training in a pod: the provider's operator and trigger, secrets, the object store."""
    sys.path.insert(0, str(CASES.parents[1] / "common"))
    from fakecluster import Cluster, Kubelet

    from windtunnel.spec import Model
    from windtunnel_airflow import lifecycle

    plain = description(HOME / "rows.csv").to_dict()
    secrets = {"MLFLOW_TRACKING_USERNAME": "mlflow/user", "MLFLOW_TRACKING_PASSWORD": "mlflow/password"}
    plain["training"] |= {"target": "kubernetes", "pod": {"image": "here", "secrets": secrets}}
    model = Model.model_validate(plain)
    write_dag_file(home.airflow / "dags", model)
    ours = json.loads(os.environ["AIRFLOW_CONN_WINDTUNNEL_DEFAULT"])
    ours["extra"] = {"store": (HOME / "store").as_uri()}
    os.environ["AIRFLOW_CONN_WINDTUNNEL_DEFAULT"] = json.dumps(ours)
    with Cluster() as cluster:
        extra = {"kube_config_path": str(cluster.kubeconfig(HOME / "kubeconfig")), "namespace": "training"}
        os.environ["AIRFLOW_CONN_KUBERNETES_DEFAULT"] = json.dumps({"conn_type": "kubernetes", "extra": extra})
        known = {"mlflow/user": ours["login"], "mlflow/password": ours["password"]}
        kubelet = Kubelet(cluster, HOME / "node", CASES, known)
        try:
            told = fly(lifecycle(model)["small.train"], reason="in a pod", correlation_id="c" * 32)
        finally:
            kubelet.stop()
        made = [path for method, path in cluster.requests if method == "POST"]
        return {"train": told, "made": made, "left": list(cluster.pods), "logs": list(cluster.logs.values())}


def on_seldon(home: Home, registry: Any) -> dict[str, Any]:
    """The life of ``small`` with ``target: kubernetes``: first release, a canary promoted, a harmful one taken back."""
    sys.path.insert(0, str(CASES.parents[1] / "common"))
    import fakeseldon

    with fakeseldon.cluster() as cluster, fakeseldon.Seldon(cluster) as seldon:
        extra = {
            "kubeconfig": cluster.kubeconfig(HOME / "kubeconfig"),
            "gateway": f"{seldon.url}/seldon/{{namespace}}/{{model}}",
            "prometheus": seldon.url,
        }

        def call() -> None:
            if seldon.routes.get("small", {}).get("v3"):
                seldon.failing ^= {"v3"}
            seldon.ask("small")

        story = life_in_cluster(home, registry, cluster, extra, call)
        live = cluster.get("seldondeployments", "small")
        assert live is not None
        story["predictors"] = {one["name"]: one["traffic"] for one in live["spec"]["predictors"]}
        story["annotations"] = live["metadata"]["annotations"]
        story["wrote"] = [
            {one["name"]: one["traffic"] for one in request.body["spec"]["predictors"]}
            for request in cluster.requests
            if request.method in ("POST", "PATCH") and request.path.endswith(("/seldondeployments", "/small"))
        ]
    return story


def on_core2(home: Home, registry: Any) -> dict[str, Any]:
    """The same by Core 2, and a fourth version whose release a person aborts by the command."""
    sys.path.insert(0, str(CASES.parents[1] / "common"))
    import fakecore2

    with fakecore2.cluster() as cluster, fakecore2.Core2(cluster) as core:
        extra = {
            "api": "core2",
            "kubeconfig": cluster.kubeconfig(HOME / "kubeconfig"),
            "gateway": core.url,
            "direct": core.url,
            "prometheus": core.url,
        }

        def weights() -> dict[str, int]:
            route = core.routes.get("small.experiment")
            return dict(route.clusters) if route else {}

        def call() -> None:
            if weights().get("small-v3"):
                core.failing ^= {"small-v3"}
            core.infer("/v2/models/small/infer", "small.experiment")

        aborted: dict[str, Any] = {}

        def person() -> None:
            while not weights().get("small-v4"):
                time.sleep(0.005)
            aborted.update(abort_by_command(HOME / "seldon.toml", extra))

        last = (" aborted", {"params": {"alpha": 0.25}, "reason": "one more recipe"}, person)
        story = life_in_cluster(home, registry, cluster, extra, call, last)
        story["aborted"] = aborted
        live = cluster.get("experiments", "small")
        assert live is not None
        story["candidates"] = {one["name"]: one["weight"] for one in live["spec"]["candidates"]}
        story["models"] = sorted(one["metadata"]["name"] for one in cluster.all("models"))
    return story


def abort_by_command(file: Path, extra: dict[str, Any]) -> dict[str, Any]:
    """``windtunnel rollout abort small``, as a person types it."""
    from typer.testing import CliRunner

    from windtunnel.cli.app import app

    lines = [f"{name} = {json.dumps(value)}" for name, value in {**SETTINGS, **extra}.items()]
    file.write_text("\n".join(lines) + "\n")
    words = ["--home", str(HOME), "rollout", "abort", "small", "--reason", "members complain", "--seldon", str(file)]
    done = CliRunner().invoke(app, words)
    return {"code": done.exit_code, "said": done.output}


#: Settings of Seldon that both APIs are given here.
SETTINGS = {
    "image": "registry.example.org/model-server:1",
    "registry": "http://registry",
    "split_requests": 40,
    "poll_s": 0.05,
}


def life_in_cluster(
    home: Home,
    registry: Any,
    cluster: Any,
    extra: dict[str, Any],
    call: Callable[[], None],
    last: tuple[str, dict[str, Any], Callable[[], None]] | None = None,
) -> dict[str, Any]:
    """Trained here, released there, while callers ask without end; version 3 fails half of the time.

    Args:
        cluster: the API.
        extra: of the connection, beside ``SETTINGS``.
        call: one request of a caller.
        last: one more version: word, parameters of its training, and what a person does while it is released.
    """
    from windtunnel.spec import Model
    from windtunnel_airflow import lifecycle, places

    plain = description(HOME / "rows.csv").to_dict()
    plain["target"], plain["training"]["target"], plain["steps"] = "kubernetes", "local", []
    model = Model.model_validate(plain)
    write_dag_file(home.airflow / "dags", model)
    dags = lifecycle(model)
    ours = json.loads(os.environ["AIRFLOW_CONN_WINDTUNNEL_DEFAULT"])
    connection = {"conn_type": "windtunnel_seldon", "extra": {**SETTINGS, **extra}}
    os.environ["AIRFLOW_CONN_WINDTUNNEL_SELDON"] = json.dumps(connection)

    def connect(root: Path) -> None:
        ours["extra"] = {"home": str(root), "store": (HOME / "store").as_uri()}
        os.environ["AIRFLOW_CONN_WINDTUNNEL_DEFAULT"] = json.dumps(ours)
        places.forget()

    def calling() -> None:
        while not over.is_set():
            call()
            time.sleep(0.002)

    story: dict[str, Any] = {}
    over = threading.Event()
    callers = threading.Thread(target=calling, daemon=True)
    callers.start()
    try:
        for word, conf, person in (
            ("", {"reason": "the first"}, None),
            (" better", {"params": {"alpha": 0.5}, "reason": "a better recipe"}, None),
            (" harmful", {"params": {"alpha": 2.0}, "reason": "a careless recipe"}, None),
            *([last] if last else []),
        ):
            connect(HOME)
            story[f"train{word}"] = fly(dags["small.train"], **conf)
            connect(HOME / f"worker{word.strip()}")
            began = len(cluster.requests)
            beside = threading.Thread(target=person, daemon=True) if person else None
            if beside:
                beside.start()
            story[f"release{word}"] = fly(dags["small.release"])
            if beside:
                beside.join(30)
            story[f"asked{word}"] = cluster.asked(began)
    finally:
        over.set()
        callers.join(10)
    story["versions"] = {one.version: one.state for one in registry.versions("small")}
    story["rollouts"] = [{"state": one.state, "reason": one.reason} for one in registry.rollouts("small")]
    story["verdicts"] = [
        [posted.verdict.to_dict()[key] for key in ("kind", "outcome", "version", "reason")]
        for posted in registry.verdicts("small")
    ]
    story["archived"] = sorted(path.name for path in (HOME / "store" / "looks" / "small").rglob("*.json"))
    story["left"] = [str(path) for path in (home.serving / "models").rglob("*") if path.name != "samples"]
    return story


def fly(dag: Any, **conf: Any) -> dict[str, Any]:
    run = dag.test(run_conf=conf or None)
    return {"state": str(getattr(run.state, "value", run.state)), "run_id": run.run_id, "tasks": states(run)}


def asset_events() -> list[dict[str, Any]]:
    """What Airflow has of them, oldest first."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(AssetModel.uri, AssetEvent.extra).join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        return [{"uri": uri, "extra": extra} for uri, extra in session.execute(query.order_by(AssetEvent.id))]


def main() -> dict[str, Any]:
    sys.path.insert(0, str(CASES))
    import windtunnel.serving.local as local

    local.LocalBackend = FakeBackend  # type: ignore[misc,assignment]
    from windtunnel.registry import connect
    from windtunnel.serving.release.looklog import LookLog
    from windtunnel_airflow import lifecycle

    table = HOME / "rows.csv"
    write_table(table)
    home = Home(HOME)
    model = description(table)
    write_dag_file(home.airflow / "dags", model)
    dags = lifecycle(model)
    story: dict[str, Any] = {}
    registry = connect.from_home(home)
    if MODE == "pods":
        flown = in_pods(home)
        found = [{"state": one.state, "correlation_id": one.correlation_id} for one in registry.versions("small")]
        return {**flown, "versions": found}
    if MODE == "seldon":
        return on_seldon(home, registry)
    if MODE == "core2":
        return on_core2(home, registry)
    story["train"] = fly(dags["small.train"], reason="the first", correlation_id="c" * 32)
    story["release"] = fly(dags["small.release"])
    if MODE == "life":
        story["train better"] = fly(dags["small.train"], params={"alpha": 0.5}, reason="a better recipe")
        story["release better"] = fly(dags["small.release"])
        story["train harmful"] = fly(dags["small.train"], params={"alpha": 2.0}, reason="a careless recipe")
        story["release harmful"] = fly(dags["small.release"])
        story["release nothing"] = fly(dags["small.release"])
        story["watch nothing"] = fly(dags["small.watch"])
        log_other_rows(home, "2")
        story["watch"] = fly(dags["small.watch"])
    champion = registry.champion("small")
    story["champion"] = champion.version if champion else None
    origins = registry.lineage("small", "1", direction="backward").nodes
    story["origin kinds"] = sorted({node.kind for node in origins})
    story["versions"] = {
        v.version: {"semver": v.semver, "state": v.state, "correlation_id": v.correlation_id, "cause": v.cause}
        for v in registry.versions("small")
    }
    keys = ("kind", "outcome", "reason", "version", "correlation_id", "dag_id")
    story["verdicts"] = [
        {"claimed": posted.claimed, **{key: posted.verdict.to_dict()[key] for key in keys}}
        for posted in registry.verdicts("small")
    ]
    rollouts = registry.rollouts("small")
    story["rollouts"] = [{"state": one.state, "version": one.version, "reason": one.reason} for one in rollouts]
    story["events"] = asset_events()
    story["looks"] = len(list(LookLog(home, "small")._looks()))
    story["renewed"] = WORLD.renewed
    story["applied"] = WORLD.applied
    return story


if __name__ == "__main__":
    found = main()
    out = os.fdopen(os.dup(1), "w")
    print("STORY " + json.dumps(found), file=out, flush=True)
