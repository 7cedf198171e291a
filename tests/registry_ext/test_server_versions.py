"""Registration, sealing and what survives a crash, on a real server (DEMAND REG-1, REG-2, REG-3)."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import IntegrityError, NotFoundError, RefusedError, RegistryError
from windtunnel.evidence import manifest
from windtunnel.registry.client import RegistryClient

pytestmark = pytest.mark.real


def register(client: RegistryClient, model: str, run_id: str, **more: Any) -> Any:
    given = {
        "source": f"runs:/{run_id}/model",
        "run_id": run_id,
        "recipe": {},
        "correlation_id": "c9",
        "cause": "test",
        **more,
    }
    return client.register(model, **given)


def test_a_registered_version_is_sealed(
    service: RegistryClient, hands: Any, registry_server: Any, helpers: Any
) -> None:
    run_id = hands.run({"model/data/weights": b"abc"})
    record = register(service, "sealed-model", run_id, recipe=helpers.RECIPE)
    assert (record.status, record.semver, record.version, record.state) == ("READY", "1.0.0", "1", "candidate")
    assert record.correlation_id == "c9"
    kept = manifest.Manifest.from_dict(record.manifest)
    assert set(kept.files) == {"MLmodel", "data/weights"}
    assert record.digest == kept.content
    manifest.verify(registry_server.artifacts / str(record.location), kept)
    plain = hands.call("GET", "/model-versions/get", params={"name": "sealed-model", "version": "1"})["model_version"]
    assert plain["status"] == "READY"


def test_same_key_same_version(service: RegistryClient, hands: Any) -> None:
    model = hands.model()
    run_id = hands.run()
    first = register(service, model, run_id)
    assert register(service, model, run_id) == first
    # A retried task logged the model anew, under another path.
    hands.put(run_id, "again/MLmodel", b"flavors: {}")
    assert register(service, model, run_id, source=f"runs:/{run_id}/again") == first
    assert register(service, model, run_id, key="mine").version == "2"
    assert register(service, model, hands.run(), key="mine").version == "2"
    assert [v.version for v in service.versions(model)] == ["2", "1"]


def test_plain_mlflow_clients_are_idempotent_too(service: RegistryClient, hands: Any) -> None:
    model, run_id = hands.model(), hands.run()
    assert {hands.plain_version(model, run_id)["version"] for _ in range(3)} == {"1"}
    assert register(service, model, run_id).version == "1"


def test_a_logged_model_registered_both_ways_is_one_version(
    service: RegistryClient, registry_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import mlflow
    import numpy as np
    from sklearn.linear_model import LinearRegression

    from windtunnel.stackfile import read_secret

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "service")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", read_secret(registry_server.home, "mlflow-service"))
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registry_server.url)
    try:
        rows = np.arange(12.0).reshape(4, 3)
        with mlflow.start_run() as run:
            info = mlflow.sklearn.log_model(
                LinearRegression().fit(rows, rows.sum(1)),
                name="model",
                pip_requirements=["scikit-learn"],
                input_example=rows,
                registered_model_name="logged",
            )
        plain = service.version("logged", 1)
        assert plain.status == "READY"
        assert "/models/m-" in str(plain.location)
        for source in (info.model_uri, f"runs:/{run.info.run_id}/model"):
            assert register(service, "logged", run.info.run_id, source=source).version == "1"
        loaded = mlflow.pyfunc.load_model("models:/logged/1")
        assert loaded.predict(rows).shape == (4,)
        assert plain.facts["flavor"] == "mlflow.sklearn"
    finally:
        mlflow.set_tracking_uri(before)


def test_ten_at_once_are_ten_ordered_versions(service: RegistryClient, hands: Any) -> None:
    model = hands.model()
    runs = [hands.run() for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda run_id: register(service, model, run_id), runs))
    assert sorted(int(v.version) for v in found) == list(range(1, 11))
    assert all(v.ready for v in found)
    in_order = sorted(found, key=lambda v: int(v.version))
    numbers = [tuple(int(part) for part in v.semver.split(".")) for v in in_order]
    assert numbers == sorted(set(numbers))


def test_ten_at_once_with_one_key_are_one_version(service: RegistryClient, hands: Any) -> None:
    model, run_id = hands.model(), hands.run()
    with ThreadPoolExecutor(10) as pool:
        assert {v.version for v in pool.map(lambda _: register(service, model, run_id), range(10))} == {"1"}
    assert len(service.versions(model)) == 1


def test_semver_follows_the_recipe(service: RegistryClient, hands: Any, helpers: Any) -> None:
    model = hands.model()
    semvers = [
        helpers.enter(service, hands, model, **change).semver
        for change in ({}, {"code": "sha256:c2"}, {"code": "sha256:c2", "data": "sha256:d2"}, {"algorithm": "linear"})
    ]
    assert semvers == ["1.0.0", "1.1.0", "1.1.1", "1.2.0"]
    assert helpers.enter(service, hands, model, algorithm="forest").semver == "2.0.0"


def test_semver_override(service: RegistryClient, hands: Any) -> None:
    model = hands.model()
    assert register(service, model, hands.run(), semver="3.0.0").semver == "3.0.0"
    for wanted in ("1.0.0", "3.0.0", "three"):
        with pytest.raises(RefusedError) as refused:
            register(service, model, hands.run(), semver=wanted)
        assert refused.value.code == "WT_SEMVER"


def test_numbers_and_semvers_are_never_reused(service: RegistryClient, hands: Any) -> None:
    model, run_id = hands.model(), hands.run()
    register(service, model, run_id)
    register(service, model, hands.run())
    hands.call("DELETE", "/model-versions/delete", {"name": model, "version": "2"})
    with pytest.raises(NotFoundError):
        service.version(model, 2)
    third = register(service, model, hands.run())
    assert (third.version, third.semver) == ("3", "1.2.0")
    hands.call("DELETE", "/registered-models/delete", {"name": model})
    # The whole model is gone; its numbers are not given out again, and its key may be registered anew.
    again = register(service, model, run_id)
    assert (again.version, again.semver) == ("4", "1.3.0")


def test_without_files_registration_fails_and_may_be_tried_again(service: RegistryClient, hands: Any) -> None:
    model, run_id = hands.model(), hands.run({"model/weights": b"w"}, mlmodel=False)
    with pytest.raises(IntegrityError, match="MLmodel"):
        register(service, model, run_id)
    failed = service.version(model, 1)
    assert failed.status == "FAILED_REGISTRATION"
    assert "MLmodel" in str(failed.status_reason)
    assert service.pending(model) is None
    # What failed is not sealed: the file may still be delivered, and the same key then succeeds.
    assert hands.put(run_id, "model/MLmodel", b"flavors: {}").status_code == 200
    assert register(service, model, run_id).version == "1"


@pytest.mark.parametrize("source", ["runs:/{other}/model", "mlflow-artifacts:/0/{other}/artifacts/model"])
def test_a_source_of_another_run_is_refused(service: RegistryClient, hands: Any, source: str) -> None:
    model, mine, other = hands.model(), hands.run(), hands.run()
    if source.startswith("runs:"):
        response = hands.http.post(
            "/api/2.0/mlflow/model-versions/create",
            json={"name": model, "source": source.format(other=other), "run_id": mine},
        )
        assert response.status_code == 400
    else:
        with pytest.raises(RefusedError) as refused:
            register(service, model, mine, source=source.format(other=other))
        assert refused.value.code == "WT_SOURCE"
    assert service.audit(model)[0].outcome == "refused"
    assert service.versions(model) == []


@pytest.mark.parametrize("source", ["s3://elsewhere/model", "file:///etc", "/etc", "mlflow-artifacts:/"])
def test_a_source_outside_the_artifact_root_is_refused(service: RegistryClient, hands: Any, source: str) -> None:
    model = hands.model()
    with pytest.raises(RefusedError) as refused:
        register(service, model, hands.run(), source=source)
    assert refused.value.code == "WT_SOURCE"


def test_bad_requests_are_told_what_is_wrong(service: RegistryClient) -> None:
    with pytest.raises(RegistryError) as refused:
        service.register("Bad Name", source="x", run_id=None, recipe={}, correlation_id=None, cause=None)
    assert refused.value.code == "WT_NAME"
    with pytest.raises(NotFoundError):
        service.version("no-such-model", 1)


# -- the seal


def writes(model_path: str) -> list[tuple[str, str]]:
    artifacts = "mlflow-artifacts/artifacts"
    paths = [
        model_path + "/weights",
        model_path + "/added",
        model_path.replace("/", "//") + "/weights",
        model_path.replace("model", "%6dodel") + "/weights",
        model_path.replace("model", "%256dodel") + "/weights",
        model_path + "/./weights",
    ]
    found = [("PUT", f"/{api}/2.0/{artifacts}/{path}") for api in ("api", "ajax-api") for path in paths]
    deletions = [model_path + "/weights", model_path, model_path.rsplit("/", 1)[0], model_path.split("/")[0]]
    return found + [("DELETE", f"/{api}/2.0/{artifacts}/{path}") for api in ("api", "ajax-api") for path in deletions]


def test_the_sealed_path_refuses_every_write(service: RegistryClient, hands: Any, registry_server: Any) -> None:
    model, run_id = hands.model(), hands.run()
    record = register(service, model, run_id)
    kept = manifest.Manifest.from_dict(record.manifest)
    for role in ("service", "admin"):
        with registry_server.rest(role) as http:
            for method, path in writes(str(record.location)):
                response = http.request(method, path, content=b"harm" if method == "PUT" else None)
                assert response.status_code in (403, 400), (method, path, response.status_code)
                if response.status_code == 403:
                    assert "WT_SEALED" in response.text, (method, path, response.text)
            upload = f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run_id}&path=model/weights"
            response = http.post(upload, content=b"harm")
            assert (response.status_code, "WT_SEALED" in response.text) == (403, True)
    manifest.verify(registry_server.artifacts / str(record.location), kept)
    refused = [row for row in service.audit(model, limit=200) if row.code == "WT_SEALED"]
    assert len(refused) > 20
    assert {row.actor for row in refused} == {"service", "admin"}
    # Beside the sealed folder the run may still be written.
    assert hands.put(run_id, "notes.txt", b"fine").status_code == 200


def test_multipart_is_guarded_too(service: RegistryClient, hands: Any, registry_server: Any) -> None:
    record = register(service, hands.model(), hands.run())
    for kind in ("create", "complete", "abort"):
        body = {
            "path": "weights",
            "num_parts": 1,
            "upload_id": "x",
            "parts": [{"part_number": 1, "etag": "e", "url": "u"}],
        }
        response = hands.http.post(f"/api/2.0/mlflow-artifacts/mpu/{kind}/{record.location}", json=body)
        # The local store has no multipart upload at all; were it S3, the guard (unit test) would answer.
        assert response.status_code in (403, 501), response.text


def test_an_experiment_with_a_folder_of_its_own_is_no_way_round(
    service: RegistryClient, hands: Any, registry_server: Any
) -> None:
    record = register(service, hands.model(), hands.run())
    target = registry_server.artifacts / str(record.location)
    created = hands.http.post(
        "/api/2.0/mlflow/experiments/create", json={"name": f"x{time.time()}", "artifact_location": str(target)}
    )
    if created.status_code != 200:
        return
    run = hands.call("POST", "/runs/create", {"experiment_id": created.json()["experiment_id"]})["run"]["info"]
    url = f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run['run_id']}&path=harm"
    response = hands.http.post(url, content=b"harm")
    assert (response.status_code, "WT_SOURCE" in response.text) == (403, True)
    assert not list(target.rglob("harm"))


def test_an_upload_that_began_before_the_seal_is_part_of_it(
    service: RegistryClient, hands: Any, registry_server: Any
) -> None:
    model, run_id = hands.model(), hands.run()
    half, go = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield b"first half "
        half.set()
        go.wait(90)
        yield b"second half"

    def upload() -> int:
        with registry_server.rest() as http:
            path = f"/api/2.0/mlflow-artifacts/artifacts/0/{run_id}/artifacts/model/late"
            return int(http.put(path, content=body()).status_code)

    with ThreadPoolExecutor(2) as pool:
        uploading = pool.submit(upload)
        assert half.wait(90)
        registering = pool.submit(register, service, model, run_id)
        time.sleep(0.5)
        assert service.version(model, 1).status == "PENDING_REGISTRATION"
        go.set()
        assert uploading.result(90) == 200
        record = registering.result(90)
    assert record.manifest["files"]["late"][1] == len(b"first half second half")
    manifest.verify(registry_server.artifacts / str(record.location), manifest.Manifest.from_dict(record.manifest))


def test_killed_while_sealing_it_is_sealed_at_the_next_start(helpers: Any) -> None:
    root = Path(tempfile.mkdtemp(prefix="wt-kill-"))
    server = helpers.RegistryServer(root)
    try:
        server.start()
        with server.rest() as http, server.client() as client:
            hands = helpers.Hands(http)
            run_id, small = hands.run(), hands.run()
            model = hands.model()
            # A sparse file: takes seconds to hash and no disk.
            big = server.artifacts / "0" / run_id / "artifacts" / "model" / "big"
            big.touch()
            os.truncate(big, 6 * 10**9)
            hands.plain_version(model, run_id)
            hands.plain_version(model, small)
            assert client.version(model, 1).status == "PENDING_REGISTRATION"
        server.kill()
        os.truncate(big, 10**6)
        server.start()
        with server.rest() as http, server.client() as client:
            deadline = time.monotonic() + 60
            while client.version(model, 1).status != "READY":
                assert time.monotonic() < deadline
                time.sleep(0.2)
            first = client.version(model, 1)
            assert first.manifest["files"]["big"][1] == 10**6
            # Nothing is half done: the same key finds the same version, the other one is whole as well.
            assert register(client, model, run_id) == first
            assert client.version(model, 2).status == "READY"
            assert helpers.Hands(http).put(run_id, "model/big", b"x").status_code == 403
            seals = [row for row in client.audit(model) if row.action == "seal"]
            assert sorted(str(row.version) for row in seals) == ["1", "2"]
            assert {row.actor for row in seals} == {"windtunnel"}
    finally:
        server.stop()
        shutil.rmtree(root, ignore_errors=True)
