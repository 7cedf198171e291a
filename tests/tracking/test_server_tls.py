"""An MLflow server whose certificate is by an authority of the house (DEMAND OPS-10)."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from certificates import https

from windtunnel.errors import DescriptionError, UnavailableError
from windtunnel.tracking.server import connect

NAMED, INSECURE = "MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_INSECURE_TLS"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with https(_Handler, tmp_path) as url:
        yield url


def test_its_authority_is_believed_where_mlflows_own_variable_names_it(server: str, tmp_path: Path) -> None:
    """A training pod, and a worker whose connection says ``ca``, have that variable and no other."""
    with pytest.raises(UnavailableError, match="certificate"):
        connect(server, env={}).set_state("r", "RUNNING", None)
    connect(server, env={NAMED: str(tmp_path / "ca.crt")}).set_state("r", "RUNNING", None)
    connect(server, env={INSECURE: "true"}).set_state("r", "RUNNING", None)
    with pytest.raises(DescriptionError, match=rf"{NAMED}: .*none\.crt holds no authorities"):
        connect(server, env={NAMED: str(tmp_path / "none.crt")})
