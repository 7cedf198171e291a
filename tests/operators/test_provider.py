"""What Airflow is told of this provider, and the hook behind its connection type."""

from __future__ import annotations

import dataclasses
import importlib
import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import airflow
import httpx
import jsonschema
import pytest

from windtunnel_airflow.hook import WindtunnelHook
from windtunnel_airflow.provider import get_provider_info
from windtunnel_airflow.tracking_server.hook import EXTRAS


def test_provider_info_is_valid() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_everything_it_names_exists() -> None:
    info = get_provider_info()
    for part in ("operators", "sensors", "hooks", "triggers"):
        for entry in info[part]:
            for module in entry["python-modules"]:
                importlib.import_module(module)
    names = [*info["extra-links"], *(entry["hook-class-name"] for entry in info["connection-types"])]
    names += [entry["to_openlineage_converter"] for entry in info["asset-uris"]]
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


def test_airflow_finds_the_connection_type_with_its_form() -> None:
    from airflow.providers_manager import ProvidersManager

    ours = [
        point
        for point in entry_points(group="apache_airflow_provider")
        if point.module == "windtunnel_airflow.provider"
    ]
    assert [point.load()() for point in ours] == [get_provider_info()]
    hook = ProvidersManager().hooks["windtunnel"]
    assert hook is not None
    assert hook.hook_class_name == "windtunnel_airflow.hook.WindtunnelHook"
    declared = {one["connection-type"]: set(one["conn-fields"]) for one in get_provider_info()["connection-types"]}
    assert declared["windtunnel"] == {
        "home", "public_url", "timeout", "store", "store_conn_id", "cluster_url", "ca", "cluster_ca",
        "cluster_store_ca", "seldon_conn_id",
    }  # fmt: skip
    from windtunnel.serving.seldon import Seldon

    known = {one.name for one in dataclasses.fields(Seldon)} | {"api", "kubeconfig", "context", "namespace"}
    assert {"image", "registry", "prometheus"} <= declared["windtunnel_seldon"] <= known
    assert declared["mlflow"] == set(EXTRAS) - {"headers"}
    plain = ProvidersManager().hooks["mlflow"]
    assert plain is not None
    assert plain.hook_class_name == "windtunnel_airflow.tracking_server.hook.MlflowHook"


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(**fields: Any) -> WindtunnelHook:
        monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps({"conn_type": "windtunnel", **fields}))
        return WindtunnelHook()

    return make


def test_the_connection_says_where_everything_is(connect: Any, tmp_path: Path) -> None:
    hook = connect(
        host="127.0.0.1", port=5001, login="service", password="s3cret",
        extra={"public_url": "https://mlflow.example", "home": str(tmp_path), "surprise": "x"},
    )  # fmt: skip
    assert hook.url == "http://127.0.0.1:5001"
    assert hook.home.root == tmp_path
    assert hook.version_url("small", "3") == "https://mlflow.example/#/models/small/versions/3"
    assert hook.mlflow_env()["MLFLOW_TRACKING_PASSWORD"] == "s3cret"
    assert "surprise" not in json.dumps(hook.mlflow_env())


def test_the_environment_is_put_back(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "before")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    hook = connect(host="http://there", login="service", password="s3cret")
    with hook.mlflow_environment():
        assert os.environ["MLFLOW_TRACKING_URI"] == "http://there"
    assert os.environ["MLFLOW_TRACKING_URI"] == "before"
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ


def test_test_connection_tells_good_from_bad(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry's wire is played by httpx's own mock transport."""
    from windtunnel.registry.client import RegistryClient

    answers = iter([httpx.Response(200, json={"status": "ok"}), httpx.Response(401), httpx.Response(500)])
    transport = httpx.MockTransport(lambda request: next(answers))
    hook = connect(host="http://there", login="service", password="s3cret")
    monkeypatch.setattr(hook, "get_conn", lambda: RegistryClient("http://there", "service", "s", transport=transport))
    good, words = hook.test_connection()
    assert good and "ok" in words
    refused, words = hook.test_connection()
    assert not refused and "password" in words
    broken, words = hook.test_connection()
    assert not broken and "No answer" in words


def test_an_asset_has_a_name_in_openlineage() -> None:
    from airflow.sdk import Asset

    from windtunnel_airflow.lineage import asset_to_dataset

    found = asset_to_dataset(Asset("windtunnel://small/version"))
    assert (found.namespace, found.name) == ("windtunnel", "small/version")


def test_what_a_task_read_and_made_reaches_openlineage() -> None:
    """DEMAND REG-8: asked as Airflow's provider asks, with names that are those of the assets."""
    from airflow.providers.openlineage.extractors.base import DefaultExtractor
    from airflow.sdk import Asset

    from windtunnel_airflow.base import WindtunnelOperator
    from windtunnel_airflow.lineage import asset_to_dataset

    task = WindtunnelOperator(task_id="register", model="nowhere.yaml")
    assert DefaultExtractor(task).extract_on_complete(None) is None, "inlets and outlets are asked instead"
    task.note_lineage(
        [("sea/data", "sha256:d"), ("s3://ann:secret@bucket/visits/2026", None), ("/data/visits.csv", None)],
        [("sea/version", "3")],
    )
    found = DefaultExtractor(task).extract_on_complete(None)
    assert found is not None
    assert [(one.namespace, one.name) for one in found.inputs] == [
        ("windtunnel", "sea/data"), ("s3://bucket", "visits/2026"), ("file", "/data/visits.csv"),
    ]  # fmt: skip
    assert [one.facets["version"].datasetVersion for one in found.inputs if one.facets] == ["sha256:d"]
    (made,) = found.outputs
    assert (made.namespace, made.name, made.facets["version"].datasetVersion) == ("windtunnel", "sea/version", "3")
    outlet = asset_to_dataset(Asset("windtunnel://sea/version"))
    assert (outlet.namespace, outlet.name) == (made.namespace, made.name), "one graph"
