"""Checkpoints of the audit in a bucket, over a real S3 API: names are only ever added (DEMAND OPS-10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from windtunnel.errors import WindtunnelError
from windtunnel.evidence import checkpoint
from windtunnel.evidence.checkpoint import Checkpoint, SigningKey
from windtunnel.registry import auditfiles
from windtunnel.registry.auditbucket import Bucket

KEY = SigningKey("log", bytes(32))


def note(size: int, root: int = 0) -> str:
    return checkpoint.sign(Checkpoint("log", size, bytes([root]) * 32, 1), KEY)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def url(s3: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    for name, value in {
        "MLFLOW_S3_ENDPOINT_URL": s3, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    import boto3

    name = f"audit-{abs(hash(request.node.name)) % 10**9}"
    boto3.client("s3", endpoint_url=s3).create_bucket(Bucket=name)
    return f"s3://{name}/team/visits"


def test_what_is_published_is_found_again(url: str) -> None:
    where = auditfiles.place(url)
    assert isinstance(where, Bucket) and where.names() == [] and auditfiles.newest(where) is None
    where.put("k.vkey", KEY.verifier.text() + "\n")
    for size in (5, 12):
        where.put(auditfiles.name_of(size), note(size))
    where.put("below/other", "not ours")
    assert where.names() == [auditfiles.name_of(5), auditfiles.name_of(12), "k.vkey"]
    newest = auditfiles.newest(where)
    assert newest is not None and newest.size == 12
    found, breaks = auditfiles.checkpoints_in(where, auditfiles.keys_in(where))
    assert ([one.size for one in found], breaks) == ([5, 12], [])


def test_another_history_does_not_take_the_place_of_the_first(url: str) -> None:
    where = auditfiles.place(url)
    where.put(auditfiles.name_of(5), note(5))
    where.put(auditfiles.name_of(5), note(5))  # said again is no change
    with pytest.raises(FileExistsError):
        where.put(auditfiles.name_of(5), note(5, root=1))
    assert checkpoint.read(where.read(auditfiles.name_of(5))).root == bytes(32)


def test_who_comes_second_in_the_same_moment_finds_it_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where = auditfiles.place(url)
    where.put("a", note(5))
    monkeypatch.setattr(Bucket, "_there", lambda self, name: None)  # it looked before the first had written
    with pytest.raises(FileExistsError):
        where.put("a", note(5, root=1))
    where.put("a", note(5))


def test_a_store_without_conditional_writes_is_looked_into_first(url: str) -> None:
    import boto3
    from botocore.exceptions import ClientError

    real = boto3.client("s3", endpoint_url=auditfiles.place(url)._client.meta.endpoint_url)  # type: ignore[attr-defined]

    class Plain:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def put_object(self, **asked: Any) -> Any:
            if "IfNoneMatch" in asked:
                raise ClientError({"Error": {"Code": "NotImplemented"}}, "PutObject")
            return real.put_object(**asked)

    where = Bucket(url, auditfiles._same, Plain())
    where.put("a", note(5))
    with pytest.raises(FileExistsError):
        where.put("a", note(5, root=1))


def test_what_is_no_bucket_or_is_not_there_is_told(url: str) -> None:
    with pytest.raises(WindtunnelError, match="names no bucket"):
        auditfiles.place("s3:///prefix")
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError, match="NoSuchBucket"):
        auditfiles.place("s3://nobody-made-this/x").put("a", note(1))
