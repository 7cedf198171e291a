"""Notes for the registry that could not be told at once: who took a release to 0, and why.

``windtunnel rollout abort`` moves traffic first and needs no registry. What it did is written here as one small file,
and shipped when the registry answers: by the command itself, by the next one, or by the guard. A note keeps its key,
so shipping it twice tells it once.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from windtunnel import files
from windtunnel.errors import RegistryError, WindtunnelError
from windtunnel.home import Home

log = logging.getLogger(__name__)

#: Refusals that are about who ships, not about what is told: somebody else may tell it.
_NOT_MINE = frozenset({"WT_CREDENTIAL", "WT_ROLE", "WT_HTTP"})


@dataclass(frozen=True, slots=True)
class Note:
    """An abort that was carried out.

    Attributes:
        by: who did it, as the machine knows: the operating system's user.
        at: when (seconds since the epoch).
    """

    model: str
    rollout_id: str
    reason: str
    by: str
    at: float

    @property
    def key(self) -> str:
        """The same abort, noted again by a command that was run again, is the same note and told once."""
        return hashlib.sha256(f"{self.rollout_id}\n{self.reason}".encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Shipped:
    """What became of the notes: told, kept for later (with the reason), refused for good (with the reason)."""

    told: tuple[Note, ...] = ()
    kept: tuple[tuple[Note, str], ...] = ()
    refused: tuple[tuple[Note, str], ...] = ()


class Registry(Protocol):
    """What is needed of ``windtunnel.registry.client.RegistryClient``."""

    def order(
        self,
        rollout_id: str,
        kind: Any,
        reason: str,
        *,
        key: str | None = None,
        on_behalf_of: str | None = None,
        done_at: float | None = None,
    ) -> Any: ...


def folder(home: Home) -> Path:
    """``HOME/serving/outbox``."""
    return home.serving / "outbox"


def add(home: Home, note: Note) -> Note:
    """Keep a note, durably. Adding the same one again keeps the first.

    Raises:
        OSError: it cannot be written.
    """
    if (found := _read(_path(home, note))) is not None:
        return found
    files.write_json(_path(home, note), {"v": 1, **asdict(note)}, parents=True)
    return note


def pending(home: Home) -> list[Note]:
    """Notes that were not told yet, oldest first; a file that is no note is left alone."""
    found = []
    for path in sorted(folder(home).glob("*.json")):
        note = _read(path)
        if note is not None:
            found.append(note)
    return sorted(found, key=lambda note: note.at)


def ship(home: Home, registry: Registry, *, person: bool = False) -> Shipped:
    """Tell the registry every note; what it does not take now is kept. Raises nothing of the registry's.

    Args:
        person: the client has a person's own credential; else it is the stack's own, and ``by`` is only claimed.
    """
    told, kept, refused = [], [], []
    for note in pending(home):
        try:
            registry.order(
                note.rollout_id,
                "abort",
                note.reason,
                key=note.key,
                on_behalf_of=None if person else note.by,
                done_at=note.at,
            )
        except RegistryError as error:
            if error.code in _NOT_MINE:
                kept.append((note, error.message))
                continue
            # It will never be taken: the rollout is not known, or was promoted. The registry's audit has the refusal.
            log.warning("the registry does not take that %s was aborted: %s", note.model, error.message)
            refused.append((note, error.message))
        except WindtunnelError as error:
            kept.append((note, error.message))
            continue
        else:
            told.append(note)
        _path(home, note).unlink(missing_ok=True)
    return Shipped(tuple(told), tuple(kept), tuple(refused))


def _path(home: Home, note: Note) -> Path:
    return folder(home) / f"{note.key}.json"


def _read(path: Path) -> Note | None:
    plain: Any = files.read_json(path, broken_ok=True)
    known = {f.name for f in fields(Note)}
    try:
        note = Note(**{key: value for key, value in plain.items() if key in known})
    except (TypeError, AttributeError):
        return None
    return note if note.key == path.stem else None
