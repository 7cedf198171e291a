"""Other installations whose word counts here, by name; and this installation's own word.

Who is trusted is in the key ring (``windtunnel.safety.keys``), beside the installation's own keys: whoever verifies a
signature looks there anyway, and what the database holds can make nobody trusted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from windtunnel.errors import IntegrityError, NotFoundError, StackError
from windtunnel.safety import statement
from windtunnel.safety.keys import Key, KeyRing
from windtunnel_mlflow.access import permission
from windtunnel_mlflow.part import not_found
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.releases.orderrules import check_reason
from windtunnel_mlflow.store import GovernedStore
from windtunnel_mlflow.tables import HOUSE

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")


def ring() -> KeyRing:
    """The keys of this installation.

    Raises:
        Refusal: WT_SERVER: it has none.
    """
    found = KeyRing.configured()
    if found is None:
        raise Refusal(
            "WT_SERVER", "this server signs nothing: it has no home", hint="set WINDTUNNEL_HOME and restart it"
        )
    return found


@contextmanager
def refusing(code: str = "WT_EXPORT") -> Iterator[None]:
    """What cannot be believed is refused, and so audited.

    Raises:
        Refusal: ``code``.
    """
    try:
        yield
    except IntegrityError as error:
        raise Refusal(code, error.message, hint=error.hint) from error


def believed(envelope: Any, kind: str) -> tuple[dict[str, Any], str]:
    """A statement that we or a trusted installation signed, and the id of the key.

    Raises:
        Refusal: WT_EXPORT.
    """
    with refusing():
        return statement.verify(envelope, ring(), kind)


class Trust:
    """The operations behind ``/installations``.

    Args:
        store: for the audit.
    """

    def __init__(self, store: GovernedStore) -> None:
        self.store = store

    def installations(self) -> list[dict[str, Any]]:
        """Keys of other installations, oldest first: trusted, and revoked."""
        keys = ring().keys()
        return [asdict(key) for key in keys if key.installation is not None]

    def trust(self, name: Any, pem: Any) -> dict[str, Any]:
        """Let the key of another installation count, under a name. The same key twice changes nothing.

        Raises:
            Refusal: WT_ROLE; WT_REQUEST for a name or a key that is none, or a key that is here already.
        """
        with self.store.change(HOUSE, "trust-installation", installation=str(name)[:64]) as change:
            permission.need(change.actor, "exchange", "trust another installation")
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise Refusal(
                    "WT_REQUEST", f"{name!r} names no installation; expected small letters, digits, -", status=400
                )
            keys = ring().keys()
            known = {key.id for key in keys}
            try:
                made = ring().adopt(str(pem).encode(), name)
            except (IntegrityError, StackError) as error:
                raise Refusal("WT_REQUEST", error.message, hint=error.hint, status=400) from error
            change.silent = made.id in known
            change.detail |= {"key": made.id}
        return asdict(made)

    def distrust(self, name: str, reason: Any) -> list[dict[str, Any]]:
        """Let no key of another installation count any more.

        What was moved from there stays, signed by this installation; policy's ``moved_from`` does not hold for it.
        """
        with self.store.change(HOUSE, "distrust-installation", installation=name[:64]) as change:
            permission.need(change.actor, "exchange", "distrust another installation")
            why = check_reason(reason)
            try:
                gone: list[Key] = ring().disown(name, why)
            except NotFoundError as error:
                raise not_found(error.message) from error
            except StackError as error:
                raise Refusal("WT_REQUEST", error.message, hint=error.hint, status=400) from error
            change.detail |= {"keys": [key.id for key in gone], "reason": why}
        return [asdict(key) for key in gone]
