"""``windtunnel guard``: hold the leases, in the foreground."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from windtunnel.cli.options import HomeOption, the_home

NAME = "guard"


def command(
    context: typer.Context,
    tick: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the leases.")] = 1.0,
    home: HomeOption = None,
) -> None:
    """Take candidates to 0 when their lease ends.

    The embedded stack runs one already, supervised; this is for a serving home that lives without it. Ends with
    Ctrl-C or SIGTERM.
    """
    from windtunnel import logs
    from windtunnel.serving.guard import run

    logs.configure("guard")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    run(the_home(context, home), stop, tick)
