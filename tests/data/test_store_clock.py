"""A store that takes no request of a machine whose clock is far off, as S3 and MinIO do: whose, and what to do."""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from windtunnel.data.objects import S3Objects
from windtunnel.errors import DataError, UnavailableError

boto3 = pytest.importorskip("boto3")

MINUTE = 60.0
#: S3's own bound (Amazon S3 API, "Error responses": RequestTimeTooSkewed).
BOUND_S = 15 * MINUTE


class Store:
    """An S3 API with a clock of its own; who comes in time is denied by its policy.

    No server at hand looks at when a request was signed, so this one does that and nothing else.
    """

    def __init__(self) -> None:
        self.ahead = 0.0
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def date_time_string(self, timestamp: float | None = None) -> str:
                return email.utils.formatdate(time.time() + store.ahead, usegmt=True)

            def _do(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                signed = datetime.strptime(self.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                off = abs(time.time() + store.ahead - signed.timestamp())
                code = "RequestTimeTooSkewed" if off > BOUND_S else "AccessDenied"
                body = b"" if self.command == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
                self.send_response(403)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _do

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def objects(self) -> S3Objects:
        url = f"http://127.0.0.1:{self.server.server_port}"
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
        return S3Objects("s3://models/runs", boto3.client("s3", endpoint_url=url, **keys))


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.server.shutdown()
    made.server.server_close()


def _put(objects: S3Objects, folder: Path) -> None:
    (folder / "given").write_bytes(b"1")
    objects.put("a", folder / "given")


CALLS: dict[str, Callable[[S3Objects, Path], Any]] = {
    "a file is stored": _put,
    "bytes are stored": lambda objects, _: objects.put_bytes("a", b"1"),
    "stored unless there": lambda objects, _: objects.put_new("a", b"1"),
    "a file is fetched": lambda objects, folder: objects.get("a", folder / "got"),
    "bytes are fetched": lambda objects, _: objects.get_bytes("a"),
    "listed": lambda objects, _: objects.sizes("a"),
    "removed": lambda objects, _: objects.delete(["a"]),
}


@pytest.mark.parametrize(
    ("ahead", "words"), [(20 * MINUTE, "20 minutes behind"), (-20 * MINUTE, "20 minutes ahead of")]
)
@pytest.mark.parametrize("call", CALLS)
def test_it_says_whose_clock_to_set(store: Store, tmp_path: Path, call: str, ahead: float, words: str) -> None:
    """Not for good: the next attempt's pod may be on a node whose clock is right."""
    store.ahead = ahead
    with pytest.raises(UnavailableError, match=f"this machine's clock is {words}") as found:
        CALLS[call](store.objects(), tmp_path)
    assert "NTP" in str(found.value.hint)


@pytest.mark.parametrize("call", CALLS)
def test_another_refusal_is_not_taken_for_it(store: Store, tmp_path: Path, call: str) -> None:
    """Within the bound the store lets clocks differ: who is refused is refused for another reason."""
    store.ahead = 4 * MINUTE
    with pytest.raises(DataError, match="refuses"):
        CALLS[call](store.objects(), tmp_path)
