"""``windtunnel rollout``: a person's hand on a running release."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from typing import Annotated

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home

app = typer.Typer(help="Act on a running release.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Act on a running release."""


@app.command()
def abort(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model whose release must stop.")],
    reason: Annotated[str, typer.Option(help="Why; kept with the release.")],
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Take every candidate of MODEL to 0 % now. Needs neither MLflow nor Airflow."""
    from windtunnel.names import check_model_name
    from windtunnel.serving.local import LocalBackend

    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    observed = LocalBackend(the_home(context, home)).abort(
        check_model_name(model), reason.strip(), by=getpass.getuser()
    )
    if json:
        talk.data_json("windtunnel.rollout-abort/1", asdict(observed))
        return
    talk.say(f"{model}: every candidate is at 0 %")
    for arm in observed.arms.values():
        talk.data(f"version {arm.version}  {arm.weight} %  {arm.state}")
