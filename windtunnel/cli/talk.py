"""How the commands speak: data on stdout, talk on stderr, colours only where somebody looks."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

OK, FAILED, USAGE, VERDICT_FAIL, VERDICT_INCONCLUSIVE = 0, 1, 2, 3, 4

_COLOURS = {
    "healthy": "32",
    "degraded": "33",
    "unknown": "35",
    "unhealthy": "31",
    "ok": "32",
    "warn": "33",
    "fail": "31",
}


def say(line: str) -> None:
    """One line for a person, on stderr."""
    print(line, file=sys.stderr, flush=True)


def data(text: str) -> None:
    """Data, on stdout. A reader that went away (``| head``) ends the command quietly."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(OK) from None


def data_json(schema: str, plain: dict[str, Any]) -> None:
    """Data for machines; ``schema`` names its form and version, as in ``windtunnel.status/1``."""
    data(json.dumps({"schema": schema, **plain}, indent=2, default=str))


def moment(at: float) -> str:
    """Seconds since the epoch as people read them, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def coloured(word: str, stream: Any = None) -> str:
    """A word of a known meaning in its colour, where colours are wanted (NO_COLOR is heeded)."""
    stream = stream or sys.stdout
    code = _COLOURS.get(word)
    if code is None or os.environ.get("NO_COLOR") or not stream.isatty():
        return word
    return f"\x1b[{code}m{word}\x1b[0m"


def table(rows: Sequence[Sequence[str]], *, colour_column: int | None = None) -> None:
    """Rows in columns on stdout; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = []
        for column, cell in enumerate(row):
            padding = " " * (widths[column] - len(cell)) if column < len(row) - 1 else ""
            shown = coloured(cell) if column == colour_column and number else cell
            cells.append(shown + padding)
        data("  ".join(cells).rstrip())


def fail(error: BaseException, code: int = FAILED) -> NoReturn:
    """Say what went wrong and what to do, then leave. A traceback only with WINDTUNNEL_DEBUG."""
    if os.environ.get("WINDTUNNEL_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    say(f"windtunnel: {message}")
    for line in getattr(error, "missing", None) or ():
        say(f"  missing: {line}")
    hint = getattr(error, "hint", None)
    if hint:
        say(f"  -> {hint}")
    raise SystemExit(code)
