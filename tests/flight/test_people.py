"""What a person does to a running stack: end a training, and lose everything but the servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from windtunnel.stack.supervisor import Supervisor
from windtunnel.tracking import local
from windtunnel_examples.visits import traffic
from windtunnel_examples.visits.demo.airflow_api import AirflowApi
from windtunnel_examples.visits.demo.story import TRAIN

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

#: Minutes of training, so that it is surely under way when it is ended.
ENDLESS = {"max_iter": 500_000, "max_leaf_nodes": 31}


def until(what: str, seconds: float, look: Callable[[], Any]) -> Any:
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"{what} did not come within {seconds:.0f} s"
        time.sleep(0.5)
    return found


def test_a_persons_cancel_ends_the_training_within_30_s(flight: Any) -> None:
    """DEMAND TRN-7: by the button in Airflow, which sets the task's state."""
    api = AirflowApi(flight.urls["airflow"], "admin", flight.secret("airflow-admin"))
    run_id = f"cancel-{int(time.time())}"
    api.trigger(TRAIN, {"params": ENDLESS, "reason": "to be ended"}, run_id)
    living = until("the training", 90, lambda: list(local.running(flight.home)))
    time.sleep(3)
    api.call("PATCH", f"/dags/{TRAIN}/dagRuns/{run_id}/taskInstances/train", json={"new_state": "failed"}, params={})
    began = time.monotonic()
    until("the end of the process", 30, lambda: not list(local.running(flight.home)))
    assert time.monotonic() - began < 30
    status = local.status(flight.home, living[0])
    assert (status.state, status.failure) == ("cancelled", "cancelled")
    until("the end of the run", 60, lambda: next(r for r in api.runs(TRAIN) if r.run_id == run_id).over)


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

        until("the restarted server's answer", 60, answers)
    finally:
        until("the programs to stop", 30, lambda: all(not supervisor.states()[name].pid for name in others))
        supervisor.start_programs(others)
        health = flight.urls["airflow"] + "/api/v2/monitor/health"
        until("Airflow", 120, lambda: _answers(health) and _answers(flight.urls["mlflow"] + "/health"))


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False
