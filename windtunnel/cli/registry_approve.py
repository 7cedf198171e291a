"""``windtunnel registry explain|approve|reject|withdraw-approval``: may it fly, and who says so."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, YesOption, the_home

if TYPE_CHECKING:
    from windtunnel.registry.approvals import Target
    from windtunnel.registry.client import RegistryClient
    from windtunnel.registry.records import Explanation

ModelArgument = Annotated[str, typer.Argument(help="Registered model.")]
VersionArgument = Annotated[int, typer.Argument(help="Its version, as MLflow numbers it.")]
ToOption = Annotated[str, typer.Option("--to", help="Where to: production (champion), staging, challenger, archived.")]
ReasonOption = Annotated[str, typer.Option(help="Why; kept in the audit.")]


def explain(
    context: typer.Context,
    model: ModelArgument,
    version: VersionArgument,
    to: ToOption = "production",
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """What VERSION has and what it lacks to go there.

    Exit code 0 when nothing is missing, 3 when something is.
    """
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        found = registry.explain(model, version, to)
    if json:
        talk.data_json("windtunnel.registry-explain/1", {"model": model, "version": str(version), **asdict(found)})
    else:
        _show(model, version, found)
    raise typer.Exit(talk.OK if found.allowed else talk.VERDICT_FAIL)


def approve(
    context: typer.Context,
    model: ModelArgument,
    version: VersionArgument,
    reason: ReasonOption,
    to: ToOption = "production",
    evidence: Annotated[str | None, typer.Option(help="What you looked at, as explain names it.")] = None,
    yes: YesOption = False,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Approve VERSION, on the evidence that is shown."""
    _say(context, home, model, version, "approve", reason, to, evidence, yes, json)


def reject(
    context: typer.Context,
    model: ModelArgument,
    version: VersionArgument,
    reason: ReasonOption,
    to: ToOption = "production",
    yes: YesOption = False,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Reject VERSION; it does not go there while that stands."""
    _say(context, home, model, version, "reject", reason, to, None, yes, json)


def withdraw(
    context: typer.Context,
    model: ModelArgument,
    version: VersionArgument,
    reason: ReasonOption,
    to: ToOption = "production",
    by: Annotated[str | None, typer.Option(help="Whose, for an administrator; your own unless told.")] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Take back what you said about VERSION."""
    from windtunnel.cli import person

    with person.connect(the_home(context, home)) as registry:
        taken = registry.withdraw_approval(model, version, why(reason), to=cast("Target", to), by=by)
    if json:
        talk.data_json("windtunnel.registry-approvals/1", {"approvals": [asdict(one) for one in taken]})
        return
    for one in taken:
        talk.data(f"withdrawn: {one.decision} of {model} {version} by {one.by}")


def why(reason: str, hint: str = "--reason") -> str:
    """A reason that says something."""
    if not reason.strip():
        raise typer.BadParameter("say why", param_hint=hint)
    return reason.strip()


def _say(
    context: typer.Context,
    home: Any,
    model: str,
    version: int,
    decision: str,
    reason: str,
    to: str,
    evidence: str | None,
    yes: bool,
    json: bool,
) -> None:
    from windtunnel.cli import person

    reason = why(reason)
    with person.connect(the_home(context, home)) as registry:
        found = registry.explain(model, version, to)
        if not json:
            _show(model, version, found, stream=talk.say)
        if not yes and evidence is None and sys.stdin.isatty():
            typer.confirm(f"{decision} {model} version {version} for {found.to}?", abort=True, err=True)
        taken = registry.approve(
            model,
            version,
            reason,
            digest=found.digest,
            evidence=evidence or found.evidence,
            to=cast("Target", to),
            decision=decision,
        )
        after = _after(registry, model, version, to)
    if json:
        talk.data_json("windtunnel.registry-approval/1", asdict(taken))
        return
    talk.data(f"{decision}: {model} version {version} for {taken.target}, by {taken.by}")
    talk.say(after)


def _after(registry: RegistryClient, model: str, version: int, to: str) -> str:
    found = registry.explain(model, version, to)
    return "nothing is missing now" if found.allowed else f"still missing: {'; '.join(found.missing)}"


def _show(model: str, version: int, found: Explanation, stream: Any = talk.data) -> None:
    verdict = "may" if found.allowed else "may not"
    stream(f"{model} version {version} {verdict} go to {found.to} (policy: {found.policy})")
    for line in found.requirements:
        stream(f"  {'there  ' if line['met'] else 'missing'}  {line['text']}")
    for one in found.approvals:
        note = "" if one["counts"] else f" (does not count: {one['why']})"
        stream(f"  said     {one['decision']} by {one['by']}: {one['reason']}{note}")
    stream(f"  content  {found.digest}")
    stream(f"  evidence {found.evidence}")
