"""DEMAND REG-5, REG-10: the tasks of a release that wait for people, against a real registry.

What is Airflow's own here is a wire only: the question that a task leaves, and the API from which the registry reads
the answer. The real Airflow is in tests/stack/test_release_approval.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="wt-airflow-"))

from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, TaskDeferred

from windtunnel.errors import RefusedError
from windtunnel.evidence import Outcome
from windtunnel.registry.approvals import question
from windtunnel.registry.client import RegistryClient
from windtunnel.registry.waiting import Asked
from windtunnel.serving.release import overview
from windtunnel.stackfile import StackFile, read_secret
from windtunnel_airflow import ClaimReleaseOperator, PolicySensor, PromoteOperator
from windtunnel_airflow.asking import AskAgain
from windtunnel_airflow.operators.release import RollbackOperator
from windtunnel_airflow.triggers import PolicyTrigger

pytestmark = pytest.mark.real

STRICT = {"first": {"approvals": 1}}


# -- Airflow's wire


@dataclass
class Airflow:
    """What Airflow knows of one question: as tasks leave it, and as its API tells it."""

    detail: dict[str, Any] | None = None
    asked: int = 0

    def upsert(self, *, ti_id: Any, options: list[str], subject: str, body: str, params: dict[str, Any]) -> None:
        """As Airflow's execution API: the first question of a task instance stays, an answer to it is removed."""
        self.asked += 1
        if self.detail is None:
            self.detail = {"subject": subject, "body": body, "options": options, "params": params}
        self.detail |= {"chosen_options": None, "responded_at": None, "responded_by_user": None, "params_input": {}}

    def read(self, ti_id: Any) -> Any:
        assert self.detail is not None
        return SimpleNamespace(
            response_received=self.detail["responded_at"] is not None,
            chosen_options=self.detail["chosen_options"],
            params_input=self.detail["params_input"],
        )

    def answer(self, chosen: str, by: str | None, reason: str | None = None) -> dict[str, Any]:
        """Somebody answers; the event with which the task is resumed."""
        assert self.detail is not None
        user = {"id": by, "name": by} if by else None
        self.detail |= {
            "chosen_options": [chosen], "responded_by_user": user, "params_input": {"reason": reason},
            "responded_at": f"2026-01-01T00:00:{time.monotonic_ns()}Z",
        }  # fmt: skip
        return {"chosen_options": [chosen], "params_input": {"reason": reason}}


@pytest.fixture
def airflow(registry_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Airflow]:
    """An Airflow that the registry's server finds as it finds that of its own stack."""
    found, home = Airflow(), registry_server.home

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def _tell(self, plain: Any) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            sent = json.dumps(plain).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def do_POST(self) -> None:
            self._tell({"access_token": "t"})

        def do_GET(self) -> None:
            assert self.path.endswith("/taskInstances/policy/-1/hitlDetails"), self.path
            self._tell({name: value for name, value in (found.detail or {}).items() if name != "params"})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    (home.secrets / "airflow-admin").touch(mode=0o600)
    home.stack_file.write_text(StackFile(str(home.root), {}, {"airflow": url}, {}).to_json(), encoding="utf-8")
    monkeypatch.setattr("airflow.sdk.execution_time.hitl.upsert_hitl_detail", found.upsert)
    monkeypatch.setattr("airflow.sdk.execution_time.hitl.get_hitl_detail_content_detail", found.read)
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        home.stack_file.unlink()


# -- people and a model


@pytest.fixture(scope="module")
def staff(registry_server: Any) -> Iterator[dict[str, RegistryClient]]:
    """Ella and ben may approve, dan is a data scientist; so are they called in Airflow."""
    with ExitStack() as stack:
        admin = stack.enter_context(registry_server.client("admin"))
        made = {}
        for name, roles in {"ella": ["approver"], "ben": ["approver"], "dan": []}.items():
            password = secrets.token_urlsafe(18)
            admin.add_person(name, password)
            if roles:
                admin.grant(name, roles)
            made[name] = stack.enter_context(RegistryClient(registry_server.url, name, password))
        yield made


@pytest.fixture
def ella(staff: dict[str, RegistryClient]) -> RegistryClient:
    return staff["ella"]


