"""DEMAND REG-4, REG-5: a second, ungoverned MLflow server on the same database is outside the law, and is found."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from windtunnel.errors import IntegrityError, RefusedError, RegistryError

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def plain(registry_server: Any) -> Iterator[SqlAlchemyStore]:
    store = SqlAlchemyStore(f"sqlite:///{registry_server.home.mlflow / 'mlflow.db'}")
    yield store
    store.engine.dispose()


@pytest.fixture
def governed(service: Any, hands: Any, helpers: Any) -> str:
    """A model with champion 1 and candidates 2 and 3."""
    model = str(hands.model())
    helpers.crown(service, hands, model)
    for _ in range(2):
        helpers.enter(service, hands, model)
    return model


def execute(registry_server: Any, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(registry_server.home.mlflow / "mlflow.db", timeout=60)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


def test_what_a_second_server_does_is_found_and_mended(
    service: Any,
    admin: Any,
    person_client: Any,
    governed: str,
    hands: Any,
    plain: SqlAlchemyStore,
    registry_server: Any,
) -> None:
    assert service.agreement(governed) == []
    plain.set_registered_model_alias(governed, "champion", 2)
    plain.transition_model_version_stage(governed, 3, "Production", True)
    run_id = hands.run()
    plain.create_model_version(governed, f"mlflow-artifacts:/0/{run_id}/artifacts/model", run_id)
    found = service.agreement(governed)
    assert [(one["what"], one["version"]) for one in found] == [
        ("alias", "2"), ("stage", "1"), ("stage", "3"), ("unknown-version", "4")
    ]  # fmt: skip
    assert (found[0]["found"], found[0]["expected"]) == ("the alias champion is version 2", "the champion is version 1")
    assert governed in found[0]["do"] and "adopt" in found[3]["do"]
    # The law's own answer was never another one.
    assert service.champion(governed).version == "1"

    for who in (person_client, service):
        with pytest.raises(RefusedError) as refused:
            who.mend(governed, "a second server")
        assert refused.value.code == "WT_ROLE"
    with pytest.raises(RegistryError, match="reason"):
        admin.mend(governed, " ")
    done = admin.mend(governed, "a second server")
    assert [one["what"] for one in done["mended"]] == ["alias", "stage", "stage"]
    assert [one["what"] for one in done["left"]] == ["unknown-version"]
    alias = hands.call("GET", "/registered-models/alias", params={"name": governed, "alias": "champion"})
    assert (alias["model_version"]["version"], alias["model_version"]["current_stage"]) == ("1", "Production")
    (row,) = service.audit(governed, action="mend", outcome="done")
    assert (row.actor, len(row.detail["differences"])) == ("admin", 3)
    # Taking the version over, or deleting it, is a person's decision.
    assert [one["outcome"] for one in admin.adopt(governed)["versions"]] == ["adopted"]
    assert service.agreement(governed) == []


def test_rows_written_by_sql_are_found(
    service: Any, admin: Any, governed: str, plain: SqlAlchemyStore, registry_server: Any
) -> None:
    """Whoever loads by MLflow's own client goes where its row says."""
    at = "WHERE name = ? AND version = ?"
    execute(registry_server, f"UPDATE model_versions SET source = 'mlflow-artifacts:/evil' {at}", governed, 1)
    execute(registry_server, f"UPDATE model_versions SET storage_location = 's3://evil' {at}", governed, 2)
    plain.delete_model_version(governed, 3)
    found = service.agreement(governed)
    assert [(one["what"], one["version"]) for one in found] == [
        ("missing-version", "3"), ("source", "1"), ("source", "2")
    ]  # fmt: skip
    assert "s3://evil" in found[2]["found"]
    done = admin.mend(governed, "by SQL")
    assert ([one["version"] for one in done["mended"]], [one["version"] for one in done["left"]]) == (["1", "2"], ["3"])
    assert plain.get_model_version_download_uri(governed, 2).endswith(str(service.version(governed, 2).location))
    execute(registry_server, "DELETE FROM registered_model_aliases WHERE name = ? AND alias = 'champion'", governed)
    assert [one["what"] for one in service.agreement(governed)] == ["alias", "missing-version"]


