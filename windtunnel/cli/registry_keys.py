"""``windtunnel registry keys``: which keys sign, and which signatures count."""

from __future__ import annotations

from typing import Annotated

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home

app = typer.Typer(help="The keys that sign versions.", no_args_is_help=True)


@app.command(name="list")
def list_keys(context: typer.Context, json: JsonOption = False, home: HomeOption = None) -> None:
    """Public keys, oldest first: current, former (what they signed counts), revoked (it does not), and trusted ones of
    other installations."""
    from dataclasses import asdict
    from datetime import UTC, datetime

    from windtunnel.safety.keys import KeyRing

    keys = KeyRing.of(the_home(context, home)).keys()
    if json:
        talk.data_json("windtunnel.registry-keys/1", {"keys": [asdict(key) for key in keys]})
        return
    if not keys:
        talk.say("there is no key yet: the registry makes one when it starts")
        return
    rows = [("state", "made", "key", "")]
    for key in keys:
        made = datetime.fromtimestamp(key.created_at, UTC).strftime("%Y-%m-%d %H:%M")
        rows.append((key.state, made, key.id, key.reason or ""))
    talk.table(rows)


@app.command()
def rotate(context: typer.Context, home: HomeOption = None) -> None:
    """Make a new key. It signs from now on, also in a running registry; what the former one signed stays verifiable."""
    from windtunnel.safety.keys import KeyRing

    made = KeyRing.of(the_home(context, home)).rotate()
    talk.data(made.id)


@app.command()
def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="Its id, or the first eight characters or more.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; shown wherever its signatures are refused.")],
    home: HomeOption = None,
) -> None:
    """Let nothing count that KEY signed: those versions verify no longer and are not loaded again."""
    from windtunnel.safety.keys import KeyRing

    gone = KeyRing.of(the_home(context, home)).revoke(key, reason)
    talk.say(f"{gone.id} is revoked")
