"""``windtunnel audit verify``: against its own hashes and against what was signed and published."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home

if TYPE_CHECKING:
    from collections.abc import Sequence

    from windtunnel.evidence.auditcheck import Report
    from windtunnel.evidence.checkpoint import VerifierKey
    from windtunnel.home import Home
    from windtunnel.registry.auditfiles import Place

#: Breaks told to a person; --json has more.
_TOLD = 10


def verify(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="An export, checked without any server; else the registry is asked.")
    ] = None,
    checkpoints: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Folder or URL of checkpoints [HOME/audit/checkpoints].")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Public keys to trust, one a line [HOME/audit/*.vkey].")
    ] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Is the audit whole?

    Exit code 0: whole, and a trusted checkpoint vouches for it. 3: broken; where and how is told. 4: no break, but no
    trusted checkpoint to compare with, so a cut end or a history made anew would not show. 1: it could not be checked.
    """
    import tempfile

    from windtunnel.evidence import Outcome
    from windtunnel.registry import auditfiles

    where = the_home(context, home)
    place = auditfiles.place(checkpoints or where.audit / "checkpoints")
    keys, trust = _trusted(where, key, place)
    with ExitStack() as stack:
        changeable = None
        points, problems = auditfiles.checkpoints_in(place, keys)
        if file is None:
            from windtunnel.cli import person

            # After the checkpoints: the log may be longer than they know, never shorter.
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="windtunnel-audit-")))
            registry = stack.enter_context(person.connect(where))
            state = registry.audit_state()
            changeable = bool(state["changeable"])
            if state["problem"]:
                talk.say(f"the registry publishes no checkpoint: {state['problem']}")
            file = folder / "audit.jsonl"
            with file.open("wb") as stream:
                auditfiles.write_log(registry.audit_log(), stream)
        report = auditfiles.verify(file, points, problems)
    if json:
        talk.data_json("windtunnel.audit-verify/1", {**report.to_dict(), "trust": trust, "changeable": changeable})
    else:
        _tell(report, trust, changeable)
    code = {Outcome.FAIL: talk.VERDICT_FAIL, Outcome.INCONCLUSIVE: talk.VERDICT_INCONCLUSIVE}.get(report.outcome)
    if code:
        raise SystemExit(code)


def _trusted(home: Home, key: Path | None, place: Place) -> tuple[Sequence[VerifierKey], str]:
    """Keys to believe, and a word on why."""
    from windtunnel.registry import auditfiles

    if key is not None:
        return auditfiles.keys_of(key), f"the keys in {key}"
    own = [one for file in sorted(home.audit.glob("*.vkey")) for one in auditfiles.keys_of(file)]
    if own:
        return own, f"the keys of {home.audit}"
    lying = auditfiles.keys_in(place)
    return lying, "the keys that lie beside the checkpoints: whoever can write there can make both" if lying else "none"


def _tell(report: Report, trust: str, changeable: bool | None) -> None:
    for one in report.breaks[:_TOLD]:
        model = f" ({one.model})" if one.model else ""
        talk.data(f"{one.kind}{model}: {one.message}")
    if report.broken > min(len(report.breaks), _TOLD):
        talk.data(f"... {report.broken} breaks in all; the first stands first")
    for step in report.steps[:_TOLD]:
        talk.data(f"clock: entry {step.seq} is {step.seconds:g} s earlier than the one before; the order is by number")
    if report.stepped > _TOLD:
        talk.data(f"... the clock went back {report.stepped} times in all")
    rest = report.entries - report.vouched
    talk.data(
        f"{report.outcome}: {report.entries} entries of {report.models} models, {report.broken} breaks; "
        f"{report.checkpoints} checkpoints hold, the newest over {report.vouched} entries"
    )
    talk.say(f"root {report.root}; trusted: {trust}")
    if report.gaps:
        talk.say(f"{report.gaps} numbers have no entry: transactions that were undone")
    if report.checkpoints and rest:
        talk.say(f"the newest {rest} entries are under no checkpoint yet: their end could be cut unseen")
    if not report.checkpoints:
        talk.say("no trusted checkpoint holds: a cut end, or a history made anew, would not show")
    if changeable:
        talk.say("the server's own database role could change entries: see docs/how-to/check-the-audit.md")
