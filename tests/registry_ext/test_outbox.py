"""The outbox (DEMAND PIP-6): every change has its events, in order; a reader who keeps its place misses none."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, update
from sqlalchemy.orm import Session

from windtunnel_mlflow import tables
from windtunnel_mlflow.ledger import outbox
from windtunnel_mlflow.migrate import upgrade


@pytest.fixture
def session(tmp_path: Path) -> Any:
    engine = create_engine(f"sqlite:///{tmp_path / 'one.db'}")
    upgrade(engine)
    with Session(engine) as found:
        yield found


def tell(session: Session, action: str = "tag-model", model: str = "sea", **more: Any) -> None:
    said = {"actor": "ada", "version": None, "detail": {}, "correlation_id": None, **more}
    outbox.write(session, action=action, model=model, **said)


@pytest.mark.parametrize(
    ("action", "detail", "kinds"),
    [
        ("seal", {}, ["version"]),
        ("set-alias", {"alias": "blue"}, ["alias"]),
        ("set-alias", {"alias": "champion", "champion": "3"}, ["alias", "champion", "stage"]),
        ("transition-stage", {"stage": "Production", "champion": "3"}, ["stage", "champion", "alias"]),
        ("promote", {"champion": "3"}, ["rollout", "champion", "alias", "stage"]),
        ("withdraw", {"was_champion": True}, ["withdrawn", "champion", "alias", "stage"]),
        ("withdraw", {}, ["withdrawn"]),
        ("something-new", {}, ["other"]),
    ],
)
def test_what_a_change_is_news_of(action: str, detail: dict[str, Any], kinds: list[str]) -> None:
    assert outbox.kinds(action, detail) == kinds
    assert {*kinds} <= {*outbox.KINDS}


def test_a_reader_gets_each_event_once_in_order(session: Session) -> None:
    for number in range(7):
        tell(session, version=str(number))
    seen: list[str] = []
    after = 0
    while True:
        page = outbox.read(session, after, 3)
        assert page["lost"] is False
        if not page["events"]:
            break
        seen += [event["version"] for event in page["events"]]
        after = page["next"]
    assert seen == [str(number) for number in range(7)]
    assert outbox.read(session, None, 3) == {"events": [], "next": after, "lost": False}


def test_an_event_says_why_and_of_which_story(session: Session) -> None:
    tell(session, "withdraw", version="3", detail={"reason": "smells"}, correlation_id="c1")
    tell(session)
    first, second = outbox.read(session, 0, 10)["events"]
    assert (first["cause"], first["correlation_id"], first["actor"]) == ("withdraw by ada: smells", "c1", "ada")
    assert len(second["correlation_id"]) == 32
    assert first["id"] != second["id"]


def test_old_events_go_and_a_reader_who_slept_is_told(session: Session) -> None:
    for _ in range(6):
        tell(session)
    now = time.time()
    session.execute(update(tables.outbox).where(tables.outbox.c.seq <= 4).values(at=now - 100))
    assert outbox.prune(session, now, kept=50) == 4
    assert outbox.prune(session, now, kept=50) == 0
    # The newest stays whatever its age: the numbers go on from it.
    assert outbox.prune(session, now + 1000, kept=50) == 1
    assert [event["seq"] for event in outbox.read(session, 2, 10)["events"]] == [6]
    assert outbox.read(session, 2, 10)["lost"] is True
    assert outbox.read(session, 5, 10)["lost"] is False
    assert outbox.read(session, 0, 10)["lost"] is False
    # A place of another database: start from here.
    assert outbox.read(session, 99, 10) == {"events": [], "next": 6, "lost": True}


@pytest.mark.real
def test_every_client_leaves_its_events(service: Any, hands: Any, helpers: Any, registry_server: Any) -> None:
    """DEMAND PIP-6: MLflow's own API, ours, and the sealer's thread; a refused change leaves none."""
    start = service._call("GET", "/events")["next"]
    model = hands.model()
    helpers.crown(service, hands, model)
    body = {"name": model, "alias": "blue", "version": "1"}
    with registry_server.rest("admin") as person:
        assert person.post("/api/2.0/mlflow/registered-models/alias", json=body).status_code == 200
    refused = hands.http.request("DELETE", "/api/2.0/mlflow/registered-models/delete", json={"name": model})
    assert refused.status_code == 403
    found = service._call("GET", "/events", params={"after": start, "model": model})
    kinds = [event["kind"] for event in found["events"]]
    assert kinds[:3] == ["model", "registered", "version"]
    assert kinds[-4:] == ["champion", "alias", "stage", "alias"]
    champion, *_, blue = found["events"][-4:]
    record = service.champion(model)
    assert (champion["version"], champion["digest"], champion["correlation_id"]) == ("1", record.digest, "c1")
    assert (blue["alias"], blue["actor"]) == ("blue", "admin")
    only = service._call("GET", "/events", params={"after": start, "model": model, "kind": "champion,version"})
    assert [event["kind"] for event in only["events"]] == ["version", "champion"]
    assert only["next"] == found["next"]
    assert hands.http.get("/api/windtunnel/v1/events", params={"kind": "nonsense"}).status_code == 400
    assert hands.http.get("/api/windtunnel/v1/events", params={"after": "x"}).status_code == 400
