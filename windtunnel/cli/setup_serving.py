"""``windtunnel setup-serving``: make the model servers' environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, the_home

NAME = "setup-serving"


def command(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Of an environment of its own: serving.environment.")] = None,
    requirements: Annotated[Path | None, typer.Argument(help="What else is in it: a requirements file.")] = None,
    home: HomeOption = None,
) -> None:
    """Make the model servers' environment.

    MLServer cannot share one with Airflow; this makes HOME/serving-env with pip, or with a name HOME/serving-envs/NAME,
    for models that need other packages.
    """
    from windtunnel.stack.serving_env import make

    talk.data(make(the_home(context, home), name, requirements, tell=talk.say))
