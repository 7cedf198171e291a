"""``windtunnel rollout show|history|replay``: what is, what was, and whether the decisions can be made again."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, SeldonOption, the_home

if TYPE_CHECKING:
    from windtunnel.registry.records import RolloutRecord

ModelArgument = Annotated[str, typer.Argument(help="The model whose release it is.")]


def show(
    context: typer.Context,
    model: ModelArgument,
    seldon: SeldonOption = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """How MODEL's newest release stands.

    Step, traffic, gates with their evidence, orders, last decision. With the registry down it is read from the look
    log, beside the traffic.
    """
    from windtunnel.cli import person
    from windtunnel.errors import NotFoundError
    from windtunnel.names import check_model_name
    from windtunnel.serving.place import of_command
    from windtunnel.serving.release import overview, overviewtext

    where = the_home(context, home)
    registry, why_not = person.connect_or_why(where)
    place = of_command(where, check_model_name(model), seldon)
    found = overview.show(where, model, registry, why_not, place=place)
    if found is None:
        raise NotFoundError(
            f"no release of {model!r} is known" + (f" (the registry: {why_not})" if why_not else ""),
            hint="the DAG MODEL.release makes one",
        )
    if json:
        talk.data_json("windtunnel.rollout-show/1", found)
        return
    for line in overviewtext.shown(found):
        talk.data(line)


def history(context: typer.Context, model: ModelArgument, json: JsonOption = False, home: HomeOption = None) -> None:
    """Every release of MODEL, newest first."""
    from windtunnel.cli import person
    from windtunnel.names import check_model_name
    from windtunnel.serving.release import overview, overviewtext

    where = the_home(context, home)
    found = overview.history(where, check_model_name(model), *person.connect_or_why(where))
    if json:
        talk.data_json("windtunnel.rollout-history/1", found)
        return
    if found["registry"] != "answers":
        talk.say(f"registry: {found['registry']}; this is from the look log")
    talk.table(overviewtext.told(found))


def replay(
    context: typer.Context,
    model: ModelArgument,
    version: Annotated[str, typer.Argument(help="The released version.")],
    seldon: SeldonOption = None,
    store: Annotated[
        str | None, typer.Option(help="With --seldon: the object store that looks are kept in (s3://BUCKET/PREFIX).")
    ] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Decide a version's releases again.

    Every decision is made anew from the look log and compared with the recorded one.
    Exit code 0 when all agree, 1 when one differs or cannot be made again.
    """
    from windtunnel.cli import person
    from windtunnel.errors import NotFoundError, WindtunnelError
    from windtunnel.names import check_model_name
    from windtunnel.serving.place import of_command
    from windtunnel.serving.release import overviewtext
    from windtunnel.serving.release.replaying import replays

    where = the_home(context, home)
    place = of_command(where, check_model_name(model), seldon, store=store)

    def record(identifier: str) -> RolloutRecord | None:
        try:
            with person.connect(where) as registry:
                return registry.rollout(identifier)
        except WindtunnelError as error:
            talk.say(f"registry: {error.message}")
            return None

    found = replays(place.looks(model).all(), version, record)
    if not found:
        raise NotFoundError(
            f"the look log has no look at version {version} of {model!r}", hint=f"windtunnel rollout history {model}"
        )
    agrees = all(one.agrees for one in found)
    if json:
        plain = {"model": model, "version": version, "agrees": agrees, "rollouts": [asdict(one) for one in found]}
        talk.data_json("windtunnel.rollout-replay/1", plain)
    else:
        for one in found:
            if one.problem:
                talk.data(f"rollout {one.rollout_id}: {one.looks} looks, not replayed: {one.problem}")
            elif one.first is None:
                talk.data(f"rollout {one.rollout_id}: {one.looks} looks, every decision agrees")
            else:
                talk.data(f"rollout {one.rollout_id}: {one.looks} looks, {one.differing} differ")
                talk.data(f"  first look {one.first.look} at {overviewtext.when(one.first.at)}")
                for word, gist in (("recorded", one.first.recorded), ("replayed", one.first.replayed)):
                    talk.data(f"  {word}  {gist['action']} ({gist['outcome']}, {gist['row']}): {gist['reason']}")
    if not agrees:
        raise SystemExit(talk.FAILED)
