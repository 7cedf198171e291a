"""Telling the registry what was aborted: with the person's credential if there is one, else as the stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from windtunnel.cli import person, talk

if TYPE_CHECKING:
    from windtunnel.home import Home
    from windtunnel.serving.release.outbox import Note, Shipped


def tell(home: Home, note: Note | None) -> str:
    """Ship every note; a sentence on what became of ``note``."""
    shipped = _ship(home)
    if note is None:
        return "the registry has nothing to be told"
    if shipped is None:
        return "no registry is known here: it will be told later"
    for kept, why in shipped.kept:
        if kept.key == note.key:
            return f"the registry will be told later ({why})"
    for refused, why in shipped.refused:
        if refused.key == note.key:
            return f"the registry does not take it: {why}"
    return "the registry was told"


def tell_pending(home: Home) -> None:
    """Ship what an earlier abort left, if anything; says so."""
    from windtunnel.serving.release import outbox

    if not outbox.pending(home):
        return
    shipped = _ship(home)
    for note in shipped.told if shipped else ():
        talk.say(f"{note.model}: the registry was told of the abort by {note.by}: {note.reason}")


def order_instead(home: Home, model: str, reason: str) -> str:
    """A release that has no candidate in traffic is ended by its DAG; a sentence on whether there was one."""
    from windtunnel.errors import NotFoundError, WindtunnelError
    from windtunnel.serving.release.abort import order_abort

    try:
        with person.connect(home) as registry:
            order = order_abort(registry, model, reason)
    except NotFoundError:
        return "no release of it is running"
    except WindtunnelError as error:
        return f"whether one waits to begin is not known: {error.message}"
    return "no release of it is running" if order is None else f"its release is told to end (order {order.seq})"


def _ship(home: Home) -> Shipped | None:
    """None where there is no registry to ask."""
    from windtunnel.errors import WindtunnelError
    from windtunnel.registry.connect import from_home
    from windtunnel.serving.release import outbox

    own = person.own_credential()
    try:
        registry = person.connect(home) if own else from_home(home)
    except WindtunnelError:
        return None
    with registry:
        return outbox.ship(home, registry, person=own)
