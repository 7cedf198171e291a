"""From the API's answers to our errors, and how long to wait before another try. Pure.

Status codes and reasons: Kubernetes API conventions, "HTTP Status codes"; a Status object says ``reason``, ``message``
and ``details.retryAfterSeconds``.
"""

from __future__ import annotations

import email.utils
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from windtunnel.errors import (
    AbsentError,
    ClusterError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    UnavailableError,
    WindtunnelError,
)

#: Answers after which the same request may be sent again as it is.
AGAIN = frozenset({408, 429, 500, 502, 503, 504})
#: Longest that an API's own ``Retry-After`` is obeyed for; what asks for more is told as unavailable.
LONGEST_WAIT_S = 30.0
#: Seconds: the API's time has whole ones, and an answer is under way for some.
COARSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said: HTTP status, body (parsed where it is JSON), headers by lower-case name."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @classmethod
    def of(cls, status: int, body: bytes, headers: Mapping[str, str]) -> Answer:
        lower = {name.lower(): value for name, value in headers.items()}
        try:
            return cls(status, json.loads(body), lower)
        except ValueError:
            return cls(status, body.decode("utf-8", "replace"), lower)

    @property
    def told(self) -> Mapping[str, Any]:
        """The Status object; empty where the answer is none."""
        return self.body if isinstance(self.body, dict) and self.body.get("kind") == "Status" else {}

    @property
    def said_at(self) -> float | None:
        """When it was said by the API's own clock (header ``Date``, in whole seconds), in seconds since the epoch."""
        try:
            return email.utils.parsedate_to_datetime(self.headers["date"]).timestamp()
        except (KeyError, TypeError, ValueError):
            return None

    def ahead(self, now: float, otherwise: float = 0.0) -> float:
        """By how many seconds the API's clock is ahead of ours; what is less than the header can say counts as none.

        Args:
            now: by our clock.
            otherwise: where it does not say its time.
        """
        if self.said_at is None:
            return otherwise
        ahead = self.said_at - now
        return ahead if abs(ahead) > COARSE_S else 0.0

    @property
    def message(self) -> str:
        return str(self.told.get("message") or self.body or "no reason given")[:1000]


def wait_before(answer: Answer, tried: int, now: datetime | None = None) -> float:
    """Seconds before the next try: what the API asks for, else 0.25, 0.5, 1, 2, 4 ...

    Args:
        tried: how often it was tried, from 1.
    """
    asked = answer.headers.get("retry-after")
    details = answer.told.get("details")
    if asked is None and isinstance(details, dict):
        asked = str(details.get("retryAfterSeconds") or "") or None
    if asked is not None:
        try:
            return max(0.0, float(asked))
        except ValueError:
            try:
                at = email.utils.parsedate_to_datetime(asked)
                return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
            except (TypeError, ValueError):
                pass
    return min(0.25 * 2.0 ** (tried - 1), 8.0)


def error_of(answer: Answer, doing: str) -> WindtunnelError:
    """The error that an answer of 400 and above means.

    Args:
        doing: what was asked for, as a message names it: ``read SeldonDeployment visits in namespace models``.
    """
    status, reason, message = answer.status, str(answer.told.get("reason") or ""), answer.message
    what = f"cannot {doing}: {message}"
    if status == 401:
        return ForbiddenError(
            f"cannot {doing}: the API does not know these credentials ({message})",
            hint="the token has expired or was revoked: log in again, or renew the connection's kubeconfig",
        )
    if status == 403:
        if "exceeded quota" in message:
            return ForbiddenError(what, hint="the namespace's quota is used up: raise it, or ask for less")
        return ForbiddenError(what, hint="docs/reference/seldon.md lists the permissions that are needed")
    if status == 404:
        if not answer.told:
            return AbsentError(
                f"cannot {doing}: the API serves no such kind",
                hint="its CRD is not installed, or of another version: install it, or name the version that is there",
            )
        if "namespaces" in message:
            return AbsentError(what, hint="make the namespace first, or name another one")
        return AbsentError(what)
    if status == 409:
        return ConflictError(what, hint="somebody else changed it: read it again, and decide again")
    if status == 410 or reason == "Expired":
        return ExpiredError(what, hint="list again, and go on from there")
    if status in (400, 415, 422):
        return ClusterError(what, hint="the kind's version in the cluster may differ: see docs/reference/seldon.md")
    if status in AGAIN:
        return UnavailableError(
            f"cannot {doing}: the Kubernetes API answered {status} again and again: {message}",
            hint="it is overloaded or starting; what was asked is safe to ask again",
        )
    return ClusterError(f"cannot {doing}: the API answered {status}: {message}")
