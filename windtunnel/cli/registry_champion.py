"""``windtunnel registry champion|history|rollback|reviews|close-review``: who is champion, and the way back."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home
from windtunnel.cli.registry_approve import ModelArgument, ReasonOption, why

if TYPE_CHECKING:
    from windtunnel.registry.approvals import ReviewRecord
    from windtunnel.registry.records import ChampionRecord

_HEAD = ["VERSION", "SEMVER", "SINCE", "UNTIL", "BY", "POLICY", "WHY"]


def champion(
    context: typer.Context,
    model: ModelArgument,
    at: Annotated[str | None, typer.Option(help="Then, as 2026-01-31T12:00 (UTC unless it says otherwise).")] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Which version is champion, or was."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        if at is None:
            found = next((one for one in registry.champion_history(model) if one.until is None), None)
        else:
            found = registry.champion_at(model, _moment(at))
    if json:
        talk.data_json("windtunnel.registry-champion/1", {"model": model, "champion": found and asdict(found)})
    elif found is None:
        talk.data(f"{model}: no champion{f' at {at}' if at else ''}")
    else:
        talk.table([_HEAD, _row(found)])


def history(context: typer.Context, model: ModelArgument, json: JsonOption = False, home: HomeOption = None) -> None:
    """Who was champion from when until when, and why, newest first."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        found = registry.champion_history(model)[::-1]
    if json:
        talk.data_json("windtunnel.registry-history/1", {"model": model, "history": [asdict(one) for one in found]})
    elif not found:
        talk.data(f"{model}: never had a champion")
    else:
        talk.table([_HEAD, *map(_row, found)])


def rollback(
    context: typer.Context,
    model: ModelArgument,
    reason: ReasonOption,
    to: Annotated[int | None, typer.Option("--to", help="A former champion; the last one unless told.")] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Emergency: make a former champion champion again, now.

    Needs no approval and no new evidence. A release that is under way is ended. Somebody else must close the review
    that it opens.
    """
    from windtunnel.cli import person
    from windtunnel.cli.registry_traffic import bring_along

    where, said = the_home(context, home), why(reason)
    with person.connect(where) as registry:
        review = registry.rollback(model, said, to=to)
        traffic = bring_along(where, registry, model, f"emergency rollback: {said}")
    if json:
        talk.data_json("windtunnel.registry-rollback/1", {**asdict(review), "traffic": traffic})
        return
    talk.data(f"{model}: version {review.to_version} is champion again; review {review.id} is open")
    talk.say(traffic)


def reviews(
    context: typer.Context,
    closed: Annotated[bool, typer.Option("--closed", help="Closed ones, too.")] = False,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Reviews of emergency rollbacks that are still open."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        found = registry.reviews(closed=closed)
    if json:
        talk.data_json("windtunnel.registry-reviews/1", {"reviews": [asdict(one) for one in found]})
    elif not found:
        talk.data("there was no emergency" if closed else "no review is open")
    else:
        talk.table([["REVIEW", "MODEL", "FROM", "TO", "AT", "BY", "WHY", "CLOSED"], *map(_review, found)])


def close_review(
    context: typer.Context,
    review: Annotated[str, typer.Argument(help="Its id, as reviews shows it.")],
    note: Annotated[str, typer.Option(help="What was found; kept in the audit.")],
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Close the review of somebody else's rollback."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        done = registry.close_review(review, why(note, "--note"))
    if json:
        talk.data_json("windtunnel.registry-review/1", asdict(done))
    else:
        talk.data(f"closed: rollback of {done.model} to version {done.to_version} by {done.by}")


def _row(one: ChampionRecord) -> list[str]:
    until = "now" if one.until is None else _time(one.until)
    return [one.version, one.semver or "-", _time(one.since), until, one.actor, one.policy or "-", one.reason]


def _review(one: ReviewRecord) -> list[str]:
    closed = "-" if one.closed_at is None else f"{_time(one.closed_at)} by {one.closed_by}: {one.note}"
    return [one.id, one.model, one.from_version or "-", one.to_version, _time(one.at), one.by, one.reason, closed]


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _moment(text: str) -> float:
    from datetime import UTC, datetime

    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time; write 2026-01-31T12:00", param_hint="--at") from None
    return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