@pytest.fixture
def entered(admin: RegistryClient, service: RegistryClient, hands: Any, helpers: Any) -> Callable[..., Any]:
    """A model under a policy, with version 1 and all its verdicts."""

    def make(policy: dict[str, Any] = STRICT) -> Any:
        name: str = hands.model()
        admin.set_policy_document(policy, "people look first", model=name)
        record = helpers.enter(service, hands, name)
        helpers.judge(service, record, "data-check", "evaluation")
        return record

    return make


@dataclass
class Run:
    """One run of ``MODEL.release``, as far as its tasks see it."""

    model: str
    tries: int = 1
    told: dict[tuple[str, str], Any] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)

    def context(self, task: str = "policy") -> dict[str, Any]:
        ti = SimpleNamespace(
            id=uuid.uuid4(), dag_id=f"{self.model}.release", run_id="r1", task_id=task, map_index=-1,
            try_number=self.tries, max_tries=20,
            xcom_push=lambda key, value: self.told.update({(task, key): value}),
            xcom_pull=lambda task_ids, key: self.told.get((task_ids, key)),
            get_task_states=lambda **_: {"r1": self.ended},
        )  # fmt: skip
        return {"ti": ti, "params": {}}


@pytest.fixture
def connected(registry_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    password = read_secret(registry_server.home, "mlflow-service")
    connection = {
        "conn_type": "windtunnel", "host": registry_server.url, "login": "service", "password": password,
        "extra": {"home": str(registry_server.home.root)},
    }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(connection))


def described(model: str) -> dict[str, Any]:
    return {
        "name": model, "owner": "tests",
        "data": {"source": "rows.csv", "time": "t", "target": "y", "features": ["a", "b"]},
        "training": {"entry_point": "wt_small:train"},
        "evaluation": {"metrics": [{"name": "rmse", "maximum": 1.0}], "benchmark": None},
    }  # fmt: skip


@pytest.fixture
def begun(
    connected: None, airflow: Airflow, staff: dict[str, RegistryClient]
) -> Callable[[Any], tuple[PolicySensor, Run]]:
    """The release of a version as far as its task ``policy``."""

    def make(record: Any, **more: Any) -> tuple[PolicySensor, Run]:
        run = Run(record.model)
        claimed = ClaimReleaseOperator(task_id="claim", model=described(record.model))
        claim = type(claimed).execute.__wrapped__(claimed, run.context("claim"))  # type: ignore[attr-defined]
        given = {"deferrable": True, "timeout": 600, **more}
        return PolicySensor(task_id="policy", model=described(record.model), claim=claim, **given), run

    return make


def deferred(attempt: Callable[[], Any]) -> tuple[PolicyTrigger, dict[str, Any]]:
    """The trigger that a task left, as another triggerer makes it anew, and what the task gave itself."""
    with pytest.raises(TaskDeferred) as left:
        attempt()
    _, kept = left.value.trigger.serialize()
    trigger = PolicyTrigger(**json.loads(json.dumps(kept)))
    trigger.poll = 0.2
    return trigger, json.loads(json.dumps(left.value.kwargs))


def first(trigger: PolicyTrigger, meanwhile: Callable[[], Any] | None = None) -> dict[str, Any]:
    """What a trigger says, after something happened; before that it says nothing."""

    async def go() -> dict[str, Any]:
        events = trigger.run()
        waiting = asyncio.ensure_future(anext(events))
        if meanwhile is not None:
            done, _ = await asyncio.wait([waiting], timeout=0.5)
            assert not done, waiting
            await asyncio.to_thread(meanwhile)
        return dict((await asyncio.wait_for(waiting, 60)).payload)

    return asyncio.run(go())


def begin(sensor: PolicySensor, run: Run) -> tuple[PolicyTrigger, dict[str, Any]]:
    return deferred(lambda: type(sensor).execute.__wrapped__(sensor, run.context()))  # type: ignore[attr-defined]


def say(client: RegistryClient, model: str, decision: str = "approve", **more: Any) -> Any:
    found = client.explain(model, 1, more.get("to", "production"))
    return client.approve(
        model, 1, "storm week", decision=decision, digest=found.digest, evidence=found.evidence, **more
    )


# -- waiting


