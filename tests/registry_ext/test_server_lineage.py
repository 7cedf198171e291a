"""DEMAND REG-8 against a real registry: recorded at registration, told back and forward, as of a time; it survives its
run, and says whom a data set has touched."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from windtunnel.cli.app import app
from windtunnel.errors import NotFoundError, RegistryError
from windtunnel.registry.lineage import Lineage
from windtunnel.stackfile import read_secret

pytestmark = pytest.mark.real


def tag(hands: Any, run_id: str, **tags: str) -> None:
    for key, value in tags.items():
        hands.call("POST", "/runs/set-tag", {"run_id": run_id, "key": key.replace("__", "."), "value": value})


def by_kind(found: Lineage) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for node in found.nodes:
        kinds.setdefault(node.kind, []).append(node.id.partition(":")[2])
    return kinds


def register(service: Any, hands: Any, model: str, run_id: str, **recipe: Any) -> Any:
    return service.register(
        model, source=f"runs:/{run_id}/model", run_id=run_id, recipe=recipe, correlation_id="c", cause="c"
    )


def test_what_the_run_said_survives_the_run(service: Any, hands: Any) -> None:
    model, run_id, digest = hands.model(), hands.run(), uuid.uuid4().hex[:8]
    tag(hands, run_id, wt__git__commit="abc123", wt__packages="sha256:p", wt__image="img:1", airflow__dag_id="d")
    tag(hands, run_id, airflow__dag_run_id="r1")
    dataset = {"name": "visits", "digest": digest, "source_type": "s3", "source": '{"uri": "s3://bucket/visits"}'}
    hands.call("POST", "/runs/log-inputs", {"run_id": run_id, "datasets": [{"dataset": dataset}]})
    record = register(service, hands, model, run_id)
    whole = service.lineage(model, record.version, direction="backward")
    kinds = by_kind(whole)
    assert kinds == {
        "version": [f"{model}/1"], "run": [run_id], "commit": ["abc123"], "environment": ["sha256:p"],
        "image": ["img:1"], "dag_run": ["d/r1"], "data": [digest],
        "source": ["s3://bucket/visits", "visits"],
    }  # fmt: skip
    found = hands.call("GET", "/model-versions/get", params={"name": model, "version": "1"})["model_version"]
    shown = {one["key"]: one["value"] for one in found["tags"]}
    assert shown["windtunnel.commit"] == "abc123" and shown["windtunnel.data"] == digest

    hands.call("POST", "/runs/set-tag", {"run_id": run_id, "key": "wt.git.commit", "value": "forged"})
    hands.call("POST", "/runs/delete", {"run_id": run_id})
    assert service.lineage(model, record.version, direction="backward") == whole
    assert [one["version"] for one in service.impact(digest).versions] == ["1"]
    assert [one["model"] for one in service.impact("s3://bucket/visits").versions if one["model"] == model] == [model]


def test_back_forward_and_as_of(service: Any, admin: Any, hands: Any, helpers: Any) -> None:
    model, data = hands.model(), f"sha256:{uuid.uuid4().hex * 2}"
    first = helpers.crown(service, hands, model, data=data)
    then = time.time()
    second = helpers.crown(service, hands, model, data=data)
    third = helpers.enter(service, hands, model, data=f"{data}x")

    back = service.lineage(model, third.version, direction="backward", depth=3)
    versions = {node.id: node.depth for node in back.nodes if node.kind == "version"}
    assert versions == {f"version:{model}/3": 0, f"version:{model}/2": -1, f"version:{model}/1": -2}
    assert back.node(f"data:{data}").depth == -2
    assert service.lineage(model, "3", direction="backward", depth=1).nodes[-1].depth == -1

    ahead = service.lineage(model, first.semver, direction="forward", depth=2)
    kinds = by_kind(ahead)
    assert kinds["version"] == [f"{model}/1", f"{model}/2", f"{model}/3"]
    assert len(kinds["champion"]) == len(kinds["rollout"]) == 2 and len(kinds["evidence"]) >= 4
    edges = {(e.upstream, e.downstream) for e in ahead.edges if e.relation == "parent"}
    assert edges == {(f"version:{model}/1", f"version:{model}/2"), (f"version:{model}/2", f"version:{model}/3")}

    was = service.lineage(model, "champion", direction="forward", as_of=then)
    assert was.version == first.version and by_kind(was)["version"] == [f"{model}/1"]
    assert [node.label for node in was.nodes if node.kind == "champion"] == ["now"]
    now = service.lineage(model)
    assert now.version == second.version and {-1, 0, 1} <= {node.depth for node in now.nodes}
    with pytest.raises(NotFoundError):
        service.lineage(model, third.version, as_of=then)
    # What Python takes for a digit, or for a number, may be no version to a database.
    for nothing, refused in (("\u00b3", RegistryError), ("9" * 20, NotFoundError)):
        with pytest.raises(refused):
            service.lineage(model, nothing)

    touched = service.impact(data)
    assert (touched.total, [one["version"] for one in touched.versions]) == (2, ["2", "1"])
    assert [one["version"] for one in touched.champions] == ["1", "2"]
    assert [one["version"] for one in touched.champions_now] == ["2"]
    before = service.impact(data.removeprefix("sha256:"), as_of=then)
    assert (before.total, [one["version"] for one in before.champions_now]) == (1, ["1"])

    hands.call("DELETE", "/model-versions/delete", {"name": model, "version": "3"})
    gone = service.lineage(model, "3", direction="backward")
    assert gone.node(f"version:{model}/3").detail["state"] == "deleted"


def test_a_copy_goes_back_to_what_it_copies(service: Any, hands: Any, helpers: Any) -> None:
    """MLflow's client copies a version with its tags; ours among them are dropped, forged ones refused."""
    model, other, data = hands.model(), hands.model(), f"sha256:{uuid.uuid4().hex * 2}"
    record = helpers.enter(service, hands, model, data=data)
    own = hands.call("GET", "/model-versions/get", params={"name": model, "version": "1"})["model_version"]["tags"]
    body = {"name": other, "source": f"models:/{model}/1", "run_id": record.run_id, "tags": own}
    assert any(one["key"] == "windtunnel.data" for one in own)
    forged = [{**one, "value": "sha256:forged"} for one in own if one["key"] == "windtunnel.data"]
    refused = hands.http.post("/api/2.0/mlflow/model-versions/create", json={**body, "tags": forged})
    assert refused.status_code == 403 and "WT_TAG" in refused.text
    hands.call("POST", "/model-versions/create", body)
    back = service.lineage(other, "latest", direction="backward")
    assert (back.node(f"version:{model}/1").depth, back.node(f"data:{data}").depth) == (-1, -2)
    assert {(one["model"], one["version"]) for one in service.impact(data).versions} == {(model, "1"), (other, "1")}


