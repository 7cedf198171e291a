"""Free ports and servers on unix sockets."""

from __future__ import annotations

import socket
import socketserver
import threading
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from windtunnel import loopback
from windtunnel.errors import UnavailableError


def test_a_port_is_free_until_somebody_listens_and_again_afterwards() -> None:
    port = loopback.any_free()
    assert loopback.is_free(port)
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((loopback.HOST, port))
        server.listen()
        assert not loopback.is_free(port)
        with socket.create_connection((loopback.HOST, port)):
            server.accept()[0].close()  # leaves a connection in TIME_WAIT
    assert loopback.is_free(port)


@contextmanager
def listening(path: Path, answer: bytes, status: int = 200) -> Iterator[list[bytes]]:
    asked: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.UnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()


def test_a_supervisor_is_called_with_its_arguments(tmp_path: Path) -> None:
    answer = xmlrpc.client.dumps(({"pid": 7},), methodresponse=True).encode()
    with listening(tmp_path / "s", answer) as asked:
        assert loopback.call_supervisor(tmp_path / "s", "supervisor.start", "a", True, timeout_s=5) == {"pid": 7}
    assert xmlrpc.client.loads(asked[0]) == (("a", True), "supervisor.start")


def test_a_supervisor_that_says_no_is_a_fault_and_one_that_is_silent_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(UnavailableError, match="no supervisor answers"):
        loopback.call_supervisor(path, "supervisor.getPID", timeout_s=1)
    with listening(path, xmlrpc.client.dumps(xmlrpc.client.Fault(10, "BAD_NAME")).encode()):
        with pytest.raises(xmlrpc.client.Fault, match="BAD_NAME"):
            loopback.call_supervisor(path, "supervisor.getPID", timeout_s=5)
    path.unlink()
    with listening(path, b"", status=500), pytest.raises(UnavailableError, match="answered 500"):
        loopback.call_supervisor(path, "supervisor.getPID", timeout_s=5)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        with pytest.raises(UnavailableError, match="timed out"):
            loopback.call_supervisor(path, "supervisor.getPID", timeout_s=0.2)
