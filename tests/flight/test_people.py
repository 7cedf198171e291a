"""What a person does to a running stack: end a training, and lose everything but the servers."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from waiting import until

from windtunnel import files
from windtunnel.home import Home
from windtunnel.stack.supervisor import Supervisor
from windtunnel.tracking import local
from windtunnel_examples.visits import traffic
from windtunnel_examples.visits.demo.airflow_api import AirflowApi
from windtunnel_examples.visits.demo.story import TRAIN

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

#: Minutes of training, so that it is surely under way when it is ended.
ENDLESS = {"max_iter": 500_000, "max_leaf_nodes": 31}


def test_a_persons_cancel_ends_the_training_within_30_s(flight: Any) -> None:
    """DEMAND TRN-7: by the button in Airflow, which sets the task's state."""
    api = AirflowApi(flight.urls["airflow"], "admin", flight.secret("airflow-admin"))
    run_id = f"cancel-{int(time.time())}"
    api.trigger(TRAIN, {"params": ENDLESS, "reason": "to be ended"}, run_id)
    mine = until(lambda: [run for run in local.running(flight.home) if _dag_run(flight.home, run) == run_id], 300)
    time.sleep(3)
    api.call("PATCH", f"/dags/{TRAIN}/dagRuns/{run_id}/taskInstances/train", json={"new_state": "failed"}, params={})
    began = time.monotonic()
    until(lambda: not set(mine) & set(local.running(flight.home)), 30)
    assert time.monotonic() - began < 30
    status = local.status(flight.home, mine[0])
    assert (status.state, status.failure) == ("cancelled", "cancelled")
    until(lambda: next(r for r in api.runs(TRAIN) if r.run_id == run_id).over, 60)


def _dag_run(home: Home, run_id: str) -> str:
    """The Airflow run that a local run was begun for: others may train meanwhile, the watch retrains by itself."""
    spec = files.read_json(local.run_dir(home, run_id) / "spec.json") or {}
    return str(spec.get("context", {}).get("dag_run_id"))


def test_serving_goes_on_and_restarts_with_mlflow_and_airflow_down(flight: Any) -> None:
    """DEMAND SRV-10."""
    import os
    import signal

    from windtunnel.registry.connect import from_home

    champion = from_home(flight.home).champion("visits")
    assert champion is not None
    url = f"{flight.urls['inference']}/v2/models/visits/infer"
    body = traffic.request_body(traffic.Population().draw(0.0)[0])
    supervisor = Supervisor(flight.home)
    others = [name for name in supervisor.states() if name.startswith("airflow-") or name == "mlflow"]
    assert len(others) == 5
    try:
        supervisor.stop_programs(others)
        assert httpx.post(url, json=body, timeout=15).status_code == 200
        pid = supervisor.states()[f"wt-visits-{champion.version}"].pid
        assert pid
        os.kill(pid, signal.SIGKILL)

        def answers() -> bool:
            answer = httpx.post(url, json=body, timeout=15)
            return answer.status_code == 200 and supervisor.states()[f"wt-visits-{champion.version}"].pid != pid

        until(answers, 60)
    finally:
        until(lambda: all(not supervisor.states()[name].pid for name in others), 30)
        supervisor.start_programs(others)
        health = flight.urls["airflow"] + "/api/v2/monitor/health"
        until(lambda: _answers(health) and _answers(flight.urls["mlflow"] + "/health"))


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False
