"""DEMAND ROL-8: a skip through Airflow: a person says yes there, and the registry reads it there."""

from __future__ import annotations

import importlib.util
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from dagruns import trigger as post_run
from waiting import until

from windtunnel.errors import RefusedError
from windtunnel.registry.connect import from_home
from windtunnel.registry.orders import question
from windtunnel.rollout import Plan
from windtunnel.spec import Rollout
from windtunnel.stackfile import StackFile, read_secret

if TYPE_CHECKING:
    from windtunnel.registry.client import RegistryClient
    from windtunnel.stack.stack import Stack

pytestmark = pytest.mark.stack

PLAN = {**Plan.from_spec(Rollout(), False).to_dict(), "owner": "team-blue"}
CONTROL = "windtunnel.control"
PERSON_S = 3.0


@pytest.fixture(scope="module")
def airflow(stack: Stack) -> httpx.Client:
    """Airflow's REST API as the person ``admin``."""
    url = StackFile.read(stack.home).urls["airflow"]
    login = {"username": "admin", "password": read_secret(stack.home, "airflow-admin")}
    token = httpx.post(f"{url}/auth/token", json=login, timeout=30).raise_for_status().json()["access_token"]
    return httpx.Client(base_url=f"{url}/api/v2", headers={"Authorization": f"Bearer {token}"}, timeout=90)


@pytest.fixture
def service(stack: Stack) -> RegistryClient:
    return from_home(stack.home)


@pytest.fixture
def rollout(stack: Stack, service: RegistryClient) -> Any:
    """An open rollout at its second step, made as a release makes it."""
    path = Path(__file__).parents[1] / "registry_ext" / "conftest.py"
    spec = importlib.util.spec_from_file_location("registry_conftest", path)
    assert spec is not None and spec.loader is not None
    tests = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    auth = ("service", read_secret(stack.home, "mlflow-service"))
    url = StackFile.read(stack.home).urls["mlflow"]
    with httpx.Client(base_url=url, auth=auth, timeout=60, trust_env=False) as http:
        hands = tests.Hands(http)
        model = hands.model()
        tests.crown(service, hands, model)
        record = tests.enter(service, hands, model)
    opened = service.open_rollout(model, record.version, plan=PLAN, holder="h", correlation_id="c")
    return service.update_rollout(opened.id, opened.token, step=1, weight=25)


def trigger(airflow: httpx.Client, model: str, order: str, reason: str) -> str:
    conf = {"model": model, "order": order, "reason": reason}
    return post_run(airflow, f"/dags/{CONTROL}/dagRuns", conf)


def ended(airflow: httpx.Client, run_id: str) -> str | None:
    state = airflow.get(f"/dags/{CONTROL}/dagRuns/{run_id}").raise_for_status().json()["state"]
    return str(state) if state in ("success", "failed") else None


def answered(airflow: httpx.Client, run_id: str, path: str, answer: str) -> str | None:
    """Give the answer where it is (still, or again) asked for, as slowly as a person, and how the run ended.

    A program that answers within the second in which the question appears is too quick for Airflow: see the retries
    of ``approve`` in the control DAG.
    """
    if not airflow.get(path).raise_for_status().json()["response_received"]:
        time.sleep(PERSON_S)
        airflow.patch(path, json={"chosen_options": [answer], "params_input": {}}).raise_for_status()
    return ended(airflow, run_id)


def test_a_pause_bears_the_name_of_who_triggered_it(
    airflow: httpx.Client, service: RegistryClient, rollout: Any
) -> None:
    until(lambda: airflow.get(f"/dags/{CONTROL}").raise_for_status().json())
    run_id = trigger(airflow, rollout.model, "pause", "call centre")
    assert until(lambda: ended(airflow, run_id)) == "success"
    (order,) = service.rollout(rollout.id).orders
    assert (order.kind, order.by, order.claimed, order.reason) == ("pause", "airflow:admin", True, "call centre")


def test_a_pause_by_the_button_on_the_models_page(
    stack: Stack, service: RegistryClient, rollout: Any, airflow_window: Any, tmp_path: Path
) -> None:
    """In a real browser, inside Airflow's own page."""
    url = StackFile.read(stack.home).urls["airflow"]
    with airflow_window(url, read_secret(stack.home, "airflow-admin")) as window:
        window.goto(f"{url}/plugin/windtunnel-models")
        row = window.frame_locator("iframe").get_by_role("row").filter(has_text=rollout.model)
        offered = [button.inner_text() for button in row.get_by_role("button").all()] if row.count() else []
        row.get_by_role("button", name="pause").click()
        asked = window.frame_locator("iframe").get_by_role("dialog")
        asked.get_by_role("button", name="Order").click()
        assert asked.is_visible(), "no order without a reason"
        asked.get_by_label("Reason").fill("the call centre <b>rings</b>")
        asked.get_by_role("button", name="Order").click()
        follow = asked.get_by_role("link", name="Follow it in Airflow")
        follow.wait_for()
        window.screenshot(path=tmp_path / "ordered.png")
        follow.click()
        window.wait_for_url(re.compile(rf".*/dags/{re.escape(CONTROL)}/runs/.*"))
    assert not offered or {"pause", "skip", "promote", "abort", "freeze"} == set(offered)
    (order,) = until(lambda: service.rollout(rollout.id).orders)
    assert (order.kind, order.by, order.reason) == ("pause", "airflow:admin", "the call centre <b>rings</b>")


@pytest.mark.parametrize("answer", ["Approve", "Reject"])
def test_a_skip_waits_for_a_persons_answer(
    airflow: httpx.Client, service: RegistryClient, rollout: Any, answer: str
) -> None:
    until(lambda: airflow.get(f"/dags/{CONTROL}").raise_for_status().json())
    run_id = trigger(airflow, rollout.model, "skip", "seen enough")
    path = f"/dags/{CONTROL}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"
    asked = until(lambda: airflow.get(path).raise_for_status().json())
    assert asked["subject"] == question("skip", rollout.model, rollout.version, rollout.id, 1)
    assert "seen enough" in asked["body"] and "2 of 4: 25 %" in asked["body"]
    task = {"dag_id": CONTROL, "dag_run_id": run_id, "task_id": "approve", "map_index": -1}
    with pytest.raises(RefusedError) as early:  # a worker that does not wait for the person
        service.order(rollout.id, "skip", "seen enough", step=1, answer=task)
    assert early.value.code == "WT_ANSWER"
    assert until(lambda: answered(airflow, run_id, path, answer)) == "success"
    orders = service.rollout(rollout.id).orders
    if answer == "Reject":
        assert orders == ()
        return
    (order,) = orders
    assert (order.kind, order.step, order.by, order.via, order.claimed) == (
        "skip", 1, "airflow:admin", "airflow", False,
    )  # fmt: skip