def test_registered_again_after_a_failure_with_another_source_agrees(service: Any, hands: Any) -> None:
    model, run_id = hands.model(), hands.run(mlmodel=False)
    given = {"run_id": run_id, "recipe": {}, "correlation_id": None, "cause": None}
    with pytest.raises(IntegrityError, match="MLmodel"):
        service.register(model, source=f"runs:/{run_id}/model", **given)
    hands.put(run_id, "again/MLmodel", b"flavors: {}")
    record = service.register(model, source=f"runs:/{run_id}/again", **given)
    assert service.agreement(model) == []
    uri = hands.call("GET", "/model-versions/get-download-uri", params={"name": model, "version": record.version})
    assert uri["artifact_uri"].endswith(str(record.location))


class Alone:
    """The registry with one model only: what other tests do to theirs is none of this one's business."""

    def __init__(self, service: Any, model: str) -> None:
        self.service, self.model = service, model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.service, name)

    def agreement(self) -> list[dict[str, Any]]:
        return [one for one in self.service.agreement() if one["model"] == self.model]


def test_the_doctor_says_so(
    service: Any, governed: str, plain: SqlAlchemyStore, registry_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND OPS-4"""
    from windtunnel.registry import connect
    from windtunnel.stack import doctor

    # The stack as far as the doctor looks at it here: a supervisor that runs.
    running = SimpleNamespace(supervisor=SimpleNamespace(pid=lambda: 1))
    monkeypatch.setattr(doctor, "Stack", lambda home: running)
    monkeypatch.setattr(connect, "from_home", lambda home: nullcontext(Alone(service, governed)))
    (fine,) = doctor._registry(registry_server.home)
    assert fine.result == "ok"
    plain.set_registered_model_alias(governed, "champion", 2)
    plain.transition_model_version_stage(governed, 3, "Production", True)
    (found,) = doctor._registry(registry_server.home)
    assert (found.result, found.found) == (
        "fail",
        f"{governed}: the alias champion is version 2; expected: the champion is version 1 and 2 more",
    )
    assert "registry agree" in found.mend


def test_the_steward_alarms(
    service: Any, governed: str, plain: SqlAlchemyStore, registry_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from windtunnel_airflow.operators.steward import AgreementOperator, _Steward

    holder = SimpleNamespace(home=registry_server.home, registry=Alone(service, governed))
    monkeypatch.setattr(_Steward, "hook", property(lambda self: holder))
    task = AgreementOperator(task_id="agreement")
    assert task.execute({}) == []
    plain.set_registered_model_alias(governed, "champion", 3)
    for _ in range(2):
        with pytest.raises(IntegrityError, match="the alias champion is version 3") as told:
            task.execute({})
        assert "windtunnel registry mend" in str(told.value.hint)
    (posted,) = service.verdicts(governed, kind="integrity")
    assert (str(posted.verdict.outcome), posted.claimed, posted.verdict.version) == ("FAIL", False, None)
    assert posted.verdict.numbers["differences"][0]["what"] == "alias"


def test_the_commands(
    governed: str, plain: SqlAlchemyStore, registry_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from typer.testing import CliRunner

    from windtunnel.cli.app import app
    from windtunnel.stackfile import read_secret

    monkeypatch.setenv("WINDTUNNEL_REGISTRY_URL", registry_server.url)
    monkeypatch.setenv("WINDTUNNEL_USERNAME", "admin")
    monkeypatch.setenv("WINDTUNNEL_PASSWORD", read_secret(registry_server.home, "mlflow-admin"))

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["--home", str(tmp_path), "registry", *words])

    assert run("agree", "--model", governed).exit_code == 0
    plain.set_registered_model_alias(governed, "champion", 3)
    told = run("agree", "--model", governed)
    assert told.exit_code == 3 and f"windtunnel registry mend {governed}" in told.stdout
    told = run("mend", governed, "--reason", "a second server")
    assert (told.exit_code, told.stdout.strip()) == (0, f"{governed}: 1 set right, 0 left")
