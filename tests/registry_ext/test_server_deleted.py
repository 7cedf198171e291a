"""DEMAND REG-10: what was deleted comes back as it was while its retention lasts; then its files go, nothing else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from windtunnel.errors import IntegrityError, NotFoundError, RefusedError
from windtunnel.evidence import manifest
from windtunnel.spec import merging
from windtunnel.spec.policy import PolicyDocument


def test_a_model_may_keep_longer_and_not_shorter() -> None:
    house = merging.complete(PolicyDocument.model_validate({"retention": "10d"}))
    assert house.retention.days == 10 and merging.complete(PolicyDocument()).retention.days == 30
    longer, shorter = (PolicyDocument.model_validate({"retention": told}) for told in ("20d", "1d"))
    assert (merging.looser(house, longer), merging.merge(house, longer).retention.days) == ([], 20)
    assert "shorter than the house's" in merging.looser(house, shorter)[0]
    assert merging.merge(house, shorter).retention.days == 10
    assert merging.merge(house, PolicyDocument()).retention.days == 10


def delete(hands: Any, model: str, version: str | None = None) -> None:
    body = {"name": model} | ({} if version is None else {"version": version})
    hands.call("DELETE", f"/{'registered-models' if version is None else 'model-versions'}/delete", body)


def age(registry_server: Any, model: str, days: float) -> None:
    """The deletions of a model were so long ago."""
    with closing(sqlite3.connect(registry_server.home.mlflow / "mlflow.db", timeout=60)) as connection, connection:
        for table in ("wt_versions", "wt_deleted_models"):
            connection.execute(
                f"UPDATE {table} SET deleted_at = deleted_at - ? WHERE model = ?", (days * 86_400, model)
            )


def plain(hands: Any, model: str, version: str) -> dict[str, Any]:
    """MLflow's version without the time of its last change."""
    found = hands.call("GET", "/model-versions/get", params={"name": model, "version": version})["model_version"]
    return {key: value for key, value in found.items() if key != "last_updated_timestamp"}


@pytest.mark.real
def test_a_deleted_version_comes_back_as_it_was(
    service: Any, hands: Any, helpers: Any, person_client: Any, registry_server: Any
) -> None:
    model = hands.model()
    helpers.enter(service, hands, model)
    record = helpers.enter(service, hands, model, data="sha256:d2")
    name = {"name": model, "version": "2"}
    hands.call("PATCH", "/model-versions/update", {**name, "description": "the good one"})
    hands.call("POST", "/model-versions/set-tag", {**name, "key": "team", "value": "a"})
    hands.call("POST", "/registered-models/alias", {**name, "alias": "best"})
    hands.call(
        "POST", "/model-versions/transition-stage", {**name, "stage": "Staging", "archive_existing_versions": False}
    )
    record, before = service.version(model, 2), plain(hands, model, "2")
    delete(hands, model, "2")
    with pytest.raises(NotFoundError):
        service.version(model, 2)
    (one,) = service.deleted(model)
    assert (one["version"], one["semver"], one["by"], one["why"]) == ("2", record.semver, "service", None)
    assert 29 * 86_400 < one["until"] - one["deleted_at"] < 31 * 86_400
    # Its files stay sealed, and nothing takes its number.
    assert hands.put(record.run_id, "model/weights", b"x").status_code == 403
    assert helpers.enter(service, hands, model, data="sha256:d3").version == "3"

    back = service.restore(model, 2, "deleted by mistake")
    assert back["semver"] == record.semver
    assert service.version(model, 2) == record
    assert plain(hands, model, "2") == {key: value for key, value in before.items() if key != "aliases"}
    manifest.verify(registry_server.artifacts / str(record.location), manifest.Manifest.from_dict(record.manifest))
    (row,) = service.audit(model, action="restore-version")
    assert (row.version, row.detail["reason"], row.detail["aliases_were"]) == ("2", "deleted by mistake", ["best"])
    assert service.deleted(model) == []
    # Its key is its own again.
    assert helpers_again(service, record).version == "2"
    with pytest.raises(NotFoundError):
        service.restore(model, 2, "twice")


def helpers_again(service: Any, record: Any) -> Any:
    return service.register(
        record.model,
        source=record.source,
        run_id=record.run_id,
        recipe=record.recipe,
        correlation_id=None,
        cause=None,
    )


@pytest.mark.real
def test_a_key_that_was_given_anew_stays_there(service: Any, hands: Any, helpers: Any) -> None:
    model = hands.model()
    record = helpers.enter(service, hands, model)
    delete(hands, model, "1")
    assert helpers_again(service, record).version == "2"
    assert service.restore(model, 1, "both")["version"] == "1"
    assert helpers_again(service, record).version == "2"
    (row,) = service.audit(model, action="restore-version")
    assert row.detail["key_of"] == "2"


