"""A server that does not let the training write into its run says so before the training begins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from windtunnel.tracking.contract import RunSpec, RunStatus


class _Reader(BaseHTTPRequestHandler):
    """As MLflow answers a user who may read."""

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(403)
        self.send_header("Content-Length", "17")
        self.end_headers()
        self.wfile.write(b"Permission denied")


@pytest.fixture
def server() -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), _Reader)
    threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    made.server_close()


def test_who_may_not_write_trains_nothing(
    spec: Callable[..., RunSpec], run: Callable[..., RunStatus], server: str
) -> None:
    """DEMAND TRK-8: not after hours, as a failure that another try might mend."""
    ended = run(spec("returns_none", tracking_uri=server))  # which its own fault would show, had it run
    assert (ended.state, ended.failure) == ("failed", "code")
    assert "403" in ended.message and "may edit the experiment" in ended.message
