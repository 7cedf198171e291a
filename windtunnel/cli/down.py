"""``windtunnel down``: stop the embedded stack."""

from __future__ import annotations

import time

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, the_stack

NAME = "down"


def command(context: typer.Context, home: HomeOption = None) -> None:
    """Stop everything; data stays.

    Model servers and training runs are ended too.
    """
    start = time.monotonic()
    stack = the_stack(context, home)
    left = stack.down(tell=talk.say)
    if left:
        for line in left:
            talk.say(f"would not end: {line}")
        raise SystemExit(talk.FAILED)
    talk.say(f"stopped after {time.monotonic() - start:.1f} s; nothing of {stack.home.root} runs")
