"""DEMAND REG-2, REG-3, REG-4: what plain MLflow registered on the same database is taken over, sealed and marked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities.model_registry import RegisteredModelTag
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from windtunnel.errors import NotFoundError, RefusedError, RegistryError
from windtunnel.evidence.manifest import Manifest
from windtunnel.safety import signature
from windtunnel.safety.keys import KeyRing
from windtunnel_mlflow.keeping.claims import Claim, claim

EVIL = {"model/model.pkl": b"cos\nsystem\n(S'true'\ntR."}
LINEAR = {"model/model.pkl": b"\x80\x02csklearn.linear_model._base\nLinearRegression\n)\x81."}


def test_the_champion_of_a_plain_registry() -> None:
    assert claim(None, []) == Claim(None)
    assert claim(None, [2, 5, 3]) == Claim(5, (2, 3), "stage Production")
    assert claim(2, []) == Claim(2, (), "alias champion")
    assert claim(2, [1, 2, 3]) == Claim(2, (1, 3), "alias champion")
    two = claim(1, [2, 3])
    assert two.version is None and "version 1" in str(two.conflict) and "version 3" in str(two.conflict)


@pytest.fixture(scope="module")
def plain(registry_server: Any) -> Iterator[SqlAlchemyStore]:
    """MLflow's own store, without any law, on the database of the governed server."""
    store = SqlAlchemyStore(f"sqlite:///{registry_server.home.mlflow / 'mlflow.db'}")
    yield store
    store.engine.dispose()


@pytest.fixture
def version(plain: SqlAlchemyStore, hands: Any) -> Callable[..., int]:
    """Registers a run's model as plain MLflow does; its number."""

    def make(model: str, files: dict[str, bytes] | None = None, **more: Any) -> int:
        run_id = hands.run(files, **more)
        source = f"mlflow-artifacts:/0/{run_id}/artifacts/model"
        return int(plain.create_model_version(model, source, run_id).version)

    return make


def outcomes(found: dict[str, Any]) -> dict[str, str]:
    return {one["version"]: one["outcome"] for one in found["versions"]}


@pytest.mark.real
def test_a_plain_registry_is_taken_over(
    admin: Any, person_client: Any, service: Any, hands: Any, plain: SqlAlchemyStore, version: Any, registry_server: Any
) -> None:
    model = hands.model()
    version(model)
    version(model, inputs='[{"name": "age", "type": "long"}]')
    version(model, inputs='[{"name": "age", "type": "long"}]')
    plain.create_model_version(model, "mlflow-artifacts:/0/gone/artifacts/model", None)
    plain.create_model_version(model, "s3://elsewhere/model", None)
    version(model, EVIL)
    plain.create_model_version(model, f"models:/{model}/2", None)
    for number, stage in ((1, "Archived"), (2, "Production"), (3, "Staging")):
        plain.transition_model_version_stage(model, number, stage, False)
    before = service.audit(model)

    assert {"model": model, "versions": 7} in admin.adoption()
    for who in (person_client, service):
        with pytest.raises(RefusedError) as refused:
            who.adopt(model)
        assert refused.value.code == "WT_ROLE"
    would = admin.adopt(model, dry_run=True)
    assert outcomes(would) == {
        **dict.fromkeys("1236", "would-adopt"), "4": "refused", "5": "refused", "7": "would-adopt"
    }  # fmt: skip
    assert would["champion"] == "2"
    assert service.versions(model) == []
    assert [row.outcome for row in service.audit(model)[: -len(before)]] == ["refused", "refused"]

    found = admin.adopt(model)
    assert outcomes(found) == {**dict.fromkeys("1237", "adopted"), **dict.fromkeys("456", "refused")}
    said = {one["version"]: one["reason"] for one in found["versions"]}
    assert "MLmodel" in said["4"] and "artifact root" in said["5"] and "os.system" in said["6"]
    assert [one["semver"] for one in found["versions"][:3]] == ["1.0.0", "2.0.0", "2.1.0"]

    champion = service.champion(model)
    assert (champion.version, champion.stage, champion.state) == ("2", "Production", "champion")
    assert (champion.adopted["by"], champion.adopted["stage"]) == ("admin", "Production")
    (first,) = service.champion_history(model)
    assert (first.version, first.policy, first.until) == ("2", "adopted", None)
    assert "before the registry was governed" in first.reason
    sealed = Manifest.from_dict(champion.manifest)
    assert signature.verify(sealed, KeyRing.of(registry_server.home), model=model)
    assert hands.put(champion.run_id, "model/weights", b"x").status_code == 403
    assert (
        hands.call("GET", "/registered-models/alias", params={"name": model, "alias": "champion"})["model_version"][
            "version"
        ]
        == "2"
    )
    # The scan is evidence, as of any version; nothing else is there, and the others take the way of every version.
    assert {str(v.verdict.kind) for v in service.verdicts(model, version="1")} == {"scan"}
    assert any("evaluation" in line for line in service.explain(model, 3).missing)
    with pytest.raises(RefusedError):
        admin.transition(model, 3, "production", "by hand")
    # What could not be taken over stays readable in MLflow, and does not fly here.
    for number in ("4", "5", "6"):
        got = hands.call("GET", "/model-versions/get", params={"name": model, "version": number})["model_version"]
        assert got["status"] == "READY"
    assert service.version(model, 6).status == "FAILED_REGISTRATION"
    with pytest.raises(NotFoundError):
        service.version(model, 4)
    assert "sealed" in str(service.explain(model, 6).missing)

    # Asked again, nothing changes.
    rows = [row for row in service.audit(model) if row.action.startswith("adopt")]
    assert sorted(row.version for row in rows if row.outcome == "done") == ["1", "2", "2", "3", "6", "7"]
    again = admin.adopt(model, again=False)
    assert (again["versions"], again["champion"]) == (found["versions"], None)
    assert len([row for row in service.audit(model) if row.action.startswith("adopt")]) == len(rows)
    # From here on it is a model like any other.
    assert int(hands.plain_version(model, hands.run())["version"]) == 8


