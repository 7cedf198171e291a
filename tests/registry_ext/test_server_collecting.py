"""DEMAND REG-2: what nobody needs is found and removed when it is old; what is live is never taken."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import until

from windtunnel.errors import RefusedError
from windtunnel_mlflow.keeping import collecting

OLD = 8 * 86_400


def aged(path: Path, by: float = OLD) -> Path:
    """The folder and everything below it as of some days ago."""
    then = time.time() - by
    for one in [*path.rglob("*"), path]:
        os.utime(one, (then, then), follow_symlinks=False)
    return path


def test_only_folders_named_by_ids_are_looked_at(tmp_path: Path) -> None:
    run, model = "a" * 32, f"m-{'b' * 32}"
    for name in (
        f"0/{run}/artifacts/x", f"0/models/{model}/artifacts", f"0/{'c' * 32}/artifacts/{'d' * 32}/artifacts",
        f"0/{'e' * 32}/other", f"0/{'f' * 32}/artifacts/x", f"0/{'f' * 32}/more", f"0/mine/{'1' * 31}/artifacts",
        f"{'2' * 32}/artifacts", f"a/b/c/d/{'3' * 32}/artifacts", f"a/b/c/d/e/{'4' * 32}/artifacts",
        f".hidden/{'5' * 32}/artifacts",
    ):  # fmt: skip
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "0" / ("6" * 32)).symlink_to(tmp_path / "0" / run)
    assert {path.relative_to(tmp_path).as_posix() for path in collecting.owners(tmp_path)} == {
        f"0/{run}", f"0/models/{model}", f"0/{'c' * 32}", f"a/b/c/d/{'3' * 32}"
    }  # fmt: skip


def test_a_folder_is_as_young_as_its_newest_file(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"123")
    aged(tmp_path)
    assert time.time() - collecting.newest(tmp_path) > OLD - 60
    os.utime(tmp_path / "a" / "b" / "file")
    assert time.time() - collecting.newest(tmp_path) < 3600
    assert collecting.size(tmp_path) == 3


@pytest.fixture
def orphan(registry_server: Any, hands: Any) -> Callable[..., Path]:
    """A folder of a run that never was, as an upload makes it."""

    def make(kind: str = "") -> Path:
        name = f"{kind}{uuid.uuid4().hex}"
        folder = f"0/models/{name}" if kind else f"0/{name}"
        put = hands.http.put(f"/api/2.0/mlflow-artifacts/artifacts/{folder}/artifacts/weights", content=b"1234")
        assert put.status_code == 200
        return aged(registry_server.artifacts / folder)

    return make


def paths(found: dict[str, Any]) -> set[str]:
    return {one["path"] for one in found["collected"]}


@pytest.mark.real
def test_what_nobody_needs_goes_and_nothing_else(
    service: Any,
    admin: Any,
    person_client: Any,
    hands: Any,
    helpers: Any,
    registry_server: Any,
    orphan: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from windtunnel_airflow.operators.steward import CollectOperator, _Steward

    root = registry_server.artifacts
    run, model = orphan(), orphan("m-")
    young = orphan()
    os.utime(young / "artifacts" / "weights")
    # Live: a run, a deleted run that MLflow can still restore, a version, a deleted one, a logged model.
    live = [hands.run() for _ in range(2)]
    hands.call("POST", "/runs/delete", {"run_id": live[1]})
    record = helpers.enter(service, hands, hands.model())
    deleted = helpers.enter(service, hands, hands.model())
    hands.call("DELETE", "/model-versions/delete", {"name": deleted.model, "version": "1"})
    logged = hands.call("POST", "/logged-models", {"experiment_id": "0", "name": "x"})["model"]["info"]["model_id"]
    put = f"/api/2.0/mlflow-artifacts/artifacts/0/models/{logged}/artifacts/MLmodel"
    assert hands.http.put(put, content=b"x").status_code == 200
    # A run that is gone, whose files a version of a registry that nobody adopted yet still is.
    plain = orphan()
    with closing(sqlite3.connect(registry_server.home.mlflow / "mlflow.db", timeout=60)) as connection, connection:
        connection.execute("INSERT INTO registered_models (workspace, name) VALUES ('default', ?)", (plain.name,))
        connection.execute(
            "INSERT INTO model_versions (workspace, name, version, source, current_stage)"
            " VALUES ('default', ?, 1, ?, 'None')",
            (plain.name, f"mlflow-artifacts:/0/{plain.name}/artifacts"),
        )
    kept = [root / "0" / one for one in (*live, record.run_id, deleted.run_id)] + [
        root / "0" / "models" / logged,
        plain,
    ]
    for path in kept:
        assert aged(path).is_dir()
    odd = root / "0" / "somebody's"
    odd.mkdir()
    aged(odd)

    with pytest.raises(RefusedError) as refused:
        person_client.collect()
    assert refused.value.code == "WT_ROLE"
    wanted = {path.relative_to(root).as_posix() for path in (run, model)}
    assert paths(admin.collect(dry_run=True)) == wanted
    assert run.is_dir()
    holder = SimpleNamespace(home=registry_server.home, registry=service)
    monkeypatch.setattr(_Steward, "hook", property(lambda self: holder))
    done = CollectOperator(task_id="orphans").execute({})
    assert {one["path"]: one["bytes"] for one in done} == dict.fromkeys(wanted, 4)
    assert not run.exists() and not model.exists() and not list(root.glob(".windtunnel-collected-*"))
    assert all(path.is_dir() for path in (*kept, young, odd))
    (row,) = service.audit("", action="collect", limit=1)
    assert set(row.detail["folders"]) == wanted
    assert paths(admin.collect()) == set()
    with closing(sqlite3.connect(registry_server.home.mlflow / "mlflow.db", timeout=60)) as connection, connection:
        for table in ("model_versions", "registered_models"):
            connection.execute(f"DELETE FROM {table} WHERE name = ?", (plain.name,))
    assert paths(admin.collect()) == {f"0/{plain.name}"}


@pytest.mark.real
def test_an_upload_under_way_keeps_the_folder(admin: Any, orphan: Any, registry_server: Any) -> None:
    path = orphan()
    half, go = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield b"first "
        half.set()
        go.wait(60)
        yield b"second"

    def upload() -> int:
        with registry_server.rest() as http:
            url = f"/api/2.0/mlflow-artifacts/artifacts/0/{path.name}/artifacts/late"
            return int(http.put(url, content=body()).status_code)

    with ThreadPoolExecutor(1) as pool:
        uploading = pool.submit(upload)
        assert half.wait(30)
        # Sent is not received: the upload is under way once the server has a second file there, unfinished.
        until(lambda: len(list((path / "artifacts").iterdir())) > 1)
        # However old it looks: what is being written may not be there yet.
        aged(path)
        try:
            assert paths(admin.collect()) == set()
        finally:
            go.set()
        assert uploading.result(30) == 200
    assert (path / "artifacts" / "late").read_bytes() == b"first second"
    assert paths(admin.collect()) == set(), "it is young again"
    aged(path)
    assert paths(admin.collect()) == {f"0/{path.name}"}


@pytest.mark.real
def test_the_command(orphan: Any, registry_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from windtunnel.cli.app import app
    from windtunnel.stackfile import read_secret

    monkeypatch.setenv("WINDTUNNEL_REGISTRY_URL", registry_server.url)
    monkeypatch.setenv("WINDTUNNEL_USERNAME", "admin")
    monkeypatch.setenv("WINDTUNNEL_PASSWORD", read_secret(registry_server.home, "mlflow-admin"))
    path = orphan()

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["--home", str(tmp_path), "registry", "collect", *words])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert f"would go  0/{path.name}: 4 bytes" in run("--dry-run")
    assert f"gone  0/{path.name}: 4 bytes" in run()
    assert "nothing lies about" in run()
