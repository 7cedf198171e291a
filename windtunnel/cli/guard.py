"""``windtunnel guard``: hold the leases, in the foreground."""

from __future__ import annotations

import contextlib
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, the_home
from windtunnel.errors import UnavailableError

if TYPE_CHECKING:
    from windtunnel.serving.place import Place

NAME = "guard"


def command(
    context: typer.Context,
    tick: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the leases.")] = 1.0,
    seldon: Annotated[
        Path | None, typer.Option(help="Settings of Seldon (TOML): guard the models of its namespace instead.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Take candidates to 0 when their lease ends.

    The embedded stack runs one already, supervised; this is for a serving home that lives without it, or for a cluster.
    Ends with Ctrl-C or SIGTERM.
    """
    from windtunnel import logs
    from windtunnel.serving.release.guard import run

    logs.configure("guard")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with contextlib.ExitStack() as stack:
        place = None if seldon is None else _of_cluster(seldon, stop, stack)
        run(the_home(context, home), stop, tick, place=place)


def _of_cluster(path: Path, stop: threading.Event, stack: contextlib.ExitStack) -> Place:
    """The cluster that ``path`` names, once it answers; fed by one watch."""
    from windtunnel.serving.place import in_cluster
    from windtunnel.serving.seldon import Seldon

    place = in_cluster(Seldon.read(path), deploys=False)
    while not stop.is_set():
        try:
            stack.enter_context(place.backend.following())
            break
        except UnavailableError as error:
            talk.say(f"waiting for the cluster: {error.message}")
    return place
