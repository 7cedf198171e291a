"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from windtunnel.home import Home
    from windtunnel.stack.stack import Stack

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", metavar="FOLDER", help="Home of the stack [$WINDTUNNEL_HOME, else ~/.windtunnel].", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
SeldonOption = Annotated[
    Path | None,
    typer.Option(
        "--seldon",
        metavar="FILE",
        help="Settings of Seldon (TOML), where the model is served in a cluster [$WINDTUNNEL_SELDON].",
        show_default=False,
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def the_home(context: typer.Context, home: Path | None) -> Home:
    """The home told after the command, before it, or by the environment."""
    from windtunnel.home import Home

    return Home.find(home or context.obj)


def the_stack(context: typer.Context, home: Path | None) -> Stack:
    from windtunnel.stack.stack import Stack

    return Stack(the_home(context, home))
