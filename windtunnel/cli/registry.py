"""``windtunnel registry``: one file per group of commands."""

from __future__ import annotations

import typer

from windtunnel.cli import (
    registry_exchange,
    registry_find,
    registry_keeping,
    registry_keys,
    registry_law,
    registry_verify,
)

app = typer.Typer(help="What the registry holds, demands and allows.", no_args_is_help=True, rich_markup_mode=None)
registry_law.join(app)
registry_find.join(app)
registry_keeping.join(app)
registry_exchange.join(app)
app.command(name="verify")(registry_verify.verify)
app.add_typer(registry_keys.app, name="keys")
