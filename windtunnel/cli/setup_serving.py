"""``windtunnel setup-serving``: make the model servers' environment."""

from __future__ import annotations

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, the_home

NAME = "setup-serving"


def command(context: typer.Context, home: HomeOption = None) -> None:
    """Make the model servers' environment.

    MLServer cannot share one with Airflow; this makes HOME/serving-env with pip.
    """
    from windtunnel.stack.serving_env import make

    talk.data(make(the_home(context, home), tell=talk.say))
