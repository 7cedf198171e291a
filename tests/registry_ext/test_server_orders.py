"""DEMAND ROL-8, ROL-6, REG-7: orders and freezes against the real server, with real users, and its audit."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest

from windtunnel.errors import NotFoundError, RefusedError, RegistryError
from windtunnel.evidence import Outcome
from windtunnel.registry.client import RegistryClient
from windtunnel.registry.orders import standing
from windtunnel_mlflow.ledger import audit

pytestmark = pytest.mark.real

PLAN = {"steps": [{"weight": 5}, {"weight": 25}], "owner": "team-blue"}


@pytest.fixture(scope="module")
def reader(registry_server: Any) -> Iterator[RegistryClient]:
    """An ordinary user with MLflow's default right on other people's models: READ."""
    name, password = "rob", secrets.token_urlsafe(18)
    with registry_server.rest("admin") as http:
        body = {"username": name, "password": password}
        assert http.post("/api/2.0/mlflow/users/create", json=body).status_code == 200
    with RegistryClient(registry_server.url, name, password) as client:
        yield client


@pytest.fixture
def model(person_http: httpx.Client, helpers: Any) -> str:
    """A model that ``ada`` made, so that she may change it."""
    return str(helpers.Hands(person_http).model())


@pytest.fixture
def rollout(service: RegistryClient, hands: Any, helpers: Any, model: str) -> Any:
    """An open rollout against a champion, at its first step."""
    helpers.crown(service, hands, model)
    record = helpers.enter(service, hands, model)
    opened = service.open_rollout(model, record.version, plan=PLAN, holder="h", correlation_id="c1")
    return service.update_rollout(opened.id, opened.token, step=0, weight=5)


def trail(service: RegistryClient, model: str) -> list[tuple[str, str, str, str | None]]:
    """(who, what, how it ended, code), oldest first, of orders and freezes."""
    rows = reversed(service.audit(model, 1000))
    return [(r.actor, r.action, r.outcome, r.code) for r in rows if r.action.startswith(("order-", "freeze", "thaw"))]


def test_a_person_orders_and_everything_is_in_the_audit(
    service: RegistryClient, person_client: RegistryClient, reader: RegistryClient, rollout: Any, registry_server: Any
) -> None:
    order = person_client.order
    paused = order(rollout.id, "pause", " call centre ")
    assert (paused.by, paused.actor, paused.via, paused.claimed) == ("ada", "ada", "credential", False)
    assert (paused.reason, paused.step) == ("call centre", None)
    with pytest.raises(RefusedError, match="paused already by ada: call centre"):
        order(rollout.id, "pause", "again")
    with pytest.raises(RefusedError, match="resume it first"):
        order(rollout.id, "promote", "now")
    with pytest.raises(RefusedError, match="takes MLflow's right") as refused:
        reader.order(rollout.id, "abort", "I do not like it")
    assert refused.value.code == "WT_ROLE"
    order(rollout.id, "resume", "clear")
    assert order(rollout.id, "skip", "seen enough").step == 0
    service.update_rollout(rollout.id, rollout.token, step=1, weight=25)
    with pytest.raises(RefusedError, match="step 1 is past") as past:
        order(rollout.id, "skip", "once more", step=0)
    assert past.value.code == "WT_ORDER"
    order(rollout.id, "promote", "the board waits")
    with pytest.raises(RefusedError, match="ordered already by ada: the board waits"):
        order(rollout.id, "skip", "and this")
    order(rollout.id, "abort", "no, stop")

    found = service.rollout(rollout.id)
    assert [o.kind for o in found.orders] == ["pause", "resume", "skip", "promote", "abort"]
    holds = standing(found.orders)
    assert holds.paused is None and holds.promote is not None and holds.abort is not None and list(holds.skips) == [0]
    assert trail(service, rollout.model) == [
        ("ada", "order-pause", "done", None),
        ("ada", "order-pause", "refused", "WT_ORDER"),
        ("ada", "order-promote", "refused", "WT_ORDER"),
        ("rob", "order-abort", "refused", "WT_ROLE"),
        ("ada", "order-resume", "done", None),
        ("ada", "order-skip", "done", None),
        ("ada", "order-skip", "refused", "WT_ORDER"),
        ("ada", "order-promote", "done", None),
        ("ada", "order-skip", "refused", "WT_ORDER"),
        ("ada", "order-abort", "done", None),
    ]
    first = next(r for r in reversed(service.audit(rollout.model, 1000)) if r.action == "order-pause")
    assert first.detail["reason"] == " call centre " and first.detail["by"] == "ada"
    assert first.correlation_id == "c1"
    with sqlite3.connect(registry_server.home.mlflow / "mlflow.db") as db:
        db.row_factory = sqlite3.Row
        rows = [dict(row) for row in db.execute("SELECT * FROM wt_audit WHERE model = ? ORDER BY seq", [rollout.model])]
    assert audit.broken(rows) is None
    gone = [row for row in rows if row["action"] != "order-promote"]
    assert audit.broken(gone) is not None


@pytest.mark.parametrize("kind", ["pause", "resume", "skip", "promote", "abort"])
def test_the_stacks_own_user_passes_on_but_never_decides(service: RegistryClient, rollout: Any, kind: Any) -> None:
    with pytest.raises(RefusedError) as alone:
        service.order(rollout.id, kind, "by myself")
    assert alone.value.code == "WT_ROLE"
    if kind in ("skip", "promote"):
        with pytest.raises(RefusedError, match="takes a person"):
            service.order(rollout.id, kind, "because", on_behalf_of="ann")
        return
    if kind == "resume":
        service.order(rollout.id, "pause", "first", on_behalf_of="ann")
    taken = service.order(rollout.id, kind, "because", on_behalf_of="ann")
    assert (taken.by, taken.actor, taken.via, taken.claimed) == ("ann", "service", "service", True)
    assert taken.sentence == "ann (claimed): because"
    assert ("service", f"order-{kind}", "done", None) in trail(service, rollout.model)


def test_a_person_speaks_for_nobody_else(person_client: RegistryClient, rollout: Any) -> None:
    with pytest.raises(RegistryError, match="speaks for itself"):
        person_client.order(rollout.id, "pause", "why", on_behalf_of="the boss")


def test_a_blank_reason_is_refused_and_audited(person_client: RegistryClient, rollout: Any) -> None:
    with pytest.raises(RegistryError, match="expected a reason") as refused:
        person_client.order(rollout.id, "pause", "  ")
    assert refused.value.code == "WT_REQUEST"
    assert trail(person_client, rollout.model) == [("ada", "order-pause", "refused", "WT_REQUEST")]


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "stop", "reason": "x"},
        {"reason": "x"},
        {"kind": "skip", "reason": "x", "step": -1},
        {"kind": "skip", "reason": "x", "step": "1"},
        {"kind": "skip", "reason": "x", "step": True},
        {"kind": "abort", "reason": "x", "done_at": "now"},
        {"kind": "pause", "reason": 5},
        {"kind": "promote", "reason": "x", "answer": "yes"},
    ],
)
def test_a_bad_body_is_a_bad_request(person_http: httpx.Client, rollout: Any, body: dict[str, Any]) -> None:
    answer = person_http.post(f"/api/windtunnel/v1/rollouts/{rollout.id}/orders", json=body)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "WT_REQUEST")


def test_the_same_key_is_the_same_order(service: RegistryClient, person_client: RegistryClient, rollout: Any) -> None:
    first = person_client.order(rollout.id, "pause", "why", key="k1")
    assert person_client.order(rollout.id, "pause", "why", key="k1") == first
    with pytest.raises(RefusedError) as other:
        person_client.order(rollout.id, "abort", "why", key="k1")
    assert other.value.code == "WT_KEY"
    assert [o.seq for o in service.rollout(rollout.id).orders] == [first.seq]
    # Also after another order made the first one senseless: who sends again was not told, no more.
    person_client.order(rollout.id, "resume", "on")
    assert person_client.order(rollout.id, "pause", "why", key="k1") == first


def test_ten_people_pause_at_once_and_one_order_stands(person_client: RegistryClient, rollout: Any) -> None:
    outcomes: list[str] = []

    def pause() -> None:
        try:
            person_client.order(rollout.id, "pause", "why")
            outcomes.append("taken")
        except RefusedError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=pause) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["WT_ORDER"] * 9 + ["taken"]


@pytest.mark.parametrize("state", ["rolled_back", "withdrawn"])
def test_an_ended_rollout_takes_no_order(
    service: RegistryClient, person_client: RegistryClient, rollout: Any, state: str
) -> None:
    service.update_rollout(rollout.id, rollout.token, state=state, reason="harm")
    for kind in ("pause", "resume", "skip", "promote", "abort"):
        with pytest.raises(RefusedError) as refused:
            person_client.order(rollout.id, kind, "too late")  # type: ignore[arg-type]
        assert refused.value.code == "WT_ENDED"


def test_a_told_abort_closes_the_rollout_here_too(service: RegistryClient, rollout: Any) -> None:
    """DEMAND ROL-6: traffic was moved while the registry was down; told later, both agree, once."""
    when = time.time() - 1
    told = service.order(rollout.id, "abort", "complaints", on_behalf_of="ann", done_at=when, key="n1")
    assert told.done_at == when
    found = service.rollout(rollout.id)
    assert (found.state, found.weight) == ("rolled_back", 0)
    assert "ann" in str(found.reason) and "complaints" in str(found.reason)
    assert service.version(rollout.model, rollout.version).state == "rolled_back"
    assert service.order(rollout.id, "abort", "complaints", on_behalf_of="ann", done_at=when, key="n1") == told
    # The release's own rollback, coming later, finds what it wanted to write.
    again = service.update_rollout(rollout.id, rollout.token, state="rolled_back", weight=0, reason="its gate says so")
    assert again.state == "rolled_back"


def test_a_told_abort_of_a_promoted_version_is_refused(service: RegistryClient, helpers: Any, hands: Any) -> None:
    name = hands.model()
    record = helpers.crown(service, hands, name)
    (over,) = service.rollouts(name)
    with pytest.raises(RefusedError, match="withdraw") as refused:
        service.order(over.id, "abort", "late", on_behalf_of="ann", done_at=time.time())
    assert refused.value.code == "WT_ENDED"
    assert service.champion(name).version == record.version  # type: ignore[union-attr]


FIRST = {"first": True, "steps": [{"weight": 100, "hold_s": 600.0}], "patience_s": None, "owner": "team-blue"}


@pytest.fixture
def first(service: RegistryClient, hands: Any, helpers: Any, model: str) -> Any:
    """A first release that is champion already, and watched."""
    record = helpers.enter(service, hands, model)
    helpers.judge(service, record, "data-check", "evaluation")
    opened = service.open_rollout(model, record.version, plan=FIRST, holder="h", correlation_id="c1")
    service.promote(opened.id, opened.token, None)
    return service.rollout(opened.id)


def test_a_first_release_takes_orders_while_it_is_watched(
    service: RegistryClient, person_client: RegistryClient, first: Any
) -> None:
    """DEMAND ROL-8, ROL-10: pause, resume and abort reach its gate; what makes no sense says what to do instead."""
    assert (first.state, first.watching, first.live, first.ended) == ("promoted", True, True, True)
    assert person_client.order(first.id, "pause", "call centre").kind == "pause"
    assert person_client.order(first.id, "resume", "they are back").kind == "resume"
    for bold in ("skip", "promote"):
        with pytest.raises(RefusedError, match="first release") as refused:
            person_client.order(first.id, bold, "now")  # type: ignore[arg-type]
        assert refused.value.code == "WT_ORDER" and "abort takes the version back" in str(refused.value)
    person_client.order(first.id, "abort", "complaints")
    found = standing(order for order in service.orders().orders if order.rollout_id == first.id)
    assert found.abort is not None and found.paused is None, "its gate is told"


def test_no_other_rollout_begins_while_a_first_release_is_watched(
    service: RegistryClient, hands: Any, helpers: Any, first: Any
) -> None:
    later = helpers.enter(service, hands, first.model)
    with pytest.raises(RefusedError, match="still being watched") as refused:
        service.open_rollout(first.model, later.version, plan=PLAN, holder="h2", correlation_id="c2")
    assert refused.value.code == "WT_FIRST_WATCH"
    over = service.update_rollout(first.id, first.token, state="promoted")
    assert (over.state, over.watching) == ("promoted", False)
    with pytest.raises(RefusedError) as ended:
        service.order(first.id, "abort", "too late", on_behalf_of="ann")
    assert ended.value.code == "WT_ENDED"
    opened = service.open_rollout(first.model, later.version, plan=PLAN, holder="h2", correlation_id="c2")
    assert opened.champion == first.version


def test_a_told_abort_withdraws_a_watched_first_release(service: RegistryClient, first: Any) -> None:
    """DEMAND ROL-10: what was done beside the traffic is done here, too: no alias, and the reason is kept."""
    told = {"key": "k", "on_behalf_of": "ann", "done_at": time.time()}
    place = service._call("GET", "/events")["next"]
    service.order(first.id, "abort", "complaints", **told)
    found = service.rollout(first.id)
    assert (found.state, found.watching, found.weight) == ("withdrawn", False, 0)
    news = service._call("GET", "/events", params={"after": place, "kind": "champion"})["events"]
    assert [(one["action"], one["model"]) for one in news] == [("order-abort", first.model)], "who waits for it hears"
    assert found.reason == "aborted by ann: complaints"
    assert service.champion(first.model) is None
    assert service.version(first.model, first.version).state == "withdrawn"
    assert service.update_rollout(first.id, first.token, state="withdrawn").state == "withdrawn", (
        "its release may say so"
    )
    assert ("service", "order-abort", "done", None) in trail(service, first.model)


def test_withdrawing_ends_the_watch_with_its_reason(service: RegistryClient, first: Any) -> None:
    service.withdraw(first.model, first.version, "errors: 12 % of 300 requests")
    found = service.rollout(first.id)
    assert (found.state, found.watching, found.reason) == ("withdrawn", False, "errors: 12 % of 300 requests")


def test_one_question_for_all_rollouts(service: RegistryClient, person_client: RegistryClient, rollout: Any) -> None:
    before = service.orders()
    assert all(order.rollout_id != rollout.id for order in before.orders)
    first = person_client.order(rollout.id, "pause", "why")
    page = service.orders(before.seq)
    assert [order.seq for order in page.orders] == [first.seq] and page.seq == first.seq
    assert service.orders(page.seq).orders == ()
    # Who starts anew gets what stands for open rollouts, and nothing of ended ones.
    assert first in service.orders().orders
    service.update_rollout(rollout.id, rollout.token, state="rolled_back")
    assert first not in service.orders().orders
    assert service.orders().seq >= first.seq


@pytest.mark.parametrize("bold", ["skip", "promote"])
def test_a_persons_order_stands_in_for_proof_but_not_for_harm(
    service: RegistryClient, person_client: RegistryClient, rollout: Any, helpers: Any, bold: Any
) -> None:
    """By default policy wants a PASS; where a person ordered to go on INCONCLUSIVE is enough, FAIL never."""
    record = service.version(rollout.model, rollout.version)
    helpers.judge(service, record, "data-check", "evaluation")
    helpers.judge(service, record, "rollout", outcome=Outcome.INCONCLUSIVE)
    service.update_rollout(rollout.id, rollout.token, state="promoting")
    before = service.explain(rollout.model, rollout.version)
    assert not before.allowed and "rollout" in before.missing[0]
    service.update_rollout(rollout.id, rollout.token, state="running")
    person_client.order(rollout.id, bold, "the board waits")
    assert service.explain(rollout.model, rollout.version).allowed
    helpers.judge(service, record, "rollout", outcome=Outcome.FAIL)
    with pytest.raises(RefusedError) as refused:
        service.promote(rollout.id, rollout.token, rollout.champion)
    assert refused.value.code == "WT_POLICY"
    helpers.judge(service, record, "rollout", outcome=Outcome.INCONCLUSIVE, reason="looked again")
    assert service.promote(rollout.id, rollout.token, rollout.champion).state == "champion"


# -- freezes


@pytest.fixture(autouse=True)
def thawed(admin: RegistryClient) -> Iterator[None]:
    yield
    for freeze in admin.freezes():
        admin.thaw(freeze.id, "end of the test")


@pytest.mark.parametrize("scope", ["all", "owner", "model"])
def test_a_freeze_holds_what_it_names(
    admin: RegistryClient, person_client: RegistryClient, service: RegistryClient, rollout: Any, scope: Any
) -> None:
    """DEMAND ROL-6"""
    target = {"all": None, "owner": "team-blue", "model": rollout.model}[scope]
    freeze = admin.freeze("fire drill", scope=scope, target=target)
    assert rollout.model in freeze.models
    (shown,) = service.rollout(rollout.id).frozen
    assert "frozen by admin: fire drill" in shown
    assert service.orders(10**9).freezes == (freeze,)
    for kind in ("skip", "promote"):
        with pytest.raises(RefusedError, match="fire drill") as refused:
            person_client.order(rollout.id, kind, "hurry")  # type: ignore[arg-type]
        assert refused.value.code == "WT_FROZEN"
    with pytest.raises(RefusedError, match="frozen already"):
        admin.freeze("twice", scope=scope, target=target)
    person_client.order(rollout.id, "abort", "the way back stays open")
    over = admin.thaw(freeze.id, "drill is over")
    assert (over.lifted_by, over.lifted_reason) == ("admin", "drill is over")
    assert service.orders().freezes == () and service.rollout(rollout.id).frozen == ()
    with pytest.raises(RefusedError, match="no such freeze stands"):
        admin.thaw(freeze.id, "again")
    chain = rollout.model if scope == "model" else ""
    rows = [row for row in reversed(service.audit(chain or None, 1000)) if row.model == chain]
    mine = [row for row in rows if row.detail.get("freeze") == freeze.id]
    assert [(row.action, row.outcome) for row in mine] == [("freeze", "done"), ("thaw", "done"), ("thaw", "refused")]


def test_another_owners_or_models_freeze_holds_nothing_here(
    admin: RegistryClient, person_client: RegistryClient, rollout: Any, hands: Any
) -> None:
    admin.freeze("theirs", scope="owner", target="team-red")
    admin.freeze("that one", scope="model", target=hands.model())
    assert person_client.order(rollout.id, "skip", "not frozen").kind == "skip"


def test_who_may_freeze(
    service: RegistryClient, person_client: RegistryClient, reader: RegistryClient, admin: RegistryClient, model: str
) -> None:
    for client in (person_client, reader, service):
        with pytest.raises(RefusedError) as refused:
            client.freeze("why")
        assert refused.value.code == "WT_ROLE"
    with pytest.raises(RefusedError):
        reader.freeze("why", scope="model", target=model)
    mine = person_client.freeze("my own model", scope="model", target=model)
    with pytest.raises(RefusedError):
        reader.thaw(mine.id, "why")
    person_client.thaw(mine.id, "enough")
    claimed = service.freeze("an alarm", on_behalf_of="the monitor")
    assert (claimed.by, claimed.claimed) == ("the monitor", True)
    with pytest.raises(RefusedError, match="takes a person"):
        service.thaw(claimed.id, "false alarm")
    with pytest.raises(RegistryError, match="expected a reason"):
        admin.thaw(claimed.id, "")
    with pytest.raises(NotFoundError):
        admin.freeze("a typing error", scope="model", target="no-such-model")
    with pytest.raises(NotFoundError):
        admin.thaw("nope", "why")


# -- approved in Airflow


class _Airflow(BaseHTTPRequestHandler):
    """Airflow's wire: a log-in, and one human-in-the-loop task."""

    detail: dict[str, Any] = {}  # noqa: RUF012

    def do_POST(self) -> None:
        self._say({"access_token": "t0ken"})

    def do_GET(self) -> None:
        wanted = "/api/v2/dags/windtunnel.control/dagRuns/run%201/taskInstances/approve/-1/hitlDetails"
        good = self.headers["Authorization"] == "Bearer t0ken" and self.path == wanted
        self._say(self.detail if good else {}, 200 if good else 404)

    def _say(self, plain: Any, status: int = 200) -> None:
        body = json.dumps(plain).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def test_an_approval_in_airflow_is_read_from_airflow_itself(
    registry_server: Any, service: RegistryClient, rollout: Any
) -> None:
    """DEMAND ROL-8: a worker's credential with a person's answer, which the registry looks up."""
    from windtunnel.registry.orders import question, thaw_question

    server = HTTPServer(("127.0.0.1", 0), _Airflow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = registry_server.home
    urls = {"airflow": f"http://127.0.0.1:{server.server_port}", "mlflow": registry_server.url}
    home.stack_file.write_text(json.dumps({"home": str(home.root), "ports": {}, "urls": urls, "python": {}}))
    secret = home.secrets / "airflow-admin"
    secret.touch(mode=0o600)
    secret.write_text("pw")
    task = {"dag_id": "windtunnel.control", "dag_run_id": "run 1", "task_id": "approve", "map_index": -1}
    freeze = service.freeze("an alarm", scope="model", target=rollout.model, on_behalf_of="airflow:bob")
    try:
        _Airflow.detail = {"subject": thaw_question(replace(freeze, id="other")), "chosen_options": ["Approve"]}
        _Airflow.detail["responded_by_user"] = {"id": "7", "name": "ann"}
        with pytest.raises(RefusedError, match="the question was"):  # a yes to lifting another freeze
            service.thaw(freeze.id, "a false one", answer=task)
        _Airflow.detail["subject"] = thaw_question(freeze)
        assert freeze.id in thaw_question(freeze) and "an alarm" in thaw_question(freeze)
        lifted = service.thaw(freeze.id, "a false one", answer=task)
        assert (lifted.lifted_by, lifted.lifted_reason) == ("airflow:ann", "a false one")
        _Airflow.detail = {
            "subject": question("skip", rollout.model, rollout.version, rollout.id, 0),
            "chosen_options": ["Approve"],
            "responded_by_user": None,
        }
        with pytest.raises(RefusedError, match="no person answered") as refused:
            service.order(rollout.id, "skip", "seen enough", step=0, answer=task)
        assert refused.value.code == "WT_ANSWER"
        _Airflow.detail["responded_by_user"] = {"id": "7", "name": "ann"}
        with pytest.raises(RefusedError, match="the question was"):
            service.order(rollout.id, "promote", "seen enough", answer=task)
        taken = service.order(rollout.id, "skip", "seen enough", step=0, answer=task)
        assert (taken.by, taken.actor, taken.via, taken.claimed) == ("airflow:ann", "service", "airflow", False)
        with pytest.raises(RefusedError, match="ordered already"):
            service.order(rollout.id, "skip", "the same yes again", step=0, answer=task)
    finally:
        server.shutdown()
        server.server_close()
        home.stack_file.unlink()
        secret.unlink()
    assert trail(service, rollout.model) == [
        ("service", "freeze", "done", None),
        ("service", "thaw", "refused", "WT_ANSWER"),
        ("service", "thaw", "done", None),
        ("service", "order-skip", "refused", "WT_ANSWER"),
        ("service", "order-promote", "refused", "WT_ANSWER"),
        ("service", "order-skip", "done", None),
        ("service", "order-skip", "refused", "WT_ORDER"),
    ]
