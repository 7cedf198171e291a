"""``windtunnel registry adopt|agree|mend|deleted|restore|collect``: what went past the law, was deleted, lies about."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home
from windtunnel.cli.registry_approve import ModelArgument, ReasonOption, why

if TYPE_CHECKING:
    from windtunnel.registry.client import RegistryClient

#: Seconds between questions while versions are being sealed.
_PAUSE = 1.0


def join(app: typer.Typer) -> None:
    """Add them to the group."""
    app.command("adopt")(adopt)
    app.command("agree")(agree)
    app.command("mend")(mend)
    app.command("deleted")(deleted)
    app.command("restore")(restore)
    app.command("collect")(collect)


def adopt(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="One model; every one unless told.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be taken over.")] = False,
    pickle: Annotated[bool, typer.Option("--pickle", help="Their files may be pickles of usual libraries.")] = False,
    trust: Annotated[
        list[str] | None, typer.Option("--trust", help="A module whose names a pickle may hold; repeatable.")
    ] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Take over what plain MLflow registered in the registry's database.

    Each version is read, looked through, sealed and signed as it is; a champion stays champion. What cannot be taken
    over is listed with the reason, stays as it is in MLflow, and cannot be released. Asking again is harmless. Exit
    code 0 when all is adopted, 1 when something is not.
    """
    from windtunnel.cli import person
    from windtunnel.names import check_model_name

    found = []
    with person.connect(the_home(context, home)) as registry:
        names = [one["model"] for one in registry.adoption()] if model is None else [check_model_name(model)]
        for name in names:
            found.append(_adopt(registry, name, dry_run=dry_run, pickle=pickle, trust=trust or []))
            if not json:
                _show(found[-1])
    left = any(one["outcome"] == "refused" for each in found for one in each["versions"])
    if json:
        talk.data_json("windtunnel.registry-adopt/1", {"dry_run": dry_run, "models": found})
    elif not found:
        talk.data("nothing to adopt: every version was registered here")
    if left:
        raise SystemExit(talk.FAILED)


def agree(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="One model; every one unless told.")] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Do MLflow's tables say what the registry's history says?

    They do not when somebody went past the server: by another MLflow server on the same database, or by SQL. Exit code
    0 when they agree, 3 when not.
    """
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        found = registry.agreement(model)
    if json:
        talk.data_json("windtunnel.registry-agree/1", {"agree": not found, "differences": found})
    elif not found:
        talk.data("MLflow's tables say what the registry's history says")
    else:
        _differences(found)
    if found:
        raise SystemExit(talk.VERDICT_FAIL)


def mend(
    context: typer.Context,
    model: ModelArgument,
    reason: ReasonOption,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Set MLflow's champion, Production and sources as the registry's history says, as administrator."""
    from windtunnel.cli import person

    said = why(reason)
    with person.connect(the_home(context, home)) as registry:
        found = registry.mend(model, said)
    if json:
        talk.data_json("windtunnel.registry-mend/1", {"model": model, **found})
    else:
        talk.data(f"{model}: {len(found['mended'])} set right, {len(found['left'])} left")
        _differences(found["left"])
    if found["left"]:
        raise SystemExit(talk.VERDICT_FAIL)


def deleted(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="One model; every one unless told.")] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Deleted versions, and until when they can be brought back."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        found = registry.deleted(model)
    if json:
        talk.data_json("windtunnel.registry-deleted/1", {"versions": found})
    elif not found:
        talk.data("nothing was deleted")
    else:
        head = ["MODEL", "VERSION", "SEMVER", "DELETED", "BY", "RESTORABLE UNTIL"]
        talk.table([head, *map(_deleted, found)])


def restore(
    context: typer.Context,
    model: ModelArgument,
    reason: ReasonOption,
    version: Annotated[int | None, typer.Argument(help="A version; the model with its versions when left out.")] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Bring back a deleted version, or a deleted model with the versions that were deleted with it."""
    from windtunnel.cli import person

    said = why(reason)
    with person.connect(the_home(context, home)) as registry:
        found = registry.restore(model, version, said)
    if json:
        talk.data_json("windtunnel.registry-restore/1", found)
    elif version is not None:
        talk.data(f"{model} {version} ({found['semver']}) is back: {found['status']}, {found['state']}")
    else:
        talk.data(f"{model} is back with {len(found['versions'])} versions")
        for one in found["lost"]:
            talk.data(f"lost  {model} {one['version']}: {one['why']}")


def collect(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Remove folders of the artifact store that belong to no run and no logged model, when they are a week old."""
    from windtunnel.cli import person

    found: list[dict[str, Any]] = []
    with person.connect(the_home(context, home)) as registry:
        while True:
            page = registry.collect(dry_run=dry_run)
            found += page["collected"]
            # What somebody began to write to is left for another time.
            if dry_run or not page["left"] or not page["collected"]:
                break
    if json:
        talk.data_json("windtunnel.registry-collect/1", {"dry_run": dry_run, "collected": found, "left": page["left"]})
        return
    for one in found:
        talk.data(f"{'would go' if dry_run else 'gone'}  {one['path']}: {one['bytes']} bytes")
    if dry_run and page["left"]:
        talk.data(f"and {page['left']} more")
    if not found:
        talk.data("nothing lies about")


def _deleted(one: dict[str, Any]) -> list[str]:
    until = _time(one["until"]) if one["why"] is None else f"no: {one['why']}"
    return [one["model"], one["version"], one["semver"], _time(one["deleted_at"]), one["by"] or "-", until]


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _differences(found: list[dict[str, Any]]) -> None:
    for one in found:
        which = one["model"] if one["version"] is None else f"{one['model']} {one['version']}"
        talk.data(f"{one['what']}  {which}: {one['found']}; expected: {one['expected']}")
        talk.data(f"  -> {one['do']}")


def _adopt(registry: RegistryClient, model: str, *, dry_run: bool, **formats: Any) -> dict[str, Any]:
    again = True
    while True:
        versions: list[dict[str, Any]] = []
        after = 0
        while True:
            found = registry.adopt(model, dry_run=dry_run, again=again, after=after, **formats)
            versions += found["versions"]
            if found["next"] is None:
                break
            after = found["next"]
        pending = sum(one["outcome"] == "pending" for one in versions)
        if not pending:
            return {**found, "versions": versions}
        if again:
            talk.say(f"{model}: {pending} versions are being read and sealed")
        again = False
        time.sleep(_PAUSE)


def _show(found: dict[str, Any]) -> None:
    for one in found["versions"]:
        semver = f" ({one['semver']})" if one["semver"] else ""
        why = f": {one['reason']}" if one["reason"] else ""
        talk.data(f"{one['outcome']}  {found['model']} {one['version']}{semver}{why}")
    who = f"champion {found['champion']}" if found["champion"] else "no champion"
    talk.data(f"{found['model']}: {who}: {found['champion_reason']}")
