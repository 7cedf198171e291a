"""``windtunnel check``: is a description right?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import JsonOption

NAME = "check"


def command(
    file: Annotated[Path, typer.Argument(help="YAML file with the description of a model.")],
    json: JsonOption = False,
) -> None:
    """Check the description of a model.

    A mistake is shown with file, line, what was found and what was expected.
    """
    from windtunnel.errors import DescriptionError
    from windtunnel.spec.load import load_model

    try:
        model = load_model(file)
    except DescriptionError as error:
        if json:
            talk.data_json(
                "windtunnel.check/1", {"ok": False, "file": str(file), "message": error.message, "hint": error.hint}
            )
        talk.fail(error)
    if json:
        talk.data_json("windtunnel.check/1", {"ok": True, "file": str(file), "model": model.name})
    else:
        talk.data(f"{file}: ok, describes {model.name}")
