"""The commands of ``windtunnel registry`` about what may fly: policies, approvals, champions, people."""

from __future__ import annotations

import typer

from windtunnel.cli import registry_approve, registry_champion, registry_people, registry_policy


def join(app: typer.Typer) -> None:
    """Add them to the group."""
    app.command("explain")(registry_approve.explain)
    app.command("approve")(registry_approve.approve)
    app.command("reject")(registry_approve.reject)
    app.command("withdraw-approval")(registry_approve.withdraw)
    app.command("champion")(registry_champion.champion)
    app.command("history")(registry_champion.history)
    app.command("rollback")(registry_champion.rollback)
    app.command("reviews")(registry_champion.reviews)
    app.command("close-review")(registry_champion.close_review)
    app.add_typer(registry_policy.app, name="policy")
    app.add_typer(registry_people.app, name="people")
