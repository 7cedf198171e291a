"""``windtunnel registry keys``: which keys sign, and which signatures count."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home

if TYPE_CHECKING:
    from collections.abc import Callable

    from windtunnel.safety.keys import Key, KeyRing

SecretOption = Annotated[
    bool,
    typer.Option("--secret", help="Change a cluster's secret: its JSON from stdin, the changed one on stdout."),
]

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
def rotate(
    context: typer.Context,
    secret: SecretOption = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="With --secret: the key of the audit instead, under the log's old name.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Make a new key. It signs from now on, also in a running registry; what the former one signed stays verifiable."""
    from windtunnel.safety import keysecret
    from windtunnel.safety.keys import KeyRing

    if audit:
        if not secret:
            raise typer.BadParameter("only with --secret; in a home, remove secrets/audit-key and start anew")
        talk.say(f"{_filtered(keysecret.rotate_audit)} signs the audit from now on")
    elif secret:
        talk.say(f"{_in_secret(lambda ring: ring.rotate()).id} signs from now on")
    else:
        talk.data(KeyRing.of(the_home(context, home)).rotate().id)


@app.command()
def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="Its id, or the first eight characters or more.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; shown wherever its signatures are refused.")],
    secret: SecretOption = False,
    home: HomeOption = None,
) -> None:
    """Let nothing count that KEY signed: those versions verify no longer and are not loaded again."""
    from windtunnel.safety.keys import KeyRing

    if secret:
        gone = _in_secret(lambda ring: ring.revoke(key, reason))
    else:
        gone = KeyRing.of(the_home(context, home)).revoke(key, reason)
    talk.say(f"{gone.id} is revoked")


@app.command()
def trust(
    keyfile: Annotated[Path, typer.Argument(help="The other's public key: HOME/keys/ID.pem of it.")],
    name: Annotated[str, typer.Option("--name", help="What the other installation is called here.")],
) -> None:
    """Trust another installation's key in a cluster's secret (JSON from stdin, the changed one on stdout); elsewhere
    use 'windtunnel registry trust-installation'."""
    try:
        pem = keyfile.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{keyfile}: {error.strerror}") from error
    talk.say(f"{_in_secret(lambda ring: ring.adopt(pem, name)).id} is trusted as {name}")


@app.command(name="secret")
def secret_of(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What the secret is called.")],
    new: Annotated[bool, typer.Option("--new", help="New keys, instead of those of the home.")] = False,
    home: HomeOption = None,
) -> None:
    """Print the keys as a cluster's secret, for 'kubectl apply -f -': what a registry without a volume signs by."""
    import json
    import tempfile

    from windtunnel.safety import keysecret
    from windtunnel.safety.keys import KeyRing

    with tempfile.TemporaryDirectory(prefix="windtunnel-keys-") as made:
        folder = Path(made)
        if new:
            keysecret.fresh(folder)
        else:
            found = the_home(context, home)
            keysecret.collect(KeyRing.of(found), found.secrets / keysecret.AUDIT, folder)
        talk.data(json.dumps(keysecret.manifest(name, folder), indent=2))


@app.command(name="public")
def public_of(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What the ConfigMap is called.")],
    home: HomeOption = None,
) -> None:
    """Print the public keys as a ConfigMap, for 'kubectl apply -f -': whose signatures count in pods of models."""
    import json

    from windtunnel.safety import keysecret
    from windtunnel.safety.keys import KeyRing

    talk.data(json.dumps(keysecret.public(name, KeyRing.of(the_home(context, home))), indent=2))


def _in_secret(change: Callable[[KeyRing], Key]) -> Key:
    from windtunnel.safety import keysecret
    from windtunnel.safety.keys import KeyRing

    made: Key = _filtered(lambda folder: change(KeyRing(folder / keysecret.PRIVATE, folder)))
    return made


def _filtered(change: Callable[[Path], Any]) -> Any:
    import json
    import sys

    from windtunnel.safety import keysecret

    secret, answer = keysecret.changed(sys.stdin.read(), change)
    talk.data(json.dumps(secret, indent=2))
    return answer
