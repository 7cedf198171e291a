"""Whose only role is ``viewer`` changes nothing, through no door: MLflow's REST API, its pages', artifacts, ours.

What a request does is told by its method, and by the list of what is read by POST. Whatever is not in it counts as a
change, so a call that a newer MLflow brings is refused until somebody has looked at it.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from flask import g, request

from windtunnel_mlflow.access import identity, matrix, people
from windtunnel_mlflow.refusal import Refusal

if TYPE_CHECKING:
    from windtunnel_mlflow.store import GovernedStore

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
#: What MLflow reads by POST, below ``/api/2.0/mlflow/``, ``/ajax-api/3.0/mlflow/`` and their like.
MLFLOW_READS = frozenset(
    {
        "artifacts/presigned-download-url",
        "datasets/search",
        "experiments/search",
        "experiments/search-datasets",
        "issues/search",
        "logged-models/search",
        "prompt-optimization/jobs/search",
        "registered-models/get-latest-versions",
        "runs/search",
        "traces/batchGetInfos",
        "traces/calculate-filter-correlation",
        "traces/metrics",
        "traces/search",
        # How its pages are used, told to whom the server is set to tell it.
        "ui-telemetry",
    }
)
_MLFLOW = re.compile(r"/(?:ajax-)?api/\d+\.\d+/?mlflow/(.+)")
#: Its mutations are two searches and an echo.
_GRAPHQL = "/graphql"
_OURS = re.compile(r"/api/windtunnel/v1/(?:models/[^/]+/)?policy/check")
#: One's own; somebody else's is MLflow's to refuse.
_PASSWORD = "users/update-password"


def open_to_viewers(method: str, path: str) -> bool:
    """Whether a request changes nothing, or only the password of whoever asks. Pure.

    Args:
        method: of HTTP, in capitals.
        path: as the server routes it, without a query.
    """
    if method in _SAFE:
        return True
    found = _MLFLOW.fullmatch(path)
    if method == "POST":
        read = found is not None and found[1] in MLFLOW_READS
        return read or path == _GRAPHQL or _OURS.fullmatch(path) is not None
    return method == "PATCH" and found is not None and found[1] == _PASSWORD


def check(store: GovernedStore) -> None:
    """For Flask, once the credential is verified. What is asked about the user is remembered for the request.

    Raises:
        Refusal: WT_ROLE; it is in the audit.
    """
    name = getattr(g, "mlflow_authenticated_user", None)
    if (
        name is None
        or name == identity.SERVICE_USER
        or open_to_viewers(request.method, request.script_root + request.path)
    ):
        return
    known = people.known(name)
    if known is None:
        return
    identity.remember(known)
    if matrix.only_reads(known.roles):
        body = request.get_json(silent=True)
        named = (request.view_args or {}).get("model") or (body.get("name") if isinstance(body, dict) else None)
        refuse(store, name, request.method, request.script_root + request.path, str(named or "")[:256])


def refuse(store: GovernedStore, name: str, method: str, path: str, model: str = "") -> None:
    """Write it down, and say so.

    Raises:
        Refusal: always.
    """
    refusal = Refusal(
        "WT_ROLE",
        f"user {name!r} may only read: its one role is viewer",
        hint=f"an administrator gives another one: windtunnel registry people grant {name} --role data_scientist",
    )
    store.note_refusal(model, "change", refusal.code, detail={"method": method, "path": path[:500]})
    raise refusal


class ViewersOnlyRead:
    """The innermost ASGI middleware, for what never enters Flask: uploads of artifacts, MLflow's gateway and traces."""

    def __init__(self, app: Any, store: GovernedStore) -> None:
        self.app, self.store = app, store

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        name = scope.get("state", {}).get("username") if scope["type"] == "http" else None
        if (
            name is not None
            and name != identity.SERVICE_USER
            and not open_to_viewers(scope["method"], scope["path"])
            and (answer := await asyncio.to_thread(self._refused, name, scope["method"], scope["path"])) is not None
        ):
            await answer(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refused(self, name: str, method: str, path: str) -> Any:
        from starlette.responses import Response

        known = people.known(name)
        if known is None or not matrix.only_reads(known.roles):
            return None
        try:
            refuse(self.store, name, method, path)
        except Refusal as refusal:
            return Response(refusal.serialize_as_json(), refusal.status, media_type="application/json")
