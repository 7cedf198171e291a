"""Servers of this machine: free ports on loopback, and HTTP and XML-RPC over unix sockets."""

from __future__ import annotations

import errno
import http.client
import socket
import xmlrpc.client
from pathlib import Path
from typing import Any

from windtunnel.errors import UnavailableError

HOST = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` of loopback now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # What the servers do too; without it a port is "taken" for a minute after its server stopped.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def any_free() -> int:
    """A port the kernel says is free."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the unix socket at ``path``; ``timeout_s`` bounds connecting and each read."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(str(self._path))


def call_supervisor(path: Path, method: str, *arguments: Any, timeout_s: float) -> Any:
    """One call of the supervisord that listens on the unix socket at ``path``.

    Raises:
        UnavailableError: it does not answer.
        xmlrpc.client.Fault: it says no.
    """
    connection = UnixConnection(path, timeout_s)
    try:
        body = xmlrpc.client.dumps(arguments, method).encode()
        connection.request("POST", "/RPC2", body, {"Content-Type": "text/xml"})
        response = connection.getresponse()
        if response.status != 200:
            raise UnavailableError(f"the supervisor at {path} answered {response.status} {response.reason}")
        return xmlrpc.client.loads(response.read())[0][0]
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(
            f"no supervisor answers at {path}: {error}", hint="start the stack with 'windtunnel up'"
        ) from error
    finally:
        connection.close()
