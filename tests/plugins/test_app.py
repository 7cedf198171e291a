"""DEMAND OPS-6: Airflow mounts a plugin's app open, so every route of ours must ask for a user."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakeseldon
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from waiting import until

from windtunnel.errors import UnavailableError
from windtunnel.evidence import Kind, Outcome, Verdict
from windtunnel.home import Home
from windtunnel.registry.orders import FreezeRecord, OrderRecord, OrdersPage
from windtunnel.registry.records import Explanation, ModelSummary, PostedVerdict, RolloutRecord, VersionRecord
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.place import in_cluster
from windtunnel.serving.release.looklog import LookLog
from windtunnel.serving.seldon import Seldon
from windtunnel_ui.cluster import FRESH_S, RELOAD_S, Cluster, Connected, Told, settings
from windtunnel_ui.source import looks


@pytest.fixture
def app():
    from windtunnel_ui.app import create_app

    return create_app()


def test_every_route_asks_for_a_user(app) -> None:
    client = TestClient(app, raise_server_exceptions=False)
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    assert {route.path for route in routes} == {"/models", "/api/models", "/reports/{address:path}"}
    for route in app.routes:
        for method in getattr(route, "methods", None) or {"GET"}:
            assert client.request(method, route.path).status_code == 401, route.path


@pytest.fixture
def signed_in(app, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    from airflow.api_fastapi.core_api.security import get_user

    app.dependency_overrides[get_user] = lambda: SimpleNamespace(get_name=lambda: "ann")
    monkeypatch.setattr("windtunnel_ui.app.may_see", lambda user, model: model != "secret")
    monkeypatch.setattr("windtunnel_ui.app.may_order", lambda user: False)
    return TestClient(app)


def summary(name: str, **how: Any) -> ModelSummary:
    return ModelSummary(**({"name": name, "champion": None, "rollout": None, "verdicts": {}, "versions": 1} | how))


CHAMPION = VersionRecord("visits", "2", "1.1.0", "READY", "champion", "runs:/a/model", 0.0)
ROLLOUT = RolloutRecord("r1", "visits", "3", "2", 4, "airflow", "running", 0.0, 0.0, weight=25)
DRIFT = Verdict("visits", Kind.DRIFT, Outcome.FAIL, "lncoins moved by 0.54 <b>", "sha256:aa", created_at=1.0)


def serve(monkeypatch: pytest.MonkeyPatch, summaries: list[ModelSummary], page: OrdersPage | None = None) -> None:
    orders = page or OrdersPage(0, (), ())
    monkeypatch.setattr(
        "windtunnel_ui.app.registry", lambda: SimpleNamespace(models=lambda: summaries, orders=lambda: orders)
    )


def test_the_page_shows_champion_rollout_and_drift(signed_in: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = {"drift": PostedVerdict("v1", False, 1, DRIFT)}
    serve(monkeypatch, [summary("visits", champion=CHAMPION, rollout=ROLLOUT, verdicts=verdicts)])
    page = signed_in.get("/models").text
    for text in ("visits", "1.1.0", "version 3 at 25 %", "FAIL", "lncoins moved by 0.54 &lt;b&gt;"):
        assert text in page


def test_a_running_rollout_says_its_step_who_holds_it_and_what_was_decided(
    signed_in: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """DEMAND ROL-8: seen in the UI, too."""
    monkeypatch.setenv("WINDTUNNEL_HOME", str(tmp_path))
    log = LookLog(Home(tmp_path), "visits")
    log.append({"rollout_id": "r1", "at": 1.0, "decision": {"action": "hold", "reason": "errors 0.1 % <of> 900"}})
    plan = {"steps": [{"weight": 5}, {"weight": 25}, {"weight": 50}], "owner": "team-blue"}
    rollout = replace(ROLLOUT, step=1, plan=plan)
    orders = (
        OrderRecord(1, "r1", "visits", "3", "pause", "call centre <i>", "ann", 1.0),
        OrderRecord(2, "r2", "other", "3", "abort", "not this one", "ann", 1.0),
    )
    freezes = (
        FreezeRecord("f", "owner", "team-blue", "black friday", "bob", 1.0),
        FreezeRecord("g", "model", "other", "elsewhere", "bob", 1.0),
    )
    serve(monkeypatch, [summary("visits", champion=CHAMPION, rollout=rollout)], OrdersPage(2, orders, freezes))
    page = signed_in.get("/models").text
    for text in (
        "version 3 at 25 %", "step 2 of 3", "paused by ann: call centre &lt;i&gt;", "black friday",
        "errors 0.1 % &lt;of&gt; 900",
    ):  # fmt: skip
        assert text in page, page
    assert "not this one" not in page and "elsewhere" not in page
    row = signed_in.get("/api/models").json()["models"][0]
    assert (row["rollout_step"], len(row["rollout_held"])) == ("step 2 of 3", 2)


def test_a_release_that_has_not_begun_says_what_it_waits_for(
    signed_in: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = replace(ROLLOUT, weight=None)
    missing = ("1 approval by approver (nobody did; <b>bob</b> withdrew it)",)
    lines = ({"code": "approvals", "met": False, "text": missing[0], "subject": None},)
    found = Explanation(False, missing, {}, requirements=lines)
    client = SimpleNamespace(
        models=lambda: [summary("visits", champion=CHAMPION, rollout=waiting)],
        orders=lambda: OrdersPage(0, (), ()),
        explain=lambda model, version: found,
    )
    monkeypatch.setattr("windtunnel_ui.app.registry", lambda: client)
    page = signed_in.get("/models").text
    assert "waits for: 1 approval by approver (nobody did; &lt;b&gt;bob&lt;/b&gt; withdrew it)" in page


def test_a_model_one_may_not_see_is_not_there(signed_in: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, [summary("secret"), summary("open")])
    assert [m["name"] for m in signed_in.get("/api/models").json()["models"]] == ["open"]


def test_a_registry_that_is_down_is_said_not_hidden(signed_in: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def down() -> None:
        raise UnavailableError("MLflow does not answer", hint="look at 'windtunnel status'")

    monkeypatch.setattr("windtunnel_ui.app.registry", down)
    answer = signed_in.get("/models")
    assert answer.status_code == 503
    assert "MLflow does not answer" in answer.text
    assert signed_in.get("/api/models").status_code == 503


def test_an_ended_rollout_is_not_running(signed_in: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    over = replace(ROLLOUT, state="promoted", version="2", ended_at=60.0)
    serve(monkeypatch, [summary("visits", champion=CHAMPION, rollout=over)])
    row = signed_in.get("/api/models").json()["models"][0]
    assert row["rollout"] is None
    assert row["champion_since"] == "1970-01-01 00:01 UTC"


def live(**how: Any) -> RolloutRecord:
    return replace(ROLLOUT, **how)


FROZEN = FreezeRecord("f1", "model", "visits", "audit", "bob", 1.0)


@pytest.mark.parametrize(
    ("rollout", "page", "offered"),
    [
        (live(), OrdersPage(0, (), ()), ["pause", "skip", "promote", "abort", "freeze"]),
        (live(), OrdersPage(1, (OrderRecord(1, "r1", "visits", "3", "pause", "x", "a", 1.0),), ()),
         ["resume", "abort", "freeze"]),
        (live(), OrdersPage(0, (), (FROZEN,)), ["pause", "abort", "thaw"]),
        (live(), OrdersPage(1, (OrderRecord(1, "r1", "visits", "3", "abort", "x", "a", 1.0),), ()), []),
        (live(state="promoted", watching=True, champion=None), OrdersPage(0, (), ()), ["pause", "abort", "freeze"]),
        (live(state="promoted"), OrdersPage(0, (), ()), []),
    ],
)  # fmt: skip
def test_a_running_release_offers_what_may_be_ordered_now(
    signed_in: TestClient, monkeypatch: pytest.MonkeyPatch, rollout: RolloutRecord, page: OrdersPage, offered: list[str]
) -> None:
    """DEMAND ROL-8: a button is a run of ``windtunnel.control``; nobody who may not trigger it sees one."""
    serve(monkeypatch, [summary("visits", champion=CHAMPION, rollout=rollout)], page)
    monkeypatch.setattr("windtunnel_ui.app.may_order", lambda user: True)
    assert signed_in.get("/api/models").json()["models"][0]["actions"] == offered
    html = signed_in.get("/models").text
    assert [order for order in ("pause", "resume", "skip", "promote", "abort", "freeze", "thaw")
            if f'data-order="{order}"' in html] == sorted(offered, key=[
                "pause", "resume", "skip", "promote", "abort", "freeze", "thaw"].index)  # fmt: skip
    monkeypatch.setattr("windtunnel_ui.app.may_order", lambda user: False)
    assert signed_in.get("/api/models").json()["models"][0]["actions"] == []
    assert 'data-order="' not in signed_in.get("/models").text


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WINDTUNNEL_HOME", str(tmp_path))
    for model in ("open", "secret"):
        folder = tmp_path / "monitoring" / model / "reports"
        folder.mkdir(parents=True)
        (folder / "a.html").write_text(f"<p>drift of {model}</p>")
    (tmp_path / "monitoring" / "open" / "rows.parquet").write_bytes(b"x")
    (tmp_path / "monitoring" / "open" / "link.html").symlink_to(tmp_path / "secrets.html")
    (tmp_path / "secrets.html").write_text("secret")
    (tmp_path / "pipelines" / "open.train" / "runs").mkdir(parents=True)
    (tmp_path / "pipelines" / "open.train" / "runs" / "check.json").write_text("{}")
    return tmp_path


def test_a_report_is_shown_in_a_sandbox(signed_in: TestClient, home: Path) -> None:
    answer = signed_in.get("/reports/monitoring/open/reports/a.html")
    assert (answer.status_code, answer.text) == (200, "<p>drift of open</p>")
    assert answer.headers["content-security-policy"] == "sandbox allow-scripts"
    assert signed_in.get("/reports/pipelines/open.train/runs/check.json").status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        "monitoring/secret/reports/a.html",
        "monitoring/open/rows.parquet",
        "monitoring/open/link.html",
        "monitoring/open/none.html",
        "monitoring/open/../../secrets.html",
        "monitoring/open/%2e%2e/%2e%2e/secrets.html",
        "secrets/mlflow-admin",
        "pipelines/../secrets.html",
        "/etc/passwd",
    ],
)
def test_nothing_else_is(signed_in: TestClient, home: Path, address: str) -> None:
    assert signed_in.get(f"/reports/{address}").status_code == 404


@pytest.fixture
def clustered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """An API with two models on Seldon, release ``r1`` of ``visits`` looked at, and the connection to it."""
    with fakeseldon.cluster() as cluster, fakeseldon.Seldon(cluster, after_s=0.0) as seldon:
        extra = {"image": "i", "registry": "r", "kubeconfig": cluster.kubeconfig(tmp_path / "c"), "context": ""}
        connection = {"conn_type": "windtunnel_seldon", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_TEAM_SELDON", json.dumps(connection))
        ours = {"conn_type": "windtunnel", "host": "h", "extra": {"seldon_conn_id": "team_seldon"}}
        monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(ours))
        monkeypatch.setenv("WINDTUNNEL_HOME", str(tmp_path / "home"))
        place = in_cluster(Seldon.of_form({**extra, "poll_s": 0.01}))
        for model in ("visits", "other"):
            champion = Arm("1", "sha256:a", f"models:/{model}/1", 100)
            place.backend.apply(Release(model, champion, token=1, rollout_id=f"r-{model}"))
        state = {"step": 0, "candidate": "1", "champion": None}
        decision = {"action": "hold", "outcome": "INCONCLUSIVE", "row": "x", "reason": "200 of <900> requests"}
        look = {"rollout_id": "r1", "token": 1, "at": 1.0, "decision": {**decision, "state": state}}
        place.looks("visits").append(look)
        yield cluster, seldon


def test_the_last_look_of_a_model_in_a_cluster_comes_by_one_list(
    signed_in: TestClient, monkeypatch: pytest.MonkeyPatch, clustered: Any
) -> None:
    """DEMAND ROL-8, PIP-5: one request for all models, none while what was told is fresh."""
    cluster, _ = clustered
    now = [0.0]
    clock = partial(now.__getitem__, 0)
    known = Cluster(Connected(settings, monotonic=clock), wait_s=30.0, monotonic=clock)
    monkeypatch.setattr("windtunnel_ui.app.looks", partial(looks, cluster=known))
    another = replace(ROLLOUT, id="r2", model="other")
    serve(monkeypatch, [summary("visits", rollout=ROLLOUT), summary("other", rollout=another)])
    began = len(cluster.requests)
    assert "200 of &lt;900&gt; requests" in signed_in.get("/models").text
    rows = {row["name"]: row for row in signed_in.get("/api/models").json()["models"]}
    assert (rows["visits"]["rollout_said"], rows["visits"]["rollout_unsaid"]) == ("200 of <900> requests", None)
    assert (rows["other"]["rollout_said"], rows["other"]["rollout_unsaid"]) == (None, None)
    assert [str(one).rpartition("/")[2] for one in cluster.requests[began:]] == ["seldondeployments"]
    now[0] += FRESH_S
    signed_in.get("/models")
    assert len(cluster.requests) == began + 2
    # The connection is looked up again after a while; then it may say something else.
    monkeypatch.setenv("AIRFLOW_CONN_TEAM_SELDON", json.dumps({"conn_type": "windtunnel_seldon", "extra": {"a": 1}}))
    now[0] += FRESH_S
    assert "unknown a" not in signed_in.get("/models").text
    now[0] += RELOAD_S
    assert "seldon: unknown a" in signed_in.get("/models").text


def test_a_cluster_that_does_not_answer_is_said_and_the_page_stays(
    signed_in: TestClient, monkeypatch: pytest.MonkeyPatch, clustered: Any
) -> None:
    cluster, _ = clustered
    cluster.denied.append("GET .*/seldondeployments")
    known = Cluster(Connected(settings), wait_s=30.0)
    monkeypatch.setattr("windtunnel_ui.app.looks", partial(looks, cluster=known))
    serve(monkeypatch, [summary("visits", champion=CHAMPION, rollout=ROLLOUT)])
    page = signed_in.get("/models")
    assert page.status_code == 200 and "its last look is not known: " in page.text and "version 3 at 25 %" in page.text
    began = len(cluster.requests)
    signed_in.get("/models")
    assert len(cluster.requests) == began, "what was refused is not asked again at once"


def test_a_page_waits_for_no_cluster(tmp_path: Path) -> None:
    """One question at a time, whoever asks; what comes later is there for the next page."""
    go, asked = threading.Event(), []

    def slow() -> Told:
        asked.append(1)
        go.wait(60)
        return Told({"r1": "fine"})

    known, home = Cluster(slow, wait_s=0.0), Home(tmp_path)
    for _ in range(3):
        assert looks(home, [ROLLOUT], known).unsaid == {
            "r1": "its last look is not known: the cluster has not answered yet"
        }
    go.set()
    until(lambda: looks(home, [ROLLOUT], known).said == {"r1": "fine"})
    assert len(asked) == 1
    # What has no traffic, or is served by this home, is no matter of the cluster's.
    assert looks(home, [replace(ROLLOUT, weight=None)], known).said == {}
    home.serving_model("visits").mkdir(parents=True)
    (home.serving_model("visits") / "desired.json").write_text("{}")
    assert looks(home, [ROLLOUT], known).said == {}


@pytest.mark.parametrize("error", [UnavailableError("the API does not answer"), RuntimeError("secret words")])
def test_whatever_goes_wrong_with_the_cluster_is_no_error_of_the_page(tmp_path: Path, error: Exception) -> None:
    def broken() -> Told:
        raise error

    found = looks(Home(tmp_path), [ROLLOUT], Cluster(broken, wait_s=30.0))
    assert found.said == {} and "secret words" not in found.unsaid["r1"]
    assert ("the API does not answer" in found.unsaid["r1"]) == isinstance(error, UnavailableError)


def test_without_a_connection_there_is_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.exceptions import AirflowNotFoundException
    from airflow.models.connection import Connection

    def none(conn_id: str) -> Any:
        raise AirflowNotFoundException(conn_id)

    monkeypatch.setattr(Connection, "get_connection_from_secrets", none)
    assert Cluster(Connected(settings), wait_s=30.0).told() is None
