"""The registry client against a fake wire: what it sends, and which error each answer becomes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from windtunnel.errors import (
    FencedError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    RegistryError,
    StackError,
    UnavailableError,
    WindtunnelError,
)
from windtunnel.evidence import Kind, Outcome, Verdict
from windtunnel.home import Home
from windtunnel.registry.client import RegistryClient
from windtunnel.registry.connect import from_home

VERSION = {
    "model": "visits", "version": "3", "semver": "1.2.0", "status": "READY", "state": "candidate",
    "source": "runs:/r/m", "created_at": 1.0, "digest": "sha256:x", "manifest": {}, "something_newer": True,
}  # fmt: skip


def client(answer: Callable[[httpx.Request], httpx.Response]) -> RegistryClient:
    return RegistryClient("http://registry:1/", "service", "secret", transport=httpx.MockTransport(answer))


def always(status: int, body: Any) -> RegistryClient:
    return client(lambda _: httpx.Response(status, json=body))


def refusal(code: str, **more: Any) -> dict[str, Any]:
    return {"error_code": code, "message": "no", "missing": [], "hint": None, **more}


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "WT_REQUEST", RegistryError),
        (401, "x", RefusedError),
        (403, "WT_POLICY", RefusedError),
        (404, "WT_NOT_FOUND", NotFoundError),
        (409, "WT_CONFLICT", RefusedError),
        (409, "WT_FENCED", FencedError),
        (500, "INTERNAL_ERROR", UnavailableError),
        (503, "TEMPORARILY_UNAVAILABLE", UnavailableError),
    ],
)
def test_each_answer_has_its_error(status: int, code: str, expected: type[WindtunnelError]) -> None:
    with pytest.raises(expected) as raised:
        always(status, refusal(code)).version("visits", 3)
    assert type(raised.value) is expected


def test_a_refusal_carries_code_missing_and_hint() -> None:
    body = refusal("WT_POLICY", missing=["a PASS verdict"], hint="evaluate it")
    with pytest.raises(RefusedError) as raised:
        always(403, body).promote("r", 1, "2")
    assert (raised.value.code, raised.value.missing, raised.value.hint) == (
        "WT_POLICY",
        ("a PASS verdict",),
        "evaluate it",
    )


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("x")]
)
def test_no_answer_is_unavailable(error: httpx.HTTPError) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(UnavailableError, match="http://registry:1"):
        client(answer).health()


@pytest.mark.parametrize("content", [b"<html>", b"[1]", b""])
def test_something_else_at_that_url_is_unavailable_not_an_answer(content: bytes) -> None:
    with pytest.raises(UnavailableError, match="not the registry's JSON"):
        client(lambda _: httpx.Response(200, content=content)).models()


def test_a_newer_servers_keys_are_ignored() -> None:
    assert always(200, VERSION).version("visits", 3).semver == "1.2.0"


def test_nothing_is_none() -> None:
    assert always(404, refusal("WT_NOT_FOUND")).champion("visits") is None
    assert always(200, {"pending": None}).pending("visits") is None


def test_paths_are_quoted() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(200, json=VERSION)

    client(answer).version("a/../b", "1?x=1")
    assert seen == ["/api/windtunnel/v1/models/a%2F..%2Fb/versions/1%3Fx%3D1"]


def test_register_waits_for_the_seal() -> None:
    statuses = ["PENDING_REGISTRATION", "PENDING_REGISTRATION", "READY"]
    seen: list[tuple[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, json.loads(request.content) if request.content else None))
        return httpx.Response(202, json={**VERSION, "status": statuses.pop(0)})

    record = client(answer).register(
        "visits", source="runs:/r/m", run_id="r", recipe={"code": "c"}, correlation_id="c", cause="test"
    )
    assert record.ready
    assert [method for method, _ in seen] == ["POST", "GET", "GET"]
    assert seen[0][1]["recipe"] == {"code": "c"}


def test_a_failed_seal_says_why() -> None:
    body = {**VERSION, "status": "FAILED_REGISTRATION", "status_reason": "holds no MLmodel"}
    with pytest.raises(IntegrityError, match="holds no MLmodel"):
        always(201, body).register("visits", source="s", run_id="r", recipe={}, correlation_id=None, cause=None)


def test_a_seal_that_takes_too_long_is_unavailable() -> None:
    body = {**VERSION, "status": "PENDING_REGISTRATION"}
    with pytest.raises(UnavailableError, match="not sealed after"):
        always(202, body).register(
            "visits", source="s", run_id="r", recipe={}, correlation_id=None, cause=None, timeout=0.05
        )


def test_a_verdict_without_json_numbers_travels() -> None:
    sent: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.content)
        return httpx.Response(201, json={"id": "sha256:1", "claimed": False})

    verdict = Verdict(
        "visits", Kind.DRIFT, Outcome.INCONCLUSIVE, "too few rows", "sha256:d", numbers={"p": float("nan")}
    )
    assert client(answer).post_verdict(verdict) == "sha256:1"
    assert json.loads(sent[0])["numbers"] == {"p": "~wt:nan"}


def test_from_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(StackError, match="no stack"):
        from_home(home)
    home.secrets.mkdir(mode=0o700)
    (home.secrets / "mlflow-service").write_text("secret\n", encoding="utf-8")
    home.stack_file.write_text(
        json.dumps({"home": str(tmp_path), "ports": {}, "urls": {"mlflow": "http://127.0.0.1:5000"}, "python": {}}),
        encoding="utf-8",
    )
    (home.secrets / "mlflow-service").chmod(0o644)
    with pytest.raises(StackError, match="read by others"):
        from_home(home)
    (home.secrets / "mlflow-service").chmod(0o600)
    assert from_home(home).url == "http://127.0.0.1:5000"
    with pytest.raises(StackError, match="no role"):
        from_home(home, role="king")


def test_importing_the_client_loads_no_mlflow() -> None:
    code = (
        "import sys, windtunnel.registry.client, windtunnel.registry.connect, windtunnel.registry.launch\n"
        "print([n for n in ('mlflow', 'flask', 'sqlalchemy', 'pandas') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
