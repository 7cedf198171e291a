"""``windtunnel rollout``: see a release, and a person's hand on it. The other half is in ``rollout_look``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import rollout_look, talk
from windtunnel.cli.options import HomeOption, JsonOption, SeldonOption, the_home

if TYPE_CHECKING:
    from windtunnel.home import Home
    from windtunnel.registry.client import RegistryClient
    from windtunnel.registry.orders import FreezeRecord, OrderKind, Scope
    from windtunnel.registry.records import RolloutRecord

app = typer.Typer(help="See releases, and act on running ones.", no_args_is_help=True, rich_markup_mode=None)

ModelArgument = Annotated[str, typer.Argument(help="The model whose release it is.")]
ReasonOption = Annotated[str, typer.Option(help="Why; kept with the release and in the audit.")]
OwnerOption = Annotated[str | None, typer.Option(help="Only rollouts of this owner's models.")]
OfModelOption = Annotated[str | None, typer.Option("--model", help="Only rollouts of this model.")]


@app.callback()
def _group() -> None:
    """See releases, and act on running ones."""


app.command("show")(rollout_look.show)
app.command("history")(rollout_look.history)
app.command("replay")(rollout_look.replay)


@app.command()
def pause(
    context: typer.Context,
    model: ModelArgument,
    reason: ReasonOption,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Hold MODEL's release at its step.

    It is watched on, its step's clock stands still; harm that is shown still ends it.
    """
    _order(the_home(context, home), model, "pause", reason, json)


@app.command()
def resume(
    context: typer.Context,
    model: ModelArgument,
    reason: ReasonOption,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Let a paused release of MODEL go on."""
    _order(the_home(context, home), model, "resume", reason, json)


@app.command()
def skip(
    context: typer.Context,
    model: ModelArgument,
    reason: ReasonOption,
    step: Annotated[int | None, typer.Option(min=1, help="Which step, from 1; the present one unless told.")] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Leave a step of MODEL's release now.

    Harm that is shown still ends it.
    """
    _order(the_home(context, home), model, "skip", reason, json, None if step is None else step - 1)


@app.command()
def promote(
    context: typer.Context,
    model: ModelArgument,
    reason: ReasonOption,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Promote MODEL's candidate now.

    On the evidence there is; harm that is shown still ends it.
    """
    _order(the_home(context, home), model, "promote", reason, json)


@app.command()
def abort(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model whose release must stop.")],
    reason: ReasonOption,
    seldon: SeldonOption = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Take every candidate of MODEL to 0 % now.

    A first release that is still watched is withdrawn. Needs neither MLflow nor Airflow. Traffic goes first; the
    registry is told at once when it answers, else later, by the next command or the guard.
    """
    from windtunnel.cli.rollout_abort import order_instead, tell
    from windtunnel.names import check_model_name
    from windtunnel.serving.place import of_command
    from windtunnel.serving.release.abort import abort_release

    where, why = the_home(context, home), _why(reason)
    place = of_command(where, check_model_name(model), seldon)
    observed, note = abort_release(where, place, model, why)
    nothing = note is None and observed.aborted is None
    registry = order_instead(where, model, why) if nothing else tell(where, note)
    if json:
        talk.data_json("windtunnel.rollout-abort/1", {**asdict(observed), "registry": registry})
        return
    if note is not None:
        done = "every candidate is at 0 %" if observed.aborted else "its first release is taken back"
        talk.say(f"{model}: {done}; {registry}")
    elif nothing:
        talk.say(f"{model}: no candidate has traffic; {registry}")
    else:
        talk.say(f"{model}: nothing to abort; it was taken to 0 before: {observed.aborted}")
    for arm in observed.arms.values():
        talk.data(f"version {arm.version}  {arm.weight} %  {arm.state}")
    if observed.aborted and hasattr(place.backend, "seldon"):
        for arm in (one for one in observed.arms.values() if one.weight and not one.ready):
            talk.say(
                f"version {arm.version} is not whole: Seldon's operator may keep the routes as they were until it is "
                "(docs/how-to/release-on-seldon.md, When traffic does not follow)"
            )


@app.command()
def freeze(
    context: typer.Context,
    reason: ReasonOption,
    owner: OwnerOption = None,
    model: OfModelOption = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Let no step begin; rollbacks go on."""
    scope, target = _scope(owner, model)
    with _connect(the_home(context, home)) as registry:
        frozen = registry.freeze(_why(reason), scope=scope, target=target)
    _say_freeze(frozen, "frozen", json)


@app.command()
def thaw(
    context: typer.Context,
    reason: ReasonOption,
    owner: OwnerOption = None,
    model: OfModelOption = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Lift a freeze of the same kind."""
    from windtunnel.errors import NotFoundError

    scope, target = _scope(owner, model)
    why = _why(reason)
    with _connect(the_home(context, home)) as registry:
        standing = registry.freezes()
        found = next((one for one in standing if (one.scope, one.target) == (scope, target or "")), None)
        if found is None:
            others = "; ".join(one.sentence for one in standing)
            raise NotFoundError(
                f"no such freeze stands ({scope}{f' {target}' if target else ''})",
                hint=f"these do: {others}" if others else "nothing is frozen",
            )
        lifted = registry.thaw(found.id, why)
    _say_freeze(lifted, "thawed", json)


def _order(home: Home, model: str, kind: OrderKind, reason: str, json: bool, step: int | None = None) -> None:
    why = _why(reason)
    with _connect(home) as registry:
        running = _running(registry, model)
        taken = registry.order(running.id, kind, why, step=step)
    if json:
        talk.data_json("windtunnel.rollout-order/1", taken.to_dict())
        return
    at = f" of step {taken.step + 1}" if taken.step is not None else ""
    talk.data(
        f"{kind}{at}: {model} version {taken.version}, rollout {taken.rollout_id}, order {taken.seq} by {taken.by}"
    )
    talk.say("the gates hear it within their next look")


def _running(registry: RegistryClient, model: str) -> RolloutRecord:
    from windtunnel.errors import NotFoundError

    newest = registry.rollouts(model, limit=1)
    if not newest or not newest[0].live:
        was = f"; the last, of version {newest[0].version}, is {newest[0].state}" if newest else ""
        raise NotFoundError(f"no release of {model!r} is running{was}", hint=f"windtunnel rollout history {model}")
    return newest[0]


def _connect(home: Home) -> RegistryClient:
    from windtunnel.cli import person
    from windtunnel.cli.rollout_abort import tell_pending

    tell_pending(home)
    return person.connect(home)


def _why(reason: str) -> str:
    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    return reason.strip()


def _scope(owner: str | None, model: str | None) -> tuple[Scope, str | None]:
    if owner and model:
        raise typer.BadParameter("give an owner or a model, not both", param_hint="--owner")
    return ("owner", owner) if owner else ("model", model) if model else ("all", None)


def _say_freeze(freeze: FreezeRecord, word: str, json: bool) -> None:
    if json:
        talk.data_json("windtunnel.rollout-freeze/1", freeze.to_dict())
        return
    what = f"{freeze.scope} {freeze.target}".strip()
    talk.data(f"{word}: {what}")
    if freeze.lifted_at is None:
        talk.say("running now: " + (", ".join(freeze.models) or "nothing that it holds"))