@pytest.mark.real
def test_what_pickles_may_hold_is_the_administrators_word(admin: Any, hands: Any, version: Any) -> None:
    model = hands.model()
    version(model, LINEAR)
    version(model, EVIL)
    found = admin.adopt(model)
    assert outcomes(found) == {"1": "refused", "2": "refused"}
    found = admin.adopt(model, pickle=True)
    assert outcomes(found) == {"1": "adopted", "2": "refused"}
    with pytest.raises(RegistryError, match="formats"):
        admin._call("POST", f"/models/{model}/adopt", json={"formats": {"pickle": "yes"}})


@pytest.mark.real
def test_two_champions_are_not_guessed(
    admin: Any, service: Any, hands: Any, plain: SqlAlchemyStore, version: Any
) -> None:
    model = hands.model()
    version(model)
    version(model)
    plain.set_registered_model_alias(model, "champion", 1)
    plain.transition_model_version_stage(model, 2, "Production", False)
    found = admin.adopt(model)
    assert outcomes(found) == {"1": "adopted", "2": "adopted"}
    assert found["champion"] is None and "stage Production is version 2" in found["champion_reason"]
    assert {"model": model, "versions": 0} in admin.adoption()
    admin.transition(model, 2, "archived", "version 1 is in use")
    assert admin.adopt(model)["champion"] == "1"
    assert service.champion(model).version == "1"
    assert model not in {one["model"] for one in admin.adoption()}


@pytest.mark.real
def test_prompts_and_unknown_models(admin: Any, hands: Any, plain: SqlAlchemyStore) -> None:
    name = f"{hands.model()}-prompt"
    plain.create_registered_model(name, [RegisteredModelTag("mlflow.prompt.is_prompt", "true")])
    plain.create_model_version(name, "prompt", None)
    assert name not in {one["model"] for one in admin.adoption()}
    with pytest.raises(RefusedError) as refused:
        admin.adopt(name)
    assert refused.value.code == "WT_PROMPT"
    with pytest.raises(NotFoundError):
        admin.adopt("no-such-model")


@pytest.mark.real
def test_the_command(
    hands: Any, version: Any, registry_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from windtunnel.cli.app import app
    from windtunnel.stackfile import read_secret

    monkeypatch.setenv("WINDTUNNEL_REGISTRY_URL", registry_server.url)
    monkeypatch.setenv("WINDTUNNEL_USERNAME", "admin")
    monkeypatch.setenv("WINDTUNNEL_PASSWORD", read_secret(registry_server.home, "mlflow-admin"))
    model = hands.model()
    version(model)
    version(model, EVIL)

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["--home", str(tmp_path), "registry", "adopt", "--model", model, *words])

    told = run("--dry-run")
    assert told.exit_code == 0 and "would-adopt" in told.stdout
    told = run("--json")
    assert told.exit_code == 1
    (one,) = json.loads(told.stdout)["models"]
    assert outcomes(one) == {"1": "adopted", "2": "refused"}
    told = run()
    assert f"adopted  {model} 1 (1.0.0)" in told.stdout and "no champion" in told.stdout
