"""DEMAND REG-5, REG-10: a release in the real Airflow waits for people: asked there, answered there or elsewhere."""

from __future__ import annotations

import importlib.util
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from dagruns import trigger
from waiting import until

from windtunnel.errors import RefusedError
from windtunnel.registry.approvals import question
from windtunnel.registry.client import RegistryClient
from windtunnel.registry.connect import from_home
from windtunnel.serving.release import overview, overviewtext
from windtunnel.stackfile import StackFile, read_secret

if TYPE_CHECKING:
    from windtunnel.stack.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

DAG = '''
"""The release dag of one model."""
from windtunnel import Model
from windtunnel_airflow.factory import release_dag

dag = release_dag(
    Model.model_validate(
        {{
            "name": "{model}", "owner": "tests",
            "data": {{"source": "rows.csv", "time": "t", "target": "y", "features": ["a", "b"]}},
            "training": {{"entry_point": "wt_small:train"}},
            "evaluation": {{"metrics": [{{"name": "rmse", "maximum": 1.0}}], "benchmark": None}},
        }}
    ),
    is_paused_upon_creation=False,
)
'''
#: Slower than a program: Airflow 3.3 takes an answer within the second in which its question appears for a death.
PERSON_S = 3.0


class Release:
    """One run of ``MODEL.release`` as the person ``admin`` sees it in Airflow."""

    def __init__(self, stack: Stack, model: str) -> None:
        url = StackFile.read(stack.home).urls["airflow"]
        login = {"username": "admin", "password": read_secret(stack.home, "airflow-admin")}
        token = httpx.post(f"{url}/auth/token", json=login, timeout=30).raise_for_status().json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        self.http = httpx.Client(base_url=f"{url}/api/v2", headers=headers, timeout=30)
        self.dag_id, self.run_id = f"{model}.release", ""

    def get(self, path: str, **params: Any) -> Any:
        return self.http.get(f"/dags/{self.dag_id}{path}", params=params).raise_for_status().json()

    def begin(self) -> None:
        until(lambda: self.get(""))
        self.run_id = trigger(self.http, f"/dags/{self.dag_id}/dagRuns")

    def state(self, task: str = "policy") -> str:
        return str(self.get(f"/dagRuns/{self.run_id}/taskInstances/{task}")["state"])

    def open(self) -> list[dict[str, Any]]:
        """What Airflow's page of required actions shows of this run."""
        found = self.get(f"/dagRuns/{self.run_id}/hitlDetails", response_received=False, state="deferred")
        return list(found["hitl_details"])

    def answer(self, chosen: str, reason: str) -> None:
        time.sleep(PERSON_S)
        path = f"/dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/policy/-1/hitlDetails"
        body = {"chosen_options": [chosen], "params_input": {"reason": reason}}
        self.http.patch(path, json=body).raise_for_status()


@pytest.fixture
def service(stack: Stack) -> RegistryClient:
    return from_home(stack.home)


@pytest.fixture
def eve(stack: Stack) -> Iterator[RegistryClient]:
    """A person who may approve, and whom Airflow does not know."""
    name, password = f"eve-{secrets.token_hex(3)}", secrets.token_urlsafe(18)
    url = StackFile.read(stack.home).urls["mlflow"]
    with RegistryClient(url, "admin", read_secret(stack.home, "mlflow-admin")) as admin:
        admin.add_person(name, password)
        admin.grant(name, ["approver"])
    with RegistryClient(url, name, password, timeout=30) as client:
        yield client


@pytest.fixture
def released(stack: Stack, service: RegistryClient) -> Iterator[Callable[[dict[str, Any]], tuple[str, Release]]]:
    """Begin the release of a fresh model under a policy for its first champion."""
    path = Path(__file__).parents[1] / "registry_ext" / "conftest.py"
    spec = importlib.util.spec_from_file_location("registry_conftest", path)
    assert spec is not None and spec.loader is not None
    tests = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    url, files = StackFile.read(stack.home).urls["mlflow"], []

    def begin(policy: dict[str, Any]) -> tuple[str, Release]:
        with httpx.Client(
            base_url=url, auth=("service", read_secret(stack.home, "mlflow-service")), timeout=60, trust_env=False
        ) as http:
            hands = tests.Hands(http)
            model = hands.model()
            with RegistryClient(url, "admin", read_secret(stack.home, "mlflow-admin")) as admin:
                admin.set_policy_document({"first": policy}, "people look first", model=model)
            record = tests.enter(service, hands, model)
            tests.judge(service, record, "data-check", "evaluation")
        files.append(stack.home.dags / f"approval_{model.replace('-', '_')}.py")
        files[-1].write_text(DAG.format(model=model), encoding="utf-8")
        made = Release(stack, model)
        made.begin()
        return model, made

    yield begin
    for file in files:
        file.unlink()


def approve(client: RegistryClient, model: str, **more: Any) -> None:
    found = client.explain(model, 1)
    client.approve(model, 1, "as it should be", **{"digest": found.digest, "evidence": found.evidence, **more})


def test_two_approve_one_in_airflow_and_one_elsewhere(
    stack: Stack, service: RegistryClient, eve: RegistryClient, released: Any
) -> None:
    model, release = released({"approvals": 2})
    (asked,) = until(release.open)
    found = service.explain(model, 1)
    wanted = question("approve", "production", model, "1", str(found.digest), str(found.evidence))
    assert asked["subject"] == wanted and "**evaluation**: PASS" in asked["body"]
    shown = overview.show(stack.home, model, service)
    assert shown is not None and "  waits for  2 approvals by approver or admin (nobody did)" in overviewtext.shown(
        shown
    )
    task = {"dag_id": release.dag_id, "dag_run_id": release.run_id, "task_id": "policy", "map_index": -1}
    with pytest.raises(RefusedError) as early:  # a worker that does not wait for the person
        approve(service, model, answer=task)
    assert early.value.code == "WT_ANSWER"
    release.answer("Approve", "the rows are good")
    kept = until(lambda: service.approvals(model, 1))[0]
    assert (kept.by, kept.via, kept.reason) == ("admin", "airflow", "the rows are good")
    until(release.open)  # one more is wanted, so the question is there again
    approve(eve, model)
    until(lambda: release.state() == "success")
    assert release.open() == [], "nobody needs to answer any more"
    assert [one.via for one in service.approvals(model, 1)] == ["airflow", "credential"]


@pytest.mark.long
def test_who_may_not_approve_is_not_heard_and_a_rejection_ends_it(
    service: RegistryClient, eve: RegistryClient, released: Any
) -> None:
    model, release = released({"approvals": 1, "approvers": ["approver"]})
    until(release.open)
    release.answer("Approve", "")
    refused = until(lambda: [row for row in service.audit(model, limit=20) if row.code == "WT_ROLE"])
    assert (refused[0].actor, refused[0].action) == ("service", "approve")
    until(release.open)
    assert release.state() == "deferred" and service.approvals(model, 1) == []
    approve(eve, model, decision="reject")
    until(lambda: release.state() == "failed")
    ended = until(lambda: [one for one in service.rollouts(model, limit=1) if one.ended])[0]
    assert ended.reason == f"version 1 of {model} was rejected by {eve.health()['user']}: as it should be"
    assert release.open() == []