def test_it_asks_and_goes_on_when_somebody_approves_elsewhere(
    entered: Any, begun: Any, airflow: Airflow, ella: RegistryClient, service: RegistryClient
) -> None:
    record = entered()
    sensor, run = begun(record)
    trigger, kept = begin(sensor, run)
    found = service.explain(record.model, 1)
    assert airflow.detail is not None
    assert airflow.detail["subject"] == question(
        "approve", "production", record.model, "1", found.digest or "", found.evidence or ""
    )
    assert airflow.detail["options"] == ["Approve", "Reject"] and "**evaluation**" in airflow.detail["body"]
    assert (trigger.asked, trigger.to, trigger.asks) == (kept["asked"], "champion", True)
    waits = overview.waits(service, service.rollouts(record.model, limit=1)[0])
    assert waits == ["1 approval by approver or admin (nobody did)"]
    began = time.monotonic()
    event = first(trigger, lambda: say(ella, record.model))
    assert event == {"status": "allowed"} and time.monotonic() - began < 30
    assert sensor.execute_complete(run.context(), event, **kept) is None
    assert overview.waits(service, service.rollouts(record.model, limit=1)[0]) == []
    # Where nothing is missing nobody is asked.
    asked = airflow.asked
    assert type(sensor).execute.__wrapped__(sensor, run.context()) is None  # type: ignore[attr-defined]
    assert airflow.asked == asked


def test_a_rejection_ends_it_with_who_and_why(
    entered: Any, begun: Any, ella: RegistryClient, service: RegistryClient, connected: None
) -> None:
    record = entered()
    sensor, run = begun(record)
    trigger, kept = begin(sensor, run)
    event = first(trigger, lambda: say(ella, record.model, "reject"))
    with pytest.raises(AirflowFailException, match=r"version 1 of .* was rejected by ella: storm week"):
        sensor.execute_complete(run.context(), event, **kept)
    # What undoes the release says the same.
    run.ended["policy"] = "failed"
    undo = RollbackOperator(task_id="rollback", model=described(record.model), claim=sensor.claim)
    assert (
        undo._why(undo.claim, run.context("rollback"))[1]
        == f"version 1 of {record.model} was rejected by ella: storm week"
    )
    # A release that begins while a rejection stands ends before anything is asked.
    with pytest.raises(AirflowFailException, match="rejected by ella"):
        type(sensor).execute.__wrapped__(sensor, run.context())  # type: ignore[attr-defined]


def test_a_rollout_that_ends_some_other_way_takes_the_question_with_it(
    entered: Any, begun: Any, service: RegistryClient
) -> None:
    record = entered()
    sensor, run = begun(record)
    trigger, kept = begin(sensor, run)
    (rollout,) = service.rollouts(record.model)
    event = first(
        trigger,
        lambda: service.update_rollout(rollout.id, rollout.token, state="rolled_back", weight=0, reason="a mistake"),
    )
    with pytest.raises(AirflowFailException, match="is rolled_back already: a mistake"):
        sensor.execute_complete(run.context(), event, **kept)


def test_the_time_is_over(entered: Any, begun: Any) -> None:
    sensor, run = begun(entered(), timeout=0)
    trigger, kept = begin(sensor, run)
    event = first(trigger)
    with pytest.raises(AirflowSensorTimeout, match=r"waited 0 s for policy; still missing: 1 approval by approver"):
        sensor.execute_complete(run.context(), event, **kept)
    assert "still missing: 1 approval" in run.told["policy", "why"]


def test_without_a_triggerer_it_waits_all_the_same(entered: Any, begun: Any, ella: RegistryClient) -> None:
    record = entered()
    sensor, run = begun(record, deferrable=False)
    assert sensor.poke(run.context()) is False
    say(ella, record.model)
    assert sensor.poke(run.context()) is True
    ella.withdraw_approval(record.model, 1, "not yet")
    say(ella, record.model, "reject")
    with pytest.raises(AirflowFailException, match="rejected by ella"):
        sensor.poke(run.context())


