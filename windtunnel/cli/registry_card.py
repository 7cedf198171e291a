"""``windtunnel registry card|comment``: what people need to know of a model, and what they say of a version."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home
from windtunnel.cli.registry_approve import ModelArgument, ReasonOption, VersionArgument, why

app = typer.Typer(
    help="What people need to know of a model before they use it.", no_args_is_help=True, rich_markup_mode=None
)

VersionOption = Annotated[int | None, typer.Option("--version", help="Of this version; of the model unless told.")]


@app.callback()
def _group() -> None:
    """Purpose, approved uses, risk, owner and limits of a model."""


@app.command()
def show(
    context: typer.Context,
    model: ModelArgument,
    version: VersionOption = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """The card in force, as YAML."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        found = registry.card(model, version)
    _tell(found, json)


@app.command("set")
def set_(
    context: typer.Context,
    model: ModelArgument,
    file: Annotated[Path, typer.Argument(help="YAML file with the card.")],
    reason: ReasonOption,
    version: VersionOption = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Set the card of MODEL, or of one version where it differs; what the file leaves out is the card's below."""
    from windtunnel.cli import person
    from windtunnel.spec.load import load_card

    card, reason = load_card(file).said, why(reason)
    with person.connect(the_home(context, home)) as registry:
        found = registry.set_card(model, card, reason, version=version)
    _tell(found, json)


@app.command()
def history(
    context: typer.Context,
    model: ModelArgument,
    version: VersionOption = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Every card that was set: who, when and why, newest first."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        found = registry.card_history(model, version)
    if json:
        talk.data_json("windtunnel.registry-card-history/1", {"history": [asdict(one) for one in found]})
    elif not found:
        talk.data(f"{model}: nobody wrote a card")
    else:
        rows = [
            [
                one.version or "all",
                one.layer,
                str(one.number),
                talk.moment(one.at),
                one.actor,
                ", ".join(one.card) or "nothing",
                one.reason,
            ]
            for one in found
        ]
        talk.table([["VERSION", "LAYER", "NUMBER", "AT", "BY", "SAYS", "WHY"], *rows])


def comment(
    context: typer.Context,
    model: ModelArgument,
    version: VersionArgument,
    text: Annotated[str, typer.Argument(help="What you have to say.")],
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Say something about VERSION; it is kept for ever, with who and when."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        said = registry.comment(model, version, why(text, "TEXT"))
    if json:
        talk.data_json("windtunnel.registry-comment/1", asdict(said))
    else:
        talk.data(f"comment {said.seq} on {model} version {version}, by {said.actor}")


def lines(card: dict[str, Any]) -> list[str]:
    """A card as people read it, without its free text."""
    return [
        f"{name}: {'; '.join(value) if isinstance(value, list) else value}"
        for name, value in card.items()
        if name != "text"
    ]


def _tell(found: dict[str, Any], json: bool) -> None:
    from windtunnel.spec.load import dumped

    if json:
        talk.data_json("windtunnel.registry-card/1", found)
        return
    of = f"version {found['version']} of {found['model']}" if found["version"] else found["model"]
    if not found["card"]:
        talk.say(f"nobody wrote a card of {of}")
        return
    talk.say(f"in force for {of}:")
    talk.data(dumped(found["card"]).rstrip())
