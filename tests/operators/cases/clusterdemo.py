"""The demo's model on a cluster, through ``dag.test`` in a process of its own: python clusterdemo.py HOME

What ``windtunnel cluster demo`` flies, as far as no cluster is needed: its description (``examples/visits/cluster.py``,
with shorter steps), its table, its training in pods of a Kubernetes API on loopback whose pods are plain processes, its
releases on an operator, a gateway and a Prometheus of the tests' own. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent
HOME = Path(sys.argv[1])
sys.path[:0] = [str(CASES), str(CASES.parents[1] / "common")]


def describe(table: Path) -> Any:
    from windtunnel import Model
    from windtunnel_examples.visits import cluster

    plain = cluster.describe(str(table), "here").to_dict()
    for step in plain["rollout"]["steps"]:
        step |= {"hold": "1s", "min_requests": 20}
    plain["rollout"] |= {"first_watch": "1s", "look_every": "0.2s", "lease": "30s"}
    return Model.model_validate(plain)


def fly(dag: Any, **conf: Any) -> dict[str, Any]:
    run = dag.test(run_conf=conf or None)
    tasks = {task.task_id: str(getattr(task.state, "value", task.state)) for task in run.get_task_instances()}
    return {"state": str(getattr(run.state, "value", run.state)), "tasks": tasks}


def call(seldon: Any, over: threading.Event) -> None:
    """Callers without end; version 3 fails half of the time as soon as it has any of them."""
    while not over.is_set():
        if seldon.routes.get("visits", {}).get("v3"):
            seldon.failing ^= {"v3"}
        seldon.ask("visits")
        time.sleep(0.002)


def main() -> dict[str, Any]:
    import fakeseldon
    from fakecluster import Cluster, Kubelet

    from windtunnel.home import Home
    from windtunnel.registry import connect
    from windtunnel.serving.seldon import manifest
    from windtunnel_airflow import lifecycle
    from windtunnel_examples.visits.demo import prepare
    from windtunnel_examples.visits.demo.story import FIRST_RECIPE

    home = Home(HOME)
    prepare.table(str(HOME / "table"))
    model = describe(HOME / "table")
    folder = home.airflow / "dags"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "visits.json").write_text(json.dumps(model.to_dict()))
    (folder / "visits.py").write_text(
        '"""DAGs of the demo."""\n'
        "import json, pathlib\n"
        "from windtunnel_airflow import lifecycle\n"
        "lifecycle(json.loads(pathlib.Path(__file__).with_name('visits.json').read_text()))\n"
    )
    dags = lifecycle(model)
    ours = json.loads(os.environ["AIRFLOW_CONN_WINDTUNNEL_DEFAULT"])
    ours["extra"] = {"home": str(HOME), "store": (HOME / "store").as_uri()}
    os.environ["AIRFLOW_CONN_WINDTUNNEL_DEFAULT"] = json.dumps(ours)
    secret = {"username": ours["login"], "password": ours["password"], "aws-access-key-id": "a"}
    known = {f"windtunnel-demo/{key}": value for key, value in {**secret, "aws-secret-access-key": "b"}.items()}
    story: dict[str, Any] = {}
    with Cluster() as pods, fakeseldon.cluster() as cluster, fakeseldon.Seldon(cluster) as seldon:
        extra = {"kube_config_path": str(pods.kubeconfig(HOME / "pods")), "namespace": "windtunnel"}
        os.environ["AIRFLOW_CONN_KUBERNETES_DEFAULT"] = json.dumps({"conn_type": "kubernetes", "extra": extra})
        served = {
            "image": "windtunnel/model-server:0.1.0",
            "registry": "http://registry",
            "kubeconfig": cluster.kubeconfig(HOME / "kubeconfig"),
            "gateway": f"{seldon.url}/seldon/{{namespace}}/{{model}}",
            "prometheus": seldon.url,
            "collector": "http://collector",
            "split_requests": 40,
            "poll_s": 0.05,
        }
        os.environ["AIRFLOW_CONN_WINDTUNNEL_SELDON"] = json.dumps({"conn_type": "windtunnel_seldon", "extra": served})
        kubelet = Kubelet(pods, HOME / "node", CASES, known)
        over = threading.Event()
        callers = threading.Thread(target=call, args=(seldon, over), daemon=True)
        callers.start()
        try:
            for word, conf in (
                ("first", {"params": FIRST_RECIPE}),
                ("better", {"params": {}}),
                ("harmful", {"params": {"remember_peers": "errors"}}),
            ):
                story[f"train {word}"] = fly(dags["visits.train"], reason=word, **conf)
                story[f"release {word}"] = fly(dags["visits.release"])
        finally:
            over.set()
            callers.join(10)
            kubelet.stop()
        live = cluster.get("seldondeployments", "visits")
        story["weights"] = manifest.weights(live) if live else None
        story["pods left"] = list(pods.pods)
    registry = connect.from_home(home)
    story["versions"] = {one.version: [one.semver, one.state] for one in registry.versions("visits")}
    return story


if __name__ == "__main__":
    found = main()
    with os.fdopen(os.dup(1), "w") as out:
        print("STORY " + json.dumps(found), file=out, flush=True)