def test_other_evidence_is_another_question(
    entered: Any, begun: Any, service: RegistryClient, helpers: Any, airflow: Airflow
) -> None:
    record = entered()
    sensor, run = begun(record)
    trigger, kept = begin(sensor, run)
    # The steward's looks at the files are no new evidence, unless they find something.
    asked = trigger.status(trigger.look(service))
    helpers.judge(service, record, "integrity", reason="every file is what was sealed")
    assert asked is trigger.status(trigger.look(service)) is None
    event = first(trigger, lambda: helpers.judge(service, record, "scan", reason="nothing found"))
    assert event == {"status": "ask"}
    with pytest.raises(AskAgain):
        sensor.execute_complete(run.context(), event, **kept)
    airflow.detail = None  # the next try is another task instance
    run.tries = 20
    again, kept = begin(sensor, run)
    assert airflow.detail is not None and "**scan**" in airflow.detail["body"] and again.asked != trigger.asked
    # With no try left it goes on waiting: for those who approve by themselves.
    run.tries = 21
    helpers.judge(service, record, "benchmark")
    last, _ = deferred(lambda: sensor.execute_complete(run.context(), {"status": "ask"}, **kept))
    assert last.status(last.look(service)) is None


def test_a_failing_verdict_is_waited_out_and_nobody_is_asked_about_it(
    entered: Any, begun: Any, service: RegistryClient, helpers: Any, airflow: Airflow
) -> None:
    record = entered()
    helpers.judge(service, record, "evaluation", outcome=Outcome.FAIL, reason="worse")
    trigger, kept = begin(*begun(record))
    assert (airflow.detail, trigger.asked, kept["asked"]) == (None, None, None)
    assert first(trigger, lambda: helpers.judge(service, record, "evaluation", reason="better")) == {"status": "ask"}


# -- answers in Airflow


def test_a_persons_answer_counts_as_its_own_word(
    entered: Any, begun: Any, airflow: Airflow, service: RegistryClient
) -> None:
    """Two are wanted: the question is there again for the second, and the first cannot answer for both."""
    record = entered({"first": {"approvals": 2}})
    sensor, run = begun(record)
    _, kept = begin(sensor, run)
    event = airflow.answer("Approve", "ella", "the rows are good")
    _, kept = deferred(lambda: sensor.execute_complete(run.context(), event, **kept))
    (said,) = service.approvals(record.model, 1)
    assert (said.by, said.via, said.reason, said.decision) == ("ella", "airflow", "the rows are good", "approve")
    assert airflow.detail is not None and airflow.detail["responded_at"] is None
    event = airflow.answer("Approve", "ella", "once more")
    _, kept = deferred(lambda: sensor.execute_complete(run.context(), event, **kept))
    assert service.explain(record.model, 1).missing[0].startswith("2 approvals")
    event = airflow.answer("Approve", "ben")
    assert sensor.execute_complete(run.context(), event, **kept) is None
    assert service.explain(record.model, 1).allowed


def test_a_persons_no_is_a_rejection(
    entered: Any, begun: Any, airflow: Airflow, service: RegistryClient, ella: RegistryClient
) -> None:
    record = entered()
    sensor, run = begun(record)
    _, kept = begin(sensor, run)
    event = airflow.answer("Reject", "ella", "trained on the storm week")
    task = {"dag_id": f"{record.model}.release", "dag_run_id": "r1", "task_id": "policy", "map_index": -1}
    found = service.explain(record.model, 1)
    with pytest.raises(RefusedError) as turned:  # a no is not told as a yes
        service.approve(record.model, 1, "x", digest=found.digest, evidence=found.evidence, answer=task)
    assert turned.value.code == "WT_ANSWER"
    with pytest.raises(AirflowFailException, match="rejected by ella: trained on the storm week"):
        sensor.execute_complete(run.context(), event, **kept)
    # Taken back, it does not return by being told again.
    ella.withdraw_approval(record.model, 1, "the storm week is wanted")
    kept_seq = service.approvals(record.model, 1)[0].seq
    told = service.approve(
        record.model, 1, "x", decision="reject", digest=found.digest, evidence=found.evidence, answer=task
    )
    assert told.seq == kept_seq and told.withdrawn_at is not None


