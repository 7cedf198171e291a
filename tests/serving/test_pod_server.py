"""A pod's model server, started as the pod starts it: it keeps its limit and time-out by itself, and serves together
what comes together (DEMAND SRV-4, SRV-7, SRV-9)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import until

from windtunnel.home import Home
from windtunnel.loopback import any_free
from windtunnel.serving import artifacts
from windtunnel.serving.artifacts import Folder
from windtunnel.serving.modelserver import serverfiles
from windtunnel.serving.predictions import PredictionLog
from windtunnel.spec.serving import Serving

pytestmark = pytest.mark.real
FEATURES: list[dict[str, Any]] = [
    {"name": "age", "minimum": 0},
    {"name": "income", "nullable": True},
    {"name": "visits"},
    {"name": "plan", "kind": "categorical", "categories": ["free", "paid"]},
]
SLEEP = 102  # visits of the troublesome model: it sleeps for ``age`` seconds
SERVING = Serving(
    cpu=1, max_concurrency=4, queue=2, timeout="5s", batch=3, batch_delay="200ms", flush="1s", ready_within="5m"
)


class Pod:
    def __init__(self, root: Path, port: int, metrics: int) -> None:
        self.root, self.url, self.metrics_url = (
            root,
            f"http://127.0.0.1:{port}",
            f"http://127.0.0.1:{metrics}/prometheus",
        )

    def ask(self, age: float, visits: int = 1, plan: str = "free") -> httpx.Response:
        inputs = [
            {"name": "age", "shape": [1], "datatype": "FP64", "data": [age]},
            {"name": "income", "shape": [1], "datatype": "FP64", "data": [5.0]},
            {"name": "visits", "shape": [1], "datatype": "INT64", "data": [visits]},
            {"name": "plan", "shape": [1], "datatype": "BYTES", "data": [plan]},
        ]
        return httpx.post(f"{self.url}/v2/models/visits/infer", json={"inputs": inputs}, timeout=60)

    def numbers(self) -> dict[str, float]:
        lines = httpx.get(self.metrics_url, timeout=10).text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[:1] != "#"}

    def number(self, name: str, more: str = "") -> float:
        return self.numbers()[f'{name}{{model="visits",version="1"{more}}}']


@pytest.fixture(scope="module")
def pod(models: Any, serving_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    root = tmp_path_factory.mktemp("pod")
    port, metrics = any_free(), any_free()
    folder = artifacts.ensure(Home(root), "visits", models.trouble.arm("1"), Folder(root / "mnt"))
    serverfiles.write(
        folder,
        model="visits",
        version="1",
        digest=models.trouble.digest,
        port=port,
        serving=SERVING,
        predictions=root / "predictions",
        features=FEATURES,
        metrics_port=metrics,
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(root), "MLFLOW_TRACKING_URI": "file:///nonexistent"}
    with (root / "server.log").open("wb") as log:
        command = [serving_python, "-m", "windtunnel.serving.modelserver.launch", str(folder.path)]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        found = Pod(root, port, metrics)
        try:

            def ready() -> bool:
                assert server.poll() is None, (root / "server.log").read_text()
                try:
                    return httpx.get(f"{found.url}/v2/models/visits/ready").status_code == 200
                except httpx.HTTPError:
                    return False

            until(ready, 120)
            yield found
        finally:
            server.terminate()
            server.wait(60)
            shutil.rmtree(root / "mnt", ignore_errors=True)


def test_requests_that_come_together_are_answered_and_logged_each_by_itself(pod: Pod) -> None:
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda age: pod.ask(age), [30.0, 31.0, 32.0]))
    assert [one.status_code for one in answers] == [200] * 3
    assert [one.json()["outputs"][0]["data"] for one in answers] == [[2.5]] * 3
    ids = [one.json()["parameters"]["prediction_ids"][0] for one in answers]
    assert len(set(ids)) == 3

    def rows() -> dict[str, Any]:
        table = PredictionLog(pod.root / "predictions").read("visits", 0, time.time() + 60)
        return {row["prediction_id"]: row for row in table.to_dict("records")}

    until(lambda: set(ids) <= set(rows()), 60)
    assert [rows()[one]["feature_age"] for one in ids] == [30.0, 31.0, 32.0]
    bad = pod.ask(30.0, plan="gold")
    assert bad.status_code == 400 and "plan" in bad.text, "a bad request is refused before it meets others"


def test_more_than_it_may_take_is_refused_with_a_time_to_come_back(pod: Pod) -> None:
    before = pod.number("windtunnel_server_requests_total", ',outcome="refused"')
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(pod.ask, 2.0, SLEEP) for _ in range(6)]
        until(lambda: pod.number("windtunnel_server_running") + pod.number("windtunnel_server_waiting") == 6, 60)
        refused = pod.ask(30.0)
        for one in asked:
            one.result()
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "4 are running and 2 waiting" in json.loads(refused.text)["error"]
    assert pod.number("windtunnel_server_requests_total", ',outcome="refused"') == before + 1


def test_no_answer_in_time_is_504(pod: Pod) -> None:
    until(lambda: pod.number("windtunnel_server_running") == 0, 60)
    late = pod.ask(7.0, SLEEP)
    assert late.status_code == 504 and "within 5 s" in late.json()["error"]
    until(lambda: pod.number("windtunnel_server_running") == 0, 60)
    assert pod.ask(30.0).status_code == 200
