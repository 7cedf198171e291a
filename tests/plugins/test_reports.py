"""Reports that a cluster's workers put into the object store are shown as those of a home, to the same readers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from windtunnel.data.objects import FolderObjects
from windtunnel.loopback import any_free

#: Outputs of the data check of a run, as Airflow names runs.
CHECK = "pipelines/open.train/runs/manual__2026-11-22T07:00:00+00:00/steps/check/outputs"


@pytest.fixture
def signed_in(monkeypatch: pytest.MonkeyPatch) -> TestClient:
    from airflow.api_fastapi.core_api.security import get_user

    from windtunnel_ui.app import create_app

    app = create_app()
    app.dependency_overrides[get_user] = lambda: SimpleNamespace(get_name=lambda: "ann")
    monkeypatch.setattr("windtunnel_ui.app.may_see", lambda user, model: model != "secret")
    return TestClient(app)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WINDTUNNEL_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> FolderObjects:
    """The object store that the connection names."""
    store = FolderObjects(home / "store")
    given = {"conn_type": "windtunnel", "host": "http://127.0.0.1:9", "extra": {"store": store.url}}
    monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(given))
    store.put_bytes("monitoring/open/windows/1-2-v1/report.html", b"<p>of a cluster</p>")
    store.put_bytes("monitoring/open/windows/1-2-v1/rows.parquet", b"x")
    store.put_bytes("monitoring/secret/windows/1-2-v1/report.html", b"x")
    store.put_bytes("runs/open/log.txt", b"x")
    store.put_bytes(f"{CHECK}/data-check/data-check.html", b"<p>checked</p>")
    store.put_bytes(f"{CHECK}/rows/notes.html", b"x")
    return store


def test_a_report_of_a_cluster_comes_from_the_store(signed_in: TestClient, kept: FolderObjects) -> None:
    answer = signed_in.get("/reports/monitoring/open/windows/1-2-v1/report.html")
    assert (answer.status_code, answer.text) == (200, "<p>of a cluster</p>")
    assert answer.headers["content-security-policy"] == "sandbox allow-scripts"
    assert signed_in.get(f"/reports/{quote(CHECK)}/data-check/data-check.html").text == "<p>checked</p>"
    for address in (
        f"{quote(CHECK)}/rows/notes.html",
        quote(CHECK.replace("open", "secret")) + "/data-check/data-check.html",
        "monitoring/open/windows/1-2-v1/rows.parquet",
        "monitoring/secret/windows/1-2-v1/report.html",
        "monitoring/open/windows/1-2-v1/none.html",
        "monitoring/open/%2e%2e/secret/windows/1-2-v1/report.html",
        "monitoring/open//windows/1-2-v1/report.html",
        "runs/open/log.txt",
        "pipelines/open.train/runs/none.json",
    ):
        assert signed_in.get(f"/reports/{address}").status_code == 404, address


def test_a_store_that_cannot_be_read_is_said(
    signed_in: TestClient, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "/reports/monitoring/open/windows/1-2-v1/report.html"
    assert signed_in.get(address).status_code == 404  # no connection, no store
    given = {"conn_type": "windtunnel", "host": "h", "extra": {"store": "ftp://a/b"}}
    monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(given))
    answer = signed_in.get(address)
    assert answer.status_code == 503 and "no object store that can be used" in answer.text
    given["extra"] = {"store": "s3://models/wt"}
    monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(given))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{any_free()}")
    answer = signed_in.get(address)
    assert answer.status_code == 503 and "does not answer" in answer.text