def test_whose_answer_does_not_count_the_release_waits_on(
    entered: Any, begun: Any, airflow: Airflow, service: RegistryClient
) -> None:
    """A data scientist, a name the registry does not know, and a worker, which can answer but is no person."""
    record = entered()
    sensor, run = begun(record)
    trigger, kept = begin(sensor, run)
    answers = [("dan", "WT_ROLE"), ("nobody", "WT_ROLE"), ("service", "WT_ROLE"), (None, "WT_ANSWER")]
    for by, _ in answers:
        event = airflow.answer("Approve", by)
        trigger, kept = deferred(lambda event=event, kept=kept: sensor.execute_complete(run.context(), event, **kept))
        assert airflow.detail is not None and airflow.detail["responded_at"] is None, "it may be answered again"
    assert service.approvals(record.model, 1) == []
    refused = [row for row in service.audit(record.model, limit=20) if row.action == "approve"]
    assert [(row.outcome, row.code) for row in refused] == [("refused", code) for _, code in reversed(answers)]
    # An answer that came before the task was deferred is found by the trigger.
    event = first(trigger, lambda: airflow.answer("Approve", "ella"))
    assert event == {"status": "answered", "chosen_options": ["Approve"], "params_input": {"reason": None}}
    assert sensor.execute_complete(run.context(), event, **kept) is None


def test_an_answer_while_the_registry_is_down_is_told_later(
    entered: Any, begun: Any, airflow: Airflow, ella: RegistryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = entered()
    sensor, run = begun(record)
    _, kept = begin(sensor, run)
    event = airflow.answer("Approve", "ella", "good")
    asked, real = Asked.from_dict(kept["asked"]), os.environ["AIRFLOW_CONN_WINDTUNNEL_DEFAULT"]
    nobody = {**json.loads(real), "host": "http://127.0.0.1:9"}
    monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(nobody))
    assert sensor._tell(run.context(), asked, event) is False
    monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", real)
    trigger, kept = deferred(
        lambda: sensor._await(run.context(), sensor.claim, time.time() + 600, asked=asked, told=False)
    )
    assert airflow.detail is not None and airflow.detail["responded_at"] is not None, "the answer is kept"
    assert sensor.execute_complete(run.context(), first(trigger), **kept) is None


# -- before the rollout, and at its end


def test_what_staging_takes_is_waited_for_before_the_rollout(
    entered: Any, connected: None, airflow: Airflow, ella: RegistryClient, service: RegistryClient
) -> None:
    record = entered({"staging": {"approvals": 1}})
    run = Run(record.model)
    claim = ClaimReleaseOperator(task_id="claim", model=described(record.model), deferrable=True)
    trigger, kept = deferred(lambda: type(claim).execute.__wrapped__(claim, run.context("claim")))  # type: ignore[attr-defined]
    assert airflow.detail is not None and " for staging: " in airflow.detail["subject"]
    assert service.rollouts(record.model) == []
    event = first(trigger, lambda: say(ella, record.model, to="staging"))
    claimed = claim.execute_complete(run.context("claim"), event, **kept)
    assert (claimed["version"], service.rollouts(record.model)[0].state) == ("1", "running")
    held = ClaimReleaseOperator(task_id="claim", model=described(entered({"staging": {"approvals": 1}}).model))
    with pytest.raises(AirflowFailException, match="1 approval by approver"):
        type(held).execute.__wrapped__(held, Run(held.description.name).context("claim"))  # type: ignore[attr-defined]


def test_an_approval_that_is_withdrawn_meanwhile_is_missed_before_traffic_is_promoted(
    entered: Any, begun: Any, ella: RegistryClient, admin: RegistryClient
) -> None:
    record = entered()
    sensor, run = begun(record)
    say(ella, record.model)
    assert type(sensor).execute.__wrapped__(sensor, run.context()) is None  # type: ignore[attr-defined]
    promote = PromoteOperator(task_id="promote", model=described(record.model), claim=sensor.claim)
    promote._still_wanted(run.context("promote"), sensor.claim)
    ella.withdraw_approval(record.model, 1, "the storm week")
    with pytest.raises(AirflowFailException, match=r"may not become champion any more: 1 approval.*ella withdrew it"):
        promote._still_wanted(run.context("promote"), sensor.claim)
    say(ella, record.model, "reject")
    with pytest.raises(AirflowFailException, match="rejected by ella: storm week"):
        promote._still_wanted(run.context("promote"), sensor.claim)
    ella.withdraw_approval(record.model, 1, "it is wanted")
    say(ella, record.model)
    admin.set_policy_document({"first": {"approvals": 1, "valid": "1s"}}, "short", model=record.model)
    with pytest.raises(AirflowFailException, match="the policy has changed since"):
        promote._still_wanted(run.context("promote"), sensor.claim)
