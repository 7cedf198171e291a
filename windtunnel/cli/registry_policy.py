"""``windtunnel registry policy``: what the registry demands, and every version of it."""

from __future__ import annotations

import json as json_module
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home

app = typer.Typer(help="What the registry demands.", no_args_is_help=True, rich_markup_mode=None)

ModelOption = Annotated[str | None, typer.Option("--model", help="Of this model; of the house unless told.")]
FileArgument = Annotated[Path, typer.Argument(help="YAML file with the policy.")]


@app.callback()
def _group() -> None:
    """What the registry demands before a version may move."""


@app.command()
def show(context: typer.Context, model: ModelOption = None, json: JsonOption = False, home: HomeOption = None) -> None:
    """The policy in force, as YAML."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        found = registry.policy_document(model)
    if json:
        talk.data_json("windtunnel.registry-policy/1", found)
        return
    talk.say(f"in force for {model or 'the house'}: {found['name']}")
    talk.data(_yaml(found["policy"]))


@app.command("set")
def set_(
    context: typer.Context,
    file: FileArgument,
    reason: Annotated[str, typer.Option(help="Why; kept with this version of the policy.")],
    model: ModelOption = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Set the policy of the house or of a model; it takes an administrator."""
    from windtunnel.cli import person

    plain = _read(file)
    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    with person.connect(the_home(context, home)) as registry:
        found = registry.set_policy_document(plain, reason.strip(), model=model)
    if json:
        talk.data_json("windtunnel.registry-policy/1", found)
    else:
        talk.data(f"in force for {model or 'the house'}: {found['name']}")


@app.command()
def history(
    context: typer.Context, model: ModelOption = None, json: JsonOption = False, home: HomeOption = None
) -> None:
    """Every version of the policy: who set it, when and why."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        found = registry.policy_history(model)
    if json:
        talk.data_json("windtunnel.registry-policy-history/1", {"history": [asdict(one) for one in found]})
    elif not found:
        talk.data(f"no policy was set for {model or 'the house'}")
    else:
        rows = [
            [
                one.layer,
                str(one.number),
                time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one.at)),
                one.actor,
                one.reason,
            ]
            for one in found
        ]
        talk.table([["LAYER", "NUMBER", "AT", "BY", "WHY"], *rows])


@app.command()
def check(
    context: typer.Context,
    file: FileArgument,
    model: ModelOption = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Is this a policy? With --model: may this model have it, and what would be in force?"""
    plain = _read(file)
    effective: dict[str, Any] | None = None
    if model is not None:
        from windtunnel.cli import person

        with person.connect(the_home(context, home)) as registry:
            effective = registry.check_policy(plain, model=model)
    if json:
        talk.data_json("windtunnel.registry-policy-check/1", {"ok": True, "file": str(file), "policy": effective})
        return
    talk.say(f"{file}: ok")
    if effective is not None:
        talk.data(_yaml(effective))


@app.command()
def schema() -> None:
    """JSON Schema of a policy file."""
    from windtunnel.spec.policy import schema as made

    talk.data(json_module.dumps(made(), indent=2))


def _read(file: Path) -> dict[str, Any]:
    from windtunnel.spec.load import load_policy

    return load_policy(file).model_dump(mode="json", exclude_unset=True)


def _yaml(plain: dict[str, Any]) -> str:
    from windtunnel.spec.load import dumped

    return dumped(plain).rstrip()
