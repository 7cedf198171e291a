"""``windtunnel logs``: what a component has written."""

from __future__ import annotations

from typing import Annotated

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, the_stack

NAME = "logs"


def command(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Component, as 'windtunnel status' names it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 100,
    raw: Annotated[bool, typer.Option("--json", help="JSON lines as they are written, not the human form.")] = False,
    home: HomeOption = None,
) -> None:
    """Print a component's log."""
    from windtunnel.logs import humanize
    from windtunnel.stack.tail import follow as follow_file

    stack = the_stack(context, home)
    path = stack.log_file(name)
    show = (lambda line: line) if raw else humanize
    for line in stack.tail(name, lines):
        talk.data(show(line))
    if follow:
        for line in follow_file(path):
            talk.data(show(line))