def test_policy_asks_the_same_facts(service: Any, admin: Any, hands: Any) -> None:
    """A policy that demands run and code is met by what the run itself says."""
    model = hands.model()
    admin.set_policy_document({"staging": {"lineage": ["run", "code", "data"]}}, "origins", model=model)
    plain, told = hands.run(), hands.run()
    tag(hands, told, wt__git__commit="abc", wt__data__digest="sha256:d")
    lacking = register(service, hands, model, plain)
    whole = register(service, hands, model, told)
    missing = [
        one["subject"] for one in service.explain(model, lacking.version, "staging").requirements if not one["met"]
    ]
    assert set(missing) >= {"code", "data"} and "run" not in missing
    lines = service.explain(model, whole.version, "staging").requirements
    assert {one["subject"]: one["met"] for one in lines if one["code"] == "lineage"} == {
        "run": True, "code": True, "data": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/models/M/versions/1/lineage?direction=up", "backward, forward or both"),
        ("/models/M/versions/1/lineage?depth=0", "1 to 100"),
        ("/models/M/versions/1/lineage?depth=x", "whole number"),
        ("/models/M/versions/1/lineage?as_of=then", "expected a time"),
        ("/models/M/versions/newest/lineage", "names no version"),
        ("/lineage/impact", "of is missing"),
    ],
)
def test_a_wrong_question_is_told_so(service: Any, path: str, says: str) -> None:
    with pytest.raises(RegistryError, match=says):
        service._call("GET", path)


def test_nobody_reads_it_without_a_credential(registry_server: Any) -> None:
    import httpx

    with httpx.Client(base_url=registry_server.url, trust_env=False) as http:
        for path in ("/models/m/versions/1/lineage", "/lineage/impact?of=x"):
            assert http.get(f"/api/windtunnel/v1{path}").status_code == 401


def test_the_command(
    registry_server: Any, service: Any, hands: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WINDTUNNEL_REGISTRY_URL", registry_server.url)
    monkeypatch.setenv("WINDTUNNEL_USERNAME", "service")
    monkeypatch.setenv("WINDTUNNEL_PASSWORD", read_secret(registry_server.home, "mlflow-service"))
    model, data = hands.model(), f"sha256:{uuid.uuid4().hex * 2}"
    record = helpers.crown(service, hands, model, data=data)

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["lineage", *words])

    told = run(model)
    assert told.exit_code == 0 and f"data: {data}" in told.stdout and "champion: now" in told.stdout
    plain = json.loads(run(f"{model}@{record.semver}", "--backward", "--json").stdout)
    assert plain["schema"] == "windtunnel.lineage/1" and plain["root"] == f"version:{model}/1"
    assert {node["depth"] for node in plain["nodes"]} == {0, -1}
    touched = run("--impact", data)
    assert touched.exit_code == 0 and f"champions now: {model} 1" in touched.output
    assert json.loads(run("--impact", data, "--json").stdout)["total"] == 1
    assert run(model, "--graph", "-").stdout.startswith("flowchart LR")
    for name, begins in (("a.html", "<!doctype html>"), ("a.svg", "<svg"), ("a.mmd", "flowchart")):
        assert run(model, "--graph", str(tmp_path / name)).exit_code == 0
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(begins)
    for wrong in ((), (model, "--impact", data), (model, "--graph", "a.png"), (model, "--as-of", "then")):
        assert run(*wrong).exit_code == 2, wrong
    assert isinstance(run(f"{model}@7").exception, NotFoundError)
