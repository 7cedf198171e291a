"""The artifact guard by itself, with a store that has every way of writing MLflow knows, multipart included."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.store.artifact.artifact_repo import ArtifactRepository, MultipartUploadMixin, StreamUploadMixin

from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.versions.guard import Writes, govern
from windtunnel_mlflow.versions.locations import clean
from windtunnel_mlflow.versions.sealer import describe


class Sealed(Exception):
    pass


class BucketRepository(ArtifactRepository, StreamUploadMixin, MultipartUploadMixin):
    """The shape of an object store's repository; it remembers what reached it."""

    def __init__(self) -> None:
        super().__init__("s3://bucket")
        self.reached: list[str] = []

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        self.reached.append("log_artifact")

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        self.reached.append("log_artifacts")

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        self.reached.append("delete_artifacts")

    def log_artifact_from_stream(self, stream: Any, artifact_file_name: str, artifact_path: str | None = None) -> None:
        self.reached.append("stream")

    async def log_artifact_from_async_stream(
        self, chunks: Any, artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        self.reached.append("async")

    def create_multipart_upload(self, local_file: str, num_parts: int = 1, artifact_path: str | None = None) -> None:
        self.reached.append("create")

    def complete_multipart_upload(
        self, local_file: str, upload_id: str, parts: Any, artifact_path: str | None = None
    ) -> None:
        self.reached.append("complete")

    def abort_multipart_upload(self, local_file: str, upload_id: str, artifact_path: str | None = None) -> None:
        self.reached.append("abort")

    def list_artifacts(self, path: str | None = None) -> list[Any]:
        return []

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        raise NotImplementedError


def check(path: str, tree: bool) -> None:
    if path == "0/r/model" or path.startswith("0/r/model/") or (tree and ("0/r/model/").startswith(f"{path}/")):
        raise Sealed(path)


@pytest.fixture
def repo() -> BucketRepository:
    found = BucketRepository()
    govern(found, Writes(), check)
    govern(found, Writes(), check)
    assert type(found).__mro__[1] is BucketRepository, "governed once"
    return found


async def chunks() -> AsyncIterator[bytes]:
    yield b"x"


WAYS: dict[str, Any] = {
    "log_artifact": lambda r, f: r.log_artifact("/tmp/weights", f),
    "log_artifacts": lambda r, f: r.log_artifacts("/tmp", f),
    "delete": lambda r, f: r.delete_artifacts(f),
    "stream": lambda r, f: r.log_artifact_from_stream(None, "weights", f),
    "async": lambda r, f: asyncio.run(r.log_artifact_from_async_stream(chunks(), "weights", f)),
    "create": lambda r, f: r.create_multipart_upload("weights", 2, f),
    "complete": lambda r, f: r.complete_multipart_upload("weights", "id", [], f),
    "abort": lambda r, f: r.abort_multipart_upload("weights", "id", artifact_path=f),
    "deeper": lambda r, f: r.create_multipart_upload("sub/weights", 2, f),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("folder", ["0/r/model", "0/r//model/", "0/r/x/../model", "0/r/%6dodel", "0/r/%256dodel"])
def test_refused_below_the_seal(repo: BucketRepository, way: str, folder: str) -> None:
    with pytest.raises(Sealed):
        WAYS[way](repo, folder)
    assert repo.reached == []


@pytest.mark.parametrize("way", WAYS)
def test_free_beside_it(repo: BucketRepository, way: str) -> None:
    WAYS[way](repo, "0/r/model-2")
    assert len(repo.reached) == 1


@pytest.mark.parametrize("way", ["delete", "log_artifacts"])
@pytest.mark.parametrize("folder", ["0/r", "0"])
def test_whole_folders_above_it_are_refused(repo: BucketRepository, way: str, folder: str) -> None:
    with pytest.raises(Sealed):
        WAYS[way](repo, folder)


def test_a_seal_waits_for_a_write_under_way() -> None:
    writes = Writes()
    writes.begin("0/r/model/weights", lambda *_: None, False)
    assert not writes.wait_idle("0/r/model", 0.05)
    assert writes.wait_idle("0/r/mod", 0.05)
    threading.Timer(0.1, lambda: writes.end("0/r/model/weights")).start()
    began = time.monotonic()
    assert writes.wait_idle("0/r/model", 60)
    assert time.monotonic() - began < 30


def test_a_refused_write_is_not_under_way() -> None:
    writes = Writes()
    with pytest.raises(Sealed):
        writes.begin("0/r/model/weights", check, False)
    assert writes.wait_idle("0/r/model", 0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("a/b", "a/b"), ("/a//b/", "a/b"), ("a/./b", "a/b"), ("a/../b", "b"), ("../../a", "a"), ("a%2Fb", "a/b")],
)  # fmt: skip
def test_one_spelling_per_path(given: str, expected: str) -> None:
    assert clean(given) == expected


def test_facts_of_a_model(tmp_path: Path) -> None:
    text = (
        "flavors:\n  python_function:\n    loader_module: mlflow.sklearn\nsignature:\n  inputs: '[]'\n  params: null\n"
    )
    assert describe(text) == {"signature": {"inputs": "[]"}, "flavor": "mlflow.sklearn"}
    assert describe("- 1") == {}
    assert describe("flavors: none") == {}


def test_nothing_is_written_where_an_import_is_being_read() -> None:
    """DEMAND REG-12: at, below and above; an upload that began before is waited for."""
    writes = Writes()

    def allowed(path: str, tree: bool) -> None:
        return None

    with writes.held(["moved/a"], 1.0):
        for path, tree in (("moved/a", False), ("moved/a/weights", False), ("moved", True), ("", True)):
            with pytest.raises(Refusal, match="being imported"), writes.writing(path, allowed, tree):
                pass
        with writes.writing("moved/ab", allowed), writes.writing("moved", allowed):
            pass
    with writes.writing("moved/a", allowed):
        with pytest.raises(Refusal, match="did not end"), writes.held(["moved/a"], 0.01):
            pass
    with writes.writing("moved/a", allowed):
        pass
