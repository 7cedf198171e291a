"""Log lines: JSON for machines, one line for people; the same fields in both.

    {"time": "2026-01-31T12:00:00.000Z", "level": "info", "component": "guard", "correlation_id": "…",
     "operation": "lease", "message": "…", …}

``configure`` once per process; ``context`` around a piece of work, so that every line within carries its
correlation id and operation. Extra fields come from the logging call: ``log.info("text", extra={"model": m})``.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

_correlation: ContextVar[str | None] = ContextVar("windtunnel_correlation_id", default=None)
_operation: ContextVar[str | None] = ContextVar("windtunnel_operation", default=None)

#: Fields every line has, in this order; None where nothing is known.
FIELDS = ("time", "level", "component", "correlation_id", "operation", "message")

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@contextmanager
def context(*, correlation_id: str | None = None, operation: str | None = None) -> Iterator[None]:
    """Lines written inside carry these; what is None stays as it was. Follows threads' and tasks' contexts."""
    tokens = []
    if correlation_id is not None:
        tokens.append((_correlation, _correlation.set(correlation_id)))
    if operation is not None:
        tokens.append((_operation, _operation.set(operation)))
    try:
        yield
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)


def fields(record: logging.LogRecord, component: str) -> dict[str, Any]:
    """A record as plain values, JSON-ready."""
    plain: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "component": getattr(record, "component", None) or component,
        "correlation_id": getattr(record, "correlation_id", None) or _correlation.get(),
        "operation": getattr(record, "operation", None) or _operation.get(),
        "message": record.getMessage(),
    }
    for key, found in vars(record).items():
        if key not in _PLAIN and key not in plain:
            plain[key] = found
    plain["logger"] = record.name
    if record.exc_info:
        plain["exception"] = logging.Formatter().formatException(record.exc_info)
    return plain


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self.component = component

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(fields(record, self.component), default=str, ensure_ascii=False)


class HumanFormatter(JsonFormatter):
    """The same fields for a person."""

    def format(self, record: logging.LogRecord) -> str:
        return human(fields(record, self.component))


def human(plain: dict[str, Any]) -> str:
    """``12:00:00 INFO  guard lease: message key=value [correlation id]`` from a line's fields.

    Understands Airflow's JSON lines too (``timestamp``, ``event``).
    """
    rest = dict(plain)
    time = str(rest.pop("time", None) or rest.pop("timestamp", None) or "")
    level = str(rest.pop("level", "") or "").upper()
    component, operation = rest.pop("component", None), rest.pop("operation", None)
    correlation, exception = rest.pop("correlation_id", None), rest.pop("exception", None)
    message = rest.pop("message", None) or rest.pop("event", None) or ""
    for noise in ("logger", "filename", "lineno", "timestamp", "event"):
        rest.pop(noise, None)
    where = " ".join(str(part) for part in (component, operation) if part)
    extras = " ".join(f"{key}={found}" for key, found in rest.items() if found is not None)
    line = f"{time[11:19] or time} {level:<7} {where + ': ' if where else ''}{message}"
    line += (f"  {extras}" if extras else "") + (f"  [{correlation}]" if correlation else "")
    return line + (f"\n{exception}" if exception else "")


def humanize(line: str) -> str:
    """A line of a log file for a person; what is not JSON stays as it is."""
    if not line.startswith("{"):
        return line
    try:
        plain = json.loads(line)
    except ValueError:
        return line
    return human(plain) if isinstance(plain, dict) else line


def configure(
    component: str, *, as_json: bool | None = None, level: str | int = "INFO", stream: TextIO | None = None
) -> None:
    """Send this process's log lines to ``stream`` (stderr).

    Args:
        component: name of the process, as in ``windtunnel status``.
        as_json: JSON lines; by default for everything but a terminal. ``$WINDTUNNEL_LOG=human|json`` decides.
    """
    stream = stream or sys.stderr
    told = os.environ.get("WINDTUNNEL_LOG")
    if told in ("human", "json"):
        as_json = told == "json"
    if as_json is None:
        as_json = not stream.isatty()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(component) if as_json else HumanFormatter(component))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Chatty at INFO: one line per request.
    for name in ("httpx", "httpcore", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
