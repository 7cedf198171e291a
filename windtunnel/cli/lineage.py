"""``windtunnel lineage``: what a version was made of, what came of it, and whom a data set has touched."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_home

if TYPE_CHECKING:
    from windtunnel.registry.lineage import Direction, Impact, Lineage

NAME = "lineage"


def command(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL[@VERSION]", help="VERSION: a number, 1.2.3, champion or latest.")
    ] = None,
    backward: Annotated[bool, typer.Option("--backward", help="Only what it was made of.")] = False,
    forward: Annotated[bool, typer.Option("--forward", help="Only what came of it.")] = False,
    impact: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Instead: versions and champions made of these data.")
    ] = None,
    as_of: Annotated[str | None, typer.Option(help="As it was known then: 2026-11-21T14:05 (UTC).")] = None,
    depth: Annotated[int, typer.Option(min=1, max=100, help="Steps from the version.")] = 3,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many things, or versions.")] = 500,
    graph: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it: .html, .svg or .mmd; - for Mermaid on stdout.")
    ] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Where a version comes from, and what came of it."""
    from windtunnel.cli import person

    then = _time(as_of)
    if (model is None) == (impact is None):
        raise typer.BadParameter("name a MODEL, or --impact DATASET, and not both", param_hint="MODEL")
    if impact is not None:
        if backward or forward or graph:
            raise typer.BadParameter("goes with MODEL, not with --impact", param_hint="--backward, --forward, --graph")
        with person.connect(the_home(context, home)) as registry:
            touched = registry.impact(impact, as_of=then, limit=limit)
        _show_impact(touched, json)
        return
    if graph is not None and str(graph) != "-" and graph.suffix not in (".html", ".svg", ".mmd"):
        raise typer.BadParameter(f"{graph.name!r} is none of .html, .svg, .mmd", param_hint="--graph")
    if graph is not None and json:
        raise typer.BadParameter("--graph and --json are two answers; ask twice", param_hint="--graph")
    name, _, version = str(model).partition("@")
    with person.connect(the_home(context, home)) as registry:
        found = _ask(registry, name, version, _direction(backward, forward), depth, then, limit)
    if graph is not None:
        _draw(found, graph)
    elif json:
        talk.data_json("windtunnel.lineage/1", found.to_dict())
    else:
        from windtunnel.registry.lineagetext import tree

        for line in tree(found):
            talk.data(line)


def _direction(backward: bool, forward: bool) -> Direction:
    return "both" if backward == forward else "backward" if backward else "forward"


def _ask(registry: Any, name: str, version: str, way: str, depth: int, then: float | None, limit: int) -> Lineage:
    """The version that was told; the champion, else the newest, where none was."""
    from windtunnel.errors import NotFoundError

    given: dict[str, Any] = {"direction": way, "depth": depth, "as_of": then, "limit": limit}
    if version:
        found: Lineage = registry.lineage(name, version, **given)
        return found
    try:
        found = registry.lineage(name, "champion", **given)
    except NotFoundError:
        found = registry.lineage(name, "latest", **given)
        talk.say(f"{name} has no champion: this is its newest version")
    return found


def _draw(found: Lineage, file: Path) -> None:
    from windtunnel.registry import lineagedraw, lineagetext

    if str(file) == "-":
        talk.data("\n".join(lineagetext.mermaid(found)))
        return
    if file.suffix == ".mmd":
        text = "\n".join([*lineagetext.mermaid(found), ""])
    else:
        text = lineagedraw.page(found) if file.suffix == ".html" else lineagedraw.svg(found)
    file.write_text(text, encoding="utf-8")
    talk.say(f"{len(found.nodes)} things in {file}")


def _show_impact(found: Impact, json: bool) -> None:
    from dataclasses import asdict

    from windtunnel.registry.lineagetext import moment

    if json:
        talk.data_json("windtunnel.impact/1", asdict(found))
        return
    if not found.total:
        talk.data(f"no version that is known was made of {found.of}")
        return
    now = {(one["model"], one["version"]) for one in found.champions_now}
    ever = {(one["model"], one["version"]) for one in found.champions}
    rows = [("MODEL", "VERSION", "SEMVER", "REGISTERED", "STATE", "CHAMPION")]
    for one in found.versions:
        key = (one["model"], one["version"])
        state = "deleted" if one["deleted"] else one["state"] or "-"
        told = "now" if key in now else "was" if key in ever else "never"
        rows.append((*key, one["semver"], moment(one["created_at"]), state, told))
    talk.table(rows)
    champions = ", ".join(f"{model} {version}" for model, version in sorted(now)) or "none"
    talk.say(f"{found.total} versions; champions now: {champions}; terms as champion ever: {len(found.champions)}")
    if found.total > len(found.versions):
        talk.say(f"the newest {len(found.versions)}; --limit shows more")


def _time(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time; write 2026-11-21T14:05", param_hint="--as-of") from None
    return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
