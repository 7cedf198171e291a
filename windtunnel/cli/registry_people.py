"""``windtunnel registry people``: users of the registry and their roles."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home

app = typer.Typer(help="Users and their roles.", no_args_is_help=True, rich_markup_mode=None)

NameArgument = Annotated[str, typer.Argument(help="Name of the user.")]
_ROLES = "viewer, data_scientist, ml_engineer, approver, admin; repeatable."
RoleOption = Annotated[list[str], typer.Option("--role", help=_ROLES)]
RolesOption = Annotated[list[str] | None, typer.Option("--role", help=_ROLES)]

#: Password of a new user, where nobody can be asked.
ENV_NEW = "WINDTUNNEL_NEW_PASSWORD"


@app.callback()
def _group() -> None:
    """Users and their roles."""


@app.command("list")
def list_(context: typer.Context, json: JsonOption = False, home: HomeOption = None) -> None:
    """Every user with the roles it has."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        found = registry.people()
    if json:
        talk.data_json("windtunnel.registry-people/1", {"people": found})
    else:
        talk.table([["USER", "ROLES"], *([one["name"], ", ".join(one["roles"])] for one in found)])


@app.command()
def add(
    context: typer.Context,
    name: NameArgument,
    role: RolesOption = None,
    home: HomeOption = None,
) -> None:
    """Add a user; the password is asked for, or taken from $WINDTUNNEL_NEW_PASSWORD."""
    from windtunnel.cli import person

    password = os.environ.get(ENV_NEW)
    if password is None and sys.stdin.isatty():
        password = typer.prompt(f"password of {name}", hide_input=True, confirmation_prompt=True, err=True)
    if not password:
        raise typer.BadParameter(f"there is no terminal to ask for a password; set {ENV_NEW}", param_hint="name")
    with person.connect(the_home(context, home)) as registry:
        made = registry.add_person(name, password)
        if role:
            made = registry.grant(name, role)
    talk.data(f"{made['name']}: {', '.join(made['roles'])}")


@app.command()
def grant(context: typer.Context, name: NameArgument, role: RoleOption, home: HomeOption = None) -> None:
    """Give a user exactly these roles."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        made = registry.grant(name, role)
    talk.data(f"{made['name']}: {', '.join(made['roles'])}")
