"""A registered version comes from the governed MLflow server, verified, by the service's credentials (DEMAND SRV-2)."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import IntegrityError, ServingError, UnavailableError
from windtunnel.evidence import manifest
from windtunnel.evidence.manifest import Manifest
from windtunnel.serving import artifacts
from windtunnel.serving.backend import Arm
from windtunnel.stackfile import StackFile

pytestmark = pytest.mark.real
FILES = {"model/weights.bin": b"\x00\x01" * 70_000, "model/code/a b.txt": b"x = 1\n", "model/empty": b""}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A governed server (from the registry's own tests) whose home knows its address."""
    path = Path(__file__).parents[1] / "registry_ext" / "conftest.py"
    spec = importlib.util.spec_from_file_location("registry_conftest", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = module.RegistryServer(tmp_path_factory.mktemp("registry") / "home")
    server.start()
    stack = StackFile(str(server.home.root), {}, {"mlflow": server.url}, {})
    server.home.stack_file.write_text(stack.to_json())
    server.tests = module
    yield server
    server.stop()


@pytest.fixture(scope="module")
def record(registry: Any) -> Any:
    with registry.rest() as http, registry.client() as client:
        run_id = registry.tests.Hands(http).run(FILES)
        return client.register(
            "visits",
            source=f"runs:/{run_id}/model",
            run_id=run_id,
            recipe=registry.tests.RECIPE,
            correlation_id="c",
            cause="test",
        )


def arm(record: Any, **changes: str) -> Arm:
    return Arm(
        **{"version": record.version, "digest": record.digest, "source": f"models:/visits/{record.version}", **changes}
    )


def test_a_sealed_version_is_fetched_whole_and_kept(registry: Any, record: Any) -> None:
    folder = artifacts.ensure(registry.home, "visits", arm(record))
    assert {name: (folder.model / name.removeprefix("model/")).read_bytes() for name in FILES} == FILES
    assert manifest.build(folder.model).content == record.digest
    assert {path.stat().st_mode & 0o777 for path in folder.model.rglob("*") if path.is_file()} == {0o400}
    stamps = {path: path.stat().st_mtime_ns for path in folder.model.rglob("*")}
    assert artifacts.ensure(registry.home, "visits", arm(record)) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.model.rglob("*")} == stamps, "not fetched again"


def test_a_copy_for_looking_at_is_apart_from_what_serves(registry: Any, record: Any) -> None:
    path = artifacts.fetch_version(registry.home, record)
    assert manifest.build(path).content == record.digest
    assert "versions" not in path.parts
    assert artifacts.fetch_version(registry.home, record) == path


def test_a_release_for_another_digest_than_the_registrys_is_refused(registry: Any, record: Any) -> None:
    with pytest.raises(IntegrityError, match="the registry has digest"):
        artifacts.ensure(registry.home, "visits", arm(record, digest="sha256:" + "0" * 64))


def test_files_named_by_their_place_are_listed_and_verified(registry: Any, record: Any, tmp_path: Path) -> None:
    source = f"mlflow-artifacts:/{record.location}"
    folder = artifacts.Folder(tmp_path / "copy")
    artifacts.ensure(registry.home, "visits", arm(record, source=source), folder)
    assert manifest.build(folder.model).content == record.digest


def test_bytes_changed_in_the_store_are_refused_and_nothing_stays(registry: Any, record: Any, tmp_path: Path) -> None:
    [stored] = registry.artifacts.rglob("weights.bin")
    good = stored.read_bytes()
    folder = artifacts.Folder(tmp_path / "copy")
    try:
        stored.write_bytes(b"\x01" + good[1:])
        with pytest.raises(IntegrityError, match=r"weights\.bin"):
            artifacts.ensure(registry.home, "visits", arm(record), folder)
        stored.unlink()
        with pytest.raises(IntegrityError, match="missing"):
            artifacts.ensure(registry.home, "visits", arm(record), folder)
    finally:
        stored.write_bytes(good)
    assert list(folder.path.iterdir()) == []


def test_who_holds_database_and_store_but_no_key_cannot_make_other_bytes_load(
    registry: Any, record: Any, tmp_path: Path
) -> None:
    """DEMAND REG-3: file, manifest and digest agree with each other; the signature does not agree with them."""
    [stored] = registry.artifacts.rglob("weights.bin")
    good, database = stored.read_bytes(), registry.home.mlflow / "mlflow.db"
    keep = "UPDATE wt_versions SET manifest = ?, digest = ? WHERE model = 'visits' AND version = ?"
    folder = artifacts.Folder(tmp_path / "copy")
    try:
        stored.write_bytes(b"\x01" + good[1:])
        other = replace(manifest.build(stored.parent), signature=Manifest.from_dict(record.manifest).signature)
        for forged in (other, replace(other, signature=None)):
            with closing(sqlite3.connect(database)) as connection, connection:
                connection.execute(keep, (json.dumps(forged.to_dict()), forged.content, int(record.version)))
            with pytest.raises(IntegrityError, match="signature"):
                artifacts.ensure(registry.home, "visits", arm(record, digest=forged.content), folder)
    finally:
        stored.write_bytes(good)
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(keep, (json.dumps(record.manifest), record.digest, int(record.version)))
    assert not folder.path.exists() or list(folder.path.iterdir()) == []


@pytest.mark.parametrize("source", ["s3://bucket/model", "/no/such/folder"])
def test_a_source_that_cannot_be_fetched_is_an_error_that_names_it(
    registry: Any, record: Any, tmp_path: Path, source: str
) -> None:
    with pytest.raises(ServingError, match=source):
        artifacts.ensure(registry.home, "visits", arm(record, source=source), artifacts.Folder(tmp_path / "copy"))


def test_with_the_server_down_what_is_here_is_enough_and_what_is_not_is_unavailable(registry: Any, record: Any) -> None:
    """DEMAND SRV-10."""
    folder = artifacts.ensure(registry.home, "visits", arm(record))
    registry.stop()
    assert artifacts.ensure(registry.home, "visits", arm(record)) == folder
    with pytest.raises(UnavailableError):
        artifacts.ensure(registry.home, "visits", arm(record, version="77"))
