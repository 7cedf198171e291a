"""``windtunnel registry list|show|search|compare``: what the registry holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windtunnel.cli import registry_card, registry_compare, talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home
from windtunnel.cli.registry_approve import ModelArgument

if TYPE_CHECKING:
    from windtunnel.registry.client import RegistryClient
    from windtunnel.registry.found import FoundVersion
    from windtunnel.registry.records import VersionRecord

#: Versions that ``show MODEL`` lists.
_NEWEST = 15


def join(app: typer.Typer) -> None:
    """Add them to the group."""
    app.command("list")(list_)
    app.command("show")(show)
    app.command("search")(search)
    app.command("compare")(compare)
    app.command("comment")(registry_card.comment)
    app.add_typer(registry_card.app, name="card")


def list_(context: typer.Context, json: JsonOption = False, home: HomeOption = None) -> None:
    """Every model: champion, versions, what is being released."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        found = registry.models()
    if json:
        talk.data_json("windtunnel.registry-list/1", {"models": [asdict(one) for one in found]})
    elif not found:
        talk.data("the registry holds no model")
    else:
        rows = []
        for one in found:
            champion, rollout = one.champion, one.rollout
            flies = f"{rollout.version} ({rollout.state})" if rollout and not rollout.ended else "-"
            rows.append(
                [
                    one.name,
                    f"{champion.version} ({champion.semver})" if champion else "-",
                    str(one.versions),
                    flies,
                    ", ".join(f"{kind} {posted.verdict.outcome}" for kind, posted in sorted(one.verdicts.items())),
                ]
            )
        talk.table([["MODEL", "CHAMPION", "VERSIONS", "RELEASING", "NEWEST VERDICTS"], *rows])


def show(
    context: typer.Context,
    model: ModelArgument,
    version: Annotated[int | None, typer.Argument(help="One version; the model when left out.")] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """What there is to know of MODEL, or of one version: where it stands, evidence, approvals, card, comments."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        found = _model(registry, model) if version is None else _version(registry, model, version)
    if json:
        talk.data_json("windtunnel.registry-show/1", found)
        return
    for line in _model_lines(found) if version is None else _version_lines(found):
        talk.data(line)


def search(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="As in: metric.rmse < 1.2 and stage = 'Staging'.")] = "",
    order_by: Annotated[str, typer.Option(help="created, name or metric.NAME, with asc or desc.")] = "created desc",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where the last page ended.")] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Versions by metric, tag, stage, text, alias, owner, evidence and date, of models that you may read."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        page = registry.search(query, order_by=order_by, limit=limit, cursor=cursor)
    if json:
        plain = {"versions": [asdict(one) for one in page.versions], "cursor": page.cursor}
        talk.data_json("windtunnel.registry-search/1", plain)
        return
    if page.versions:
        names = sorted({name for one in page.versions for name in one.metrics})
        head = ["MODEL", "VERSION", "SEMVER", "STAGE", "STATE", "ALIASES", "OWNER", *names, "CREATED"]
        talk.table([head, *(_found(one, names) for one in page.versions)])
    else:
        talk.say("nothing found")
    if page.cursor:
        talk.say(f"there are more: --cursor {page.cursor}")


def compare(
    context: typer.Context,
    model: ModelArgument,
    left: Annotated[int, typer.Argument(help="A version.")],
    right: Annotated[int, typer.Argument(help="Another one; what differs is told as seen from the first.")],
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """What differs between two versions: metrics, signature, environment, data, recipe, files."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        found = registry.compare(model, left, right)
    if json:
        talk.data_json("windtunnel.registry-compare/1", found)
        return
    for line in registry_compare.lines(found):
        talk.data(line)


def _found(one: FoundVersion, names: list[str]) -> list[str]:
    return [
        one.model,
        one.version,
        one.semver,
        one.stage or "-",
        one.state,
        ", ".join(one.aliases) or "-",
        one.owner or "-",
        *(f"{one.metrics[name]:.6g}" if name in one.metrics else "-" for name in names),
        talk.moment(one.created_at),
    ]


def _model(registry: RegistryClient, model: str) -> dict[str, Any]:
    versions, champion = registry.versions(model), registry.champion(model)
    rollout = next(iter(registry.rollouts(model, limit=1)), None)
    return {
        "model": model,
        "champion": champion and champion.version,
        "rollout": rollout and {"version": rollout.version, "state": rollout.state, "reason": rollout.reason},
        "card": registry.card(model)["card"],
        "versions": [_brief(one) for one in versions],
    }


def _brief(one: VersionRecord) -> dict[str, Any]:
    names = ("version", "semver", "stage", "state", "status", "created_at", "actor", "cause")
    return {name: getattr(one, name) for name in names}


def _model_lines(found: dict[str, Any]) -> list[str]:
    rollout = found["rollout"]
    last = f"{rollout['version']}: {rollout['state']}" if rollout else "none"
    lines = [found["model"], f"champion: {found['champion'] or 'none'}", f"last rollout: {last}"]
    lines += registry_card.lines(found["card"]) or ["card: nobody wrote one"]
    lines.append(f"versions: {len(found['versions'])}")
    for one in found["versions"][:_NEWEST]:
        when = talk.moment(one["created_at"])
        lines.append(f"  {one['version']}  {one['semver']}  {one['stage']}  {one['state']}  {when}  by {one['actor']}")
    if len(found["versions"]) > _NEWEST:
        lines.append(f"  and {len(found['versions']) - _NEWEST} older ones")
    return lines


def _version(registry: RegistryClient, model: str, version: int) -> dict[str, Any]:
    record, decision = registry.version(model, version), registry.explain(model, version)
    champion = registry.champion(model)
    plain = asdict(record)
    plain["manifest"] = {"files": len(record.manifest.get("files") or {})}
    return {
        **plain,
        "champion": champion is not None and champion.version == record.version,
        "explain": {"allowed": decision.allowed, "missing": list(decision.missing)},
        "evidence": list(decision.verdicts),
        "approvals": [asdict(one) for one in registry.approvals(model, version)],
        "card": registry.card(model, version)["card"],
        "comments": [asdict(one) for one in registry.comments(model, version)],
    }


def _version_lines(found: dict[str, Any]) -> list[str]:
    crown = ", the champion" if found["champion"] else ""
    why = f": {found['status_reason']}" if found["status_reason"] else ""
    lines = [
        f"{found['model']} version {found['version']} ({found['semver']}){crown}",
        f"stage: {found['stage']}",
        f"state: {found['state']}, {found['status']}{why}",
        f"registered: {talk.moment(found['created_at'])} by {found['actor']}"
        + (f", because {found['cause']}" if found["cause"] else ""),
        f"semantic version: {found['semver_reason']}",
        f"content: {found['digest'] or 'not sealed'}",
        f"signature: {'known' if found['facts'].get('signature') else 'none'}",
    ]
    for one in found["evidence"]:
        lines.append(f"evidence {one['kind']}: {one['outcome']}: {one['reason']}")
    if not found["champion"]:
        lines += [f"missing for production: {text}" for text in found["explain"]["missing"]]
    for one in found["approvals"]:
        taken = ", withdrawn" if one["withdrawn_at"] else ""
        lines.append(f"{one['decision']} for {one['target']} by {one['by']}{taken}: {one['reason']}")
    lines += registry_card.lines(found["card"]) or ["card: nobody wrote one"]
    lines += [f"{talk.moment(one['at'])} {one['actor']}: {one['text']}" for one in found["comments"]]
    return lines
