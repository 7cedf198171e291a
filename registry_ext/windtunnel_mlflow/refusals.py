"""Refusals that are not the store's own are in the audit as well: MLflow's permissions, its checks, wrong passwords.

The store audits what it refuses itself, in Flask the registry's routes are looked at with the request's body, and what
is left is caught at the outermost door. ``identity.mark_audited`` sees to it that each is written once.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import threading
import time
from collections.abc import Callable
from typing import Any

from windtunnel_mlflow.access import identity

#: The actor of a request whose credential was not accepted: nobody knows who it was.
UNKNOWN = "unknown"
#: Wrong passwords written in a minute; whoever guesses shall not fill the disk. What is beyond is counted.
WRONG_A_MINUTE = 60


class Flood:
    """Lets so many through in a minute and counts the others.

    Args:
        most: in one minute.
        clock: seconds, monotonic.
    """

    def __init__(self, most: int = WRONG_A_MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._lock = threading.Lock()
        self._since, self._passed, self._held = clock(), 0, 0

    def passes(self) -> int | None:
        """None: not written. Else how many were not written since the last one that was."""
        with self._lock:
            now = self._clock()
            if now - self._since >= 60:
                self._since, self._passed = now, 0
            if self._passed >= self._most:
                self._held += 1
                return None
            self._passed += 1
            held, self._held = self._held, 0
            return held


def claimed(header: str | None) -> str | None:
    """The user name in an ``Authorization`` header; empty for another scheme than basic, None without a header."""
    if not header:
        return None
    scheme, _, body = header.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(body, validate=True).decode().partition(":")[0][:256]
    except (binascii.Error, UnicodeDecodeError):
        return ""


class NoteRefusals:
    """The outermost ASGI middleware: an answer 401 to a wrong credential, or 403, that nobody has audited yet."""

    def __init__(self, app: Any, store: Any) -> None:
        self.app, self.store = app, store
        self.flood = Flood()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})
        notes: dict[str, Any] = {}
        token = identity.request_notes.set(notes)

        async def sending(message: Any) -> None:
            status = message.get("status")
            if message["type"] == "http.response.start" and status in (401, 403) and not notes.get("audited"):
                # Before the answer: whoever reads it finds it in the audit.
                await asyncio.to_thread(self._note, scope, status, notes)
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            identity.request_notes.reset(token)

    def _note(self, scope: Any, status: int, notes: dict[str, Any]) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        said = claimed(headers.get("authorization"))
        detail: dict[str, Any] = {"method": scope["method"], "path": scope["path"][:500]}
        who = notes.get("user") or scope["state"].get("username")
        if status == 401:
            if said is None:
                return  # no credential yet: how every browser begins
            held = self.flood.passes()
            if held is None:
                return
            detail |= {"claimed": said} | ({"not_written": held} if held else {})
            action, code, who = "log-in", "WT_CREDENTIAL", UNKNOWN
        else:
            action, code = "mlflow-refused", "MLFLOW_403"
            if who is None:
                who, detail["claimed"] = UNKNOWN, said or ""
        correlation_id = headers.get(identity.CORRELATION_HEADER.lower(), "")[:64] or None
        self.store.note_refusal("", action, code, detail=detail, correlation_id=correlation_id, actor=who)


def audit_registry_routes(flask_app: Any, store: Any) -> None:
    """What MLflow itself refuses about the registry (permissions, foreign sources) is told with model and version."""
    from flask import g, request

    def note(response: Any) -> Any:
        user = getattr(g, "mlflow_authenticated_user", None)
        identity.mark_user(user)
        path = request.path
        registry = "/mlflow/registered-models/" in path or "/mlflow/model-versions/" in path
        if registry and request.method != "GET" and response.status_code in (400, 401, 403) and not identity.audited():
            body = request.get_json(silent=True)
            body = body if isinstance(body, dict) else {}
            answer = response.get_json(silent=True)
            answer = answer if isinstance(answer, dict) else {}
            if answer.get("error_code") == "RESOURCE_ALREADY_EXISTS" or path.endswith("/search") or not user:
                return response
            store.note_refusal(
                str(body.get("name") or "")[:256],
                "mlflow-refused",
                f"MLFLOW_{answer.get('error_code', response.status_code)}",
                version=body.get("version"),
                detail={"path": path, "message": str(answer.get("message", ""))[:500]},
            )
        return response

    flask_app.after_request(note)


def refuse_changes_of_viewers(flask_app: Any, store: Any) -> None:
    """After MLflow's own permissions, before any of its routes."""
    from mlflow.server.handlers import catch_mlflow_exception

    from windtunnel_mlflow.access import viewers

    @catch_mlflow_exception  # type: ignore[untyped-decorator]
    def check() -> None:
        viewers.check(store)

    flask_app.before_request(check)


def refuse_writes_around_the_proxy(flask_app: Any, store: Any) -> None:
    """The UI's upload writes straight to disk for an experiment with a local folder, which could be a sealed one."""
    from flask import request
    from mlflow.server import handlers
    from mlflow.server.handlers import catch_mlflow_exception

    from windtunnel_mlflow.refusal import Refusal

    @catch_mlflow_exception  # type: ignore[untyped-decorator]
    def check() -> None:
        if request.method != "POST" or not request.path.endswith("/mlflow/upload-artifact"):
            return
        run_id = request.args.get("run_uuid")
        if not run_id:
            return
        uri = handlers._get_tracking_store().get_run(run_id).info.artifact_uri
        if not handlers._is_servable_proxied_run_artifact_root(uri):
            refusal = Refusal("WT_SOURCE", f"run {run_id} keeps its artifacts outside the artifact proxy ({uri})")
            store.note_refusal("", "write-artifact", refusal.code, detail={"run": run_id, "message": refusal.plain})
            raise refusal

    flask_app.before_request(check)
