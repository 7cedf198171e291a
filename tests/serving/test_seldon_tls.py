"""A gateway whose certificate is by an authority of the house (DEMAND OPS-10)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from certificates import https

from windtunnel.errors import DescriptionError, UnavailableError
from windtunnel.serving.seldon import split


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"model_version": "3"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[str]:
    with https(_Handler, tmp_path) as url:
        yield url


def test_a_gateways_own_authority_is_believed_where_it_is_named(
    gateway: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        split.count(gateway, "visits", b"{}", 1, 5.0)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    assert split.count(gateway, "visits", b"{}", 2, 5.0) == {"3": 2}
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.crt"))
    with pytest.raises(DescriptionError, match=r"SSL_CERT_FILE: .*none\.crt holds no authorities"):
        split.count(gateway, "visits", b"{}", 1, 5.0)
