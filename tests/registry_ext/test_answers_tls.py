"""An Airflow whose certificate is by an authority of the house is asked who answered (DEMAND OPS-10)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from certificates import https

from windtunnel_mlflow.access import answers
from windtunnel_mlflow.refusal import Refusal

TASK = {"dag_id": "windtunnel.control", "dag_run_id": "r", "task_id": "t", "map_index": -1}


class _Airflow(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...

    def _say(self, said: dict[str, Any]) -> None:
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say({"access_token": "secret"})

    def do_GET(self) -> None:
        self._say({"subject": self.path, "bearer": self.headers["Authorization"]})


@pytest.fixture
def airflow(tmp_path: Path) -> Iterator[str]:
    with https(_Airflow, tmp_path) as url:
        yield url


def test_an_authority_of_the_house_is_believed_where_it_is_named(
    airflow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(answers.ENV_URL, airflow)
    for name in (answers.ENV_CA, "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Refusal, match=r"cannot be asked who answered: .*CERTIFICATE_VERIFY_FAILED"):
        answers.from_airflow(TASK)
    for name in (answers.ENV_CA, "SSL_CERT_FILE"):
        with monkeypatch.context() as here:
            here.setenv(name, str(tmp_path / "ca.crt"))
            assert answers.from_airflow(TASK)["bearer"] == "Bearer secret"
            here.setenv(name, str(tmp_path / "none.crt"))
            with pytest.raises(Refusal, match="cannot be asked who answered"):
                answers.from_airflow(TASK)
