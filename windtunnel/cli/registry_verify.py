"""``windtunnel registry verify``: are the files what was sealed, and is the signature by a key we trust?"""

from __future__ import annotations

from typing import Annotated

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home


def verify(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="The model; left out with --all.")] = None,
    version: Annotated[str | None, typer.Argument(help="One version; every one when left out.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every sealed version of every model.")] = False,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Verify the files and the signature of sealed versions.

    Every file is read and compared with the manifest; the signature must be by a key of this installation that was not
    revoked. Exit code 0 when all are whole, 3 when one is not, 1 when one could not be looked at.
    """
    from windtunnel.cli import person
    from windtunnel.errors import IntegrityError, ServingError, UnavailableError
    from windtunnel.names import check_model_name
    from windtunnel.serving import verification

    if (model is None) == (not everything):
        raise typer.BadParameter("tell a MODEL, or --all")
    where = the_home(context, home)
    with person.connect(where) as registry:
        names = [summary.name for summary in registry.models()] if model is None else [check_model_name(model)]
        if version is not None:
            records = [registry.version(names[0], version)]
        else:
            records = [record for name in names for record in registry.versions(name) if record.ready]
    found, unknown = [], []
    for record in records:
        try:
            found.append(verification.verify(where, record))
        except (UnavailableError, ServingError, IntegrityError) as error:
            unknown.append({"model": record.model, "version": record.version, "reason": error.message})
    whole = all(one.whole for one in found)
    if json:
        plain = {"whole": whole and not unknown, "versions": [one.to_dict() for one in found], "unknown": unknown}
        talk.data_json("windtunnel.registry-verify/1", plain)
    else:
        for one in found:
            talk.data(f"{'whole' if one.whole else 'BROKEN'}  {one.model} {one.version}: {one.reason}")
        for lost in unknown:
            talk.data(f"unknown  {lost['model']} {lost['version']}: {lost['reason']}")
        if not records:
            talk.say("there is no sealed version")
    if not whole:
        raise SystemExit(talk.VERDICT_FAIL)
    if unknown:
        raise SystemExit(talk.FAILED)
