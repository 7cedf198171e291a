"""``windtunnel uninstall``: stop the stack and delete its home."""

from __future__ import annotations

import sys

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, YesOption, the_stack

NAME = "uninstall"


def command(context: typer.Context, yes: YesOption = False, home: HomeOption = None) -> None:
    """Stop everything and delete the home.

    Every model, run and log in it is lost.
    """
    from windtunnel.stack.remove import remove

    stack = the_stack(context, home)
    if not stack.home.root.exists():
        talk.say(f"{stack.home.root} is not there; nothing to do")
        return
    if not yes:
        if not sys.stdin.isatty():
            talk.say("windtunnel: this deletes every model and run in the home; add --yes")
            raise SystemExit(talk.USAGE)
        typer.confirm(f"Delete {stack.home.root} with every model, run and log in it?", abort=True, err=True)
    remove(stack)
    talk.say(f"{stack.home.root} is gone")
