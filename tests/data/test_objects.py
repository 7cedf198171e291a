"""Of those who store under one name, the first one stays, on a folder and on a real S3 API."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3 import bucket

from windtunnel.data.objects import FolderObjects, Objects, S3Objects
from windtunnel.errors import DataError, UnavailableError


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[Any, str]]:
    """A client, and its bucket's address."""
    with bucket() as (client, name):
        yield client, f"s3://{name}"


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "folder":
        return FolderObjects(tmp_path)
    client, address = request.getfixturevalue("s3")
    return S3Objects(f"{address}/{tmp_path.name}", client)


def test_the_first_one_stays(store: Objects) -> None:
    assert store.put_new("a/b.json", b"1")
    assert not store.put_new("a/b.json", b"2")
    assert store.get_bytes("a/b.json") == b"1"
    assert list(store.sizes("")) == ["a/b.json"]


def test_of_many_at_once_one(store: Objects) -> None:
    """On S3 by the condition alone: none of them finds it there before."""
    start, done = threading.Barrier(6), []
    if isinstance(store, S3Objects):
        store.get_bytes = lambda key: None  # type: ignore[method-assign]

    def put(number: int) -> None:
        start.wait(90)
        done.append((store.put_new("x", b"%d" % number), number))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == 6
    assert [number for first, number in done if first] == [int(type(store).get_bytes(store, "x") or b"-1")]


class Answers:
    """The API, but for what it says of a condition."""

    def __init__(self, real: Any, code: str) -> None:
        self._real, self._code = real, code

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def put_object(self, **asked: Any) -> Any:
        from botocore.exceptions import ClientError

        if "IfNoneMatch" in asked:
            raise ClientError({"Error": {"Code": self._code}}, "PutObject")
        return self._real.put_object(**asked)


def test_a_store_that_knows_no_conditions_is_looked_into_first(s3: tuple[Any, str], tmp_path: Path) -> None:
    plain = S3Objects(f"{s3[1]}/{tmp_path.name}", Answers(s3[0], "NotImplemented"))
    assert plain.put_new("a", b"1") and not plain.put_new("a", b"2")
    assert plain.get_bytes("a") == b"1"


@pytest.mark.parametrize(
    ("code", "error"), [("ConditionalRequestConflict", UnavailableError), ("AccessDenied", DataError)]
)
def test_what_a_store_says_instead(s3: tuple[Any, str], tmp_path: Path, code: str, error: type[Exception]) -> None:
    store = S3Objects(f"{s3[1]}/{tmp_path.name}", Answers(s3[0], code))
    with pytest.raises(error, match=code):
        store.put_new("a", b"1")
    assert store.get_bytes("a") is None
