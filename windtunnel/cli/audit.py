"""``windtunnel audit``: who did what, whether the record of it is whole, and the record to take away."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli import audit_verify, talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home

app = typer.Typer(help="Who did what, and is the record whole?", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Who did what, and is the record whole?"""


app.command("verify")(audit_verify.verify)


@app.command()
def show(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="Only of this model; '' for what concerns none.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only by this user.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, as in set-alias.")] = None,
    outcome: Annotated[str | None, typer.Option(help="Only done, or only refused.")] = None,
    story: Annotated[str | None, typer.Option(help="Only of this correlation id.")] = None,
    since: Annotated[str | None, typer.Option(help="Only from then on: 2026-11-21 or 2026-11-21T14:05 (UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Only before then.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Changes and refusals, newest first."""
    from dataclasses import asdict

    from windtunnel.cli import person

    if outcome not in (None, "done", "refused"):
        raise typer.BadParameter("expected done or refused", param_hint="--outcome")
    with person.connect(the_home(context, home)) as registry:
        found = registry.audit(
            model,
            limit,
            actor=actor,
            action=action,
            outcome=outcome,
            correlation_id=story,
            since=_time(since, "--since"),
            until=_time(until, "--until"),
        )
    if json:
        talk.data_json("windtunnel.audit/1", {"entries": [asdict(one) for one in found]})
        return
    rows = [("entry", "time", "actor", "action", "model", "version", "outcome", "why")]
    for one, former in zip(found, [*found[1:], None], strict=True):
        # Entries are in the order of their numbers, whatever the clock said.
        back = " (clock went back)" if former is not None and one.at < former.at - 1 else ""
        why = one.detail.get("message") or one.detail.get("reason") or one.detail.get("cause") or ""
        told = f"{one.code}: {why}" if one.code else str(why)
        when = datetime.fromtimestamp(one.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        rows.append(
            (str(one.seq), when + back, one.actor, one.action, one.model or "-", one.version or "-", one.outcome, told)
        )
    talk.table(rows)
    if len(found) == limit:
        talk.say(f"the newest {limit}; --limit shows more")


@app.command()
def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to; - for stdout.")],
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """The whole audit, one entry a line, oldest first, exactly as it was hashed."""
    import sys

    from windtunnel.cli import person
    from windtunnel.files import write_with
    from windtunnel.registry.auditfiles import write_log

    with person.connect(the_home(context, home)) as registry:
        if str(file) == "-":
            write_log(registry.audit_log(), sys.stdout.buffer)
            return
        counted = 0

        def write(temporary: Path) -> None:
            nonlocal counted
            with temporary.open("wb") as stream:
                counted = write_log(registry.audit_log(), stream)

        write_with(file, write)
    if json:
        talk.data_json("windtunnel.audit-export/1", {"file": str(file), "entries": counted})
    else:
        talk.say(f"{counted} entries in {file}; check them with: windtunnel audit verify {file} --checkpoints PLACE")


def _time(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time; expected 2026-11-21T14:05", param_hint=option) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
