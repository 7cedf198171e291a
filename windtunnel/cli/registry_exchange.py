"""``windtunnel registry export`` and ``import``, and the installations whose word counts here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home

if TYPE_CHECKING:
    from windtunnel.registry.importing import Imported

ModelsOption = Annotated[list[str] | None, typer.Option("--model", help="This model alone; repeatable.")]


def join(app: typer.Typer) -> None:
    """Add them to the group."""
    app.command("export")(export)
    app.command("import")(import_)
    app.command("trust-installation")(trust)
    app.command("installations")(installations)
    app.command("distrust-installation")(distrust)


def export(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; it is not there yet.")],
    model: ModelsOption = None,
    version: Annotated[str | None, typer.Option("--version", help="One version of the one model, to move it.")] = None,
    without_files: Annotated[bool, typer.Option("--without-files", help="Records and audit alone.")] = False,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Write the registry, or some models of it, or one version, into FOLDER, signed by this installation."""
    from dataclasses import asdict

    from windtunnel.cli import person
    from windtunnel.registry import exporting

    with person.connect(the_home(context, home)) as registry:
        told = exporting.write(registry, folder, models=model or (), version=version, files=not without_files)
    if json:
        talk.data_json("windtunnel.registry-export/1", asdict(told))
        return
    talk.data(
        f"{len(told.models)} models, {told.versions} sealed versions, {told.files} files ({told.size} bytes), "
        f"{told.entries} entries of the audit: {folder}"
    )


def import_(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What 'windtunnel registry export' wrote.")],
    model: ModelsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and say what would be done.")] = False,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Bring an export into this registry.

    Models are restored as they were: numbers, evidence, history. One version comes as a new version with its evidence,
    sealed and signed here. Twice is as good as once. Nothing is changed where the registry has something else.
    """
    from dataclasses import asdict

    from windtunnel.cli import person
    from windtunnel.registry import importing

    with person.connect(the_home(context, home)) as registry:
        told = importing.read(registry, folder, models=model or (), dry=dry_run)
    if json:
        talk.data_json("windtunnel.registry-import/1", asdict(told))
    else:
        _tell(told)


def _tell(told: Imported) -> None:
    talk.say(f"signed by {told.installation or 'this installation'}")
    for name in told.new:
        talk.data(f"{'would come' if told.dry else 'new'}  {name}")
    for name in told.same:
        talk.data(f"here already  {name}")
    if not told.dry:
        talk.data(
            f"{told.uploaded} bytes of files; the audit {'is kept here now' if told.audit else 'was here already'}"
        )


def trust(
    context: typer.Context,
    keyfile: Annotated[Path, typer.Argument(metavar="KEYFILE", help="Its public key: HOME/keys/ID.pem there.")],
    name: Annotated[str, typer.Option("--name", help="What it is called here, as staging.")],
    home: HomeOption = None,
) -> None:
    """Let what another installation signs count here: its exports and the versions it moves."""
    from windtunnel.cli import person
    from windtunnel.errors import IntegrityError

    try:
        pem = keyfile.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"{keyfile} holds no public key: {error}", hint="expected HOME/keys/ID.pem of it"
        ) from None
    with person.connect(the_home(context, home)) as registry:
        made = registry.trust_installation(name, pem)
    talk.data(f"{made['installation']}: {made['id']}")


def installations(context: typer.Context, json: JsonOption = False, home: HomeOption = None) -> None:
    """Other installations whose keys are known here, and whether they count."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        found = registry.installations()
    if json:
        talk.data_json("windtunnel.registry-installations/1", {"installations": found})
        return
    if not found:
        talk.say("no other installation is trusted")
        return
    talk.table(
        [
            ("INSTALLATION", "STATE", "KEY", ""),
            *((o["installation"], o["state"], o["id"], o["reason"] or "") for o in found),
        ]
    )


def distrust(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is called here.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; shown wherever its signatures are refused.")],
    home: HomeOption = None,
) -> None:
    """Let nothing count any more that another installation signs. Versions that came from there stay."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        gone = registry.distrust_installation(name, reason)
    talk.say(f"{name} is trusted no longer ({len(gone)} keys)")