@pytest.mark.real
def test_a_deleted_model_comes_back_with_its_versions(
    service: Any, admin: Any, hands: Any, helpers: Any, person_client: Any
) -> None:
    model = hands.model()
    hands.call("PATCH", "/registered-models/update", {"name": model, "description": "of the sea"})
    hands.call("POST", "/registered-models/set-tag", {"name": model, "key": "team", "value": "a"})
    records = [helpers.enter(service, hands, model) for _ in range(3)]
    delete(hands, model, "3")
    delete(hands, model)
    with pytest.raises(NotFoundError):
        service.versions(model)
    with pytest.raises(RefusedError) as refused:
        person_client.restore(model, None, "not mine")
    assert refused.value.code == "WT_ROLE"
    found = admin.restore(model, None, "needed")
    assert [one["version"] for one in found["versions"]] == ["1", "2"]
    assert found["lost"] == []
    assert service.versions(model) == records[1::-1]
    plain_model = hands.call("GET", "/registered-models/get", params={"name": model})["registered_model"]
    assert (plain_model["description"], plain_model["tags"]) == ("of the sea", [{"key": "team", "value": "a"}])
    # The third was deleted before the model was; its number is its own.
    assert service.restore(model, 3, "that one, too")["version"] == "3"
    assert helpers.enter(service, hands, model).version == "4"
    assert service.agreement(model) == []

    delete(hands, model)
    hands.call("POST", "/registered-models/create", {"name": model})
    with pytest.raises(RefusedError) as refused:
        admin.restore(model, None, "there is one")
    assert refused.value.code == "WT_RESTORE"
    assert admin.restore(model, 2, "into the new one")["version"] == "2"
    with pytest.raises(NotFoundError):
        admin.restore("no-such-model", None, "none")


@pytest.mark.real
def test_after_its_retention_the_files_go_and_nothing_else(
    service: Any, admin: Any, hands: Any, helpers: Any, registry_server: Any, person_client: Any, monkeypatch: Any
) -> None:
    from windtunnel_airflow.operators.steward import PurgeOperator, _Steward

    model = hands.model()
    gone = helpers.enter(service, hands, model)
    shared = helpers.enter(service, hands, model)
    young = helpers.enter(service, hands, model)
    hands.put(gone.run_id, "notes.txt", b"of the run")
    for version in ("1", "2"):
        delete(hands, model, version)
    # The same files under another number.
    again = helpers_again(service, shared)
    assert again.location == shared.location
    age(registry_server, model, 31)
    delete(hands, model, "3")
    assert {one["version"]: one["why"] for one in service.deleted(model)} == {
        "3": None, "2": "its retention has ended", "1": "its retention has ended"
    }  # fmt: skip
    with pytest.raises(RefusedError) as refused:
        service.restore(model, 1, "too late")
    assert refused.value.code == "WT_RETENTION"
    with pytest.raises(RefusedError) as refused:
        person_client.purge()
    assert refused.value.code == "WT_ROLE"
    would = [one for one in admin.purge(dry_run=True)["purged"] if one["model"] == model]
    assert [one["version"] for one in would] == ["1", "2"]
    assert (registry_server.artifacts / str(gone.location)).is_dir()

    holder = SimpleNamespace(home=registry_server.home, registry=service)
    monkeypatch.setattr(_Steward, "hook", property(lambda self: holder))
    task = PurgeOperator(task_id="deleted_versions")
    done = {one["version"]: one["removed"] for one in task.execute({}) if one["model"] == model}
    assert done == {"1": True, "2": False}
    assert not (registry_server.artifacts / str(gone.location)).exists()
    assert (
        registry_server.artifacts / "0" / str(gone.run_id) / "artifacts" / "notes.txt"
    ).read_bytes() == b"of the run"
    for kept in (again, young):
        manifest.verify(registry_server.artifacts / str(kept.location), manifest.Manifest.from_dict(kept.manifest))
    assert [one for one in task.execute({}) if one["model"] == model] == []
    assert service.deleted(model)[-1]["purged_at"] is not None
    assert {row.action for row in service.audit(model) if row.version == "1"} >= {"register", "seal", "purge-version"}
    # Its path is nobody's now; the number and the semantic version are still not given out.
    assert hands.put(gone.run_id, "model/weights", b"new").status_code == 200
    fresh = helpers.enter(service, hands, model)
    assert int(fresh.version) == 5 and fresh.semver not in {gone.semver, shared.semver, young.semver}
    assert service.restore(model, 3, "in time")["status"] == "READY"


@pytest.mark.real
def test_files_that_are_being_removed_cannot_be_registered(
    service: Any, hands: Any, helpers: Any, registry_server: Any
) -> None:
    """A purge that was killed after its mark: the path is closed until another one ends it."""
    model = hands.model()
    record = helpers.enter(service, hands, model)
    delete(hands, model, "1")
    age(registry_server, model, 31)
    with closing(sqlite3.connect(registry_server.home.mlflow / "mlflow.db", timeout=60)) as connection, connection:
        connection.execute("UPDATE wt_versions SET purged_at = 1 WHERE model = ?", (model,))
    with pytest.raises(IntegrityError, match="are being removed"):
        helpers_again(service, record)
    done = [one for one in service.purge()["purged"] if one["model"] == model]
    assert [(one["version"], one["removed"]) for one in done] == [("1", True)]
    assert not (registry_server.artifacts / str(record.location)).exists()
    hands.put(record.run_id, "model/MLmodel", b"flavors: {}")
    assert helpers_again(service, record).version == "2"


@pytest.mark.real
def test_the_commands(
    service: Any, hands: Any, helpers: Any, registry_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from windtunnel.cli.app import app
    from windtunnel.stackfile import read_secret

    monkeypatch.setenv("WINDTUNNEL_REGISTRY_URL", registry_server.url)
    monkeypatch.setenv("WINDTUNNEL_USERNAME", "admin")
    monkeypatch.setenv("WINDTUNNEL_PASSWORD", read_secret(registry_server.home, "mlflow-admin"))
    model = hands.model()
    helpers.enter(service, hands, model)

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["--home", str(tmp_path), "registry", *words])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "nothing was deleted" in run("deleted", model)
    delete(hands, model, "1")
    assert "1.0.0" in run("deleted", model)
    assert f"{model} 1 (1.0.0) is back: READY, candidate" in run("restore", model, "1", "--reason", "a mistake")
    delete(hands, model)
    assert f"{model} is back with 1 versions" in run("restore", model, "--reason", "a mistake")
