"""``windtunnel demo``: the whole life of a model on real data."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from typing import Annotated

import typer

from windtunnel.cli.options import HomeOption, JsonOption

NAME = "demo"


class Harm(StrEnum):
    """What is wrong with the version that looks fine offline."""

    ERRORS = "errors"
    SLOW = "slow"
    WRONG = "wrong"
    CRASH = "crash"


def command(
    context: typer.Context,
    harm: Annotated[Harm, typer.Option(help="What the harmful version does.")] = Harm.ERRORS,
    json: JsonOption = False,
    exit_: Annotated[bool, typer.Option("--exit", help="Stop everything at the end.")] = False,
    home: HomeOption = None,
) -> None:
    """Fly a model on real data, from start to end.

    Train, release, improve, roll back a harmful version, notice drift, retrain; about ten minutes. Its home is
    ~/.windtunnel-demo unless told, so that it never touches a stack in use.
    """
    code = import_module("windtunnel_examples.visits.demo").main(
        home=home or context.obj, harm=harm.value, json_output=json, exit_after=exit_
    )
    raise SystemExit(int(code or 0))
