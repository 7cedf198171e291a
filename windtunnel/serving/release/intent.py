"""The promoting intent: a note on the disk that a promotion is between traffic and registry.

Promotion spans two places. Whoever promotes

1. ``begin``: writes the intent;
2. applies the release with the candidate at 100, still a candidate and still under a lease;
3. commits to the registry (``promote``);
4. applies the release with the candidate as champion and no lease;
5. ``clear``.

Whoever finds an intent whose holder is gone (the guard, or the next holder) finishes or undoes it, so
that both places change or neither (ROL-7): promoted in the registry, go on with 4; else back.

Fencing holds here too: a holder that was taken over neither replaces nor clears what the later one wrote.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from windtunnel import files
from windtunnel.errors import FencedError
from windtunnel.home import Home
from windtunnel.names import check_model_name
from windtunnel.serving.artifacts import file_lock

PROMOTING = "promoting"


@dataclass(frozen=True, slots=True)
class Intent:
    """Attributes:
    token: fencing token of the holder that wrote it.
    candidate: version on its way to champion; ``champion`` is the one it replaces (None: first).
    at: when it was written (seconds since the epoch).
    """

    model: str
    rollout_id: str
    token: int
    candidate: str
    champion: str | None
    state: str
    at: float


def path(home: Home, model: str) -> Path:
    """``HOME/serving/models/MODEL/intent.json``."""
    return home.serving_model(check_model_name(model)) / "intent.json"


def begin(
    home: Home,
    model: str,
    *,
    rollout_id: str,
    token: int,
    candidate: str,
    champion: str | None,
    at: float | None = None,
) -> Intent:
    """Write the intent durably, before traffic or registry move. Writing the same one again keeps the first.

    Raises:
        FencedError: a later holder is promoting already.
        OSError: it cannot be written; nothing may be promoted then.
    """
    wanted = Intent(
        model=model,
        rollout_id=rollout_id,
        token=token,
        candidate=candidate,
        champion=champion,
        state=PROMOTING,
        at=time.time() if at is None else at,
    )
    file = path(home, model)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(_lock(file)):
        kept = merged(read(home, model), wanted)
        if kept is wanted:
            files.write_json(file, asdict(wanted))
    return kept


def merged(found: Intent | None, wanted: Intent) -> Intent:
    """The intent that stands after ``begin``: the one found when it is the same, else the one wanted.

    Raises:
        FencedError: the one found has a higher token.
    """
    if found is None:
        return wanted
    if found.token > wanted.token:
        raise FencedError(
            f"{wanted.model}: token {wanted.token} is older than {found.token}, whose holder is promoting version "
            f"{found.candidate}",
            hint="this rollout was taken over: stop writing",
        )
    same = (found.rollout_id, found.token, found.candidate) == (wanted.rollout_id, wanted.token, wanted.candidate)
    return found if same else wanted


def ours(found: Intent | None, token: int | None) -> bool:
    """Whether a holder with ``token`` may clear what it found; None stands for anybody."""
    return found is not None and (token is None or found.token <= token)


def read(home: Home, model: str) -> Intent | None:
    """The intent that stands, or None."""
    return from_dict(model, files.read_json(path(home, model), broken_ok=True))


def from_dict(model: str, plain: Any) -> Intent | None:
    """An intent from its plain values; None for what is none."""
    if not isinstance(plain, dict):
        return None
    try:
        return Intent(
            model=model,
            rollout_id=str(plain["rollout_id"]),
            token=int(plain["token"]),
            candidate=str(plain["candidate"]),
            champion=None if plain.get("champion") is None else str(plain["champion"]),
            state=str(plain.get("state", PROMOTING)),
            at=float(plain["at"]),
        )
    except (KeyError, TypeError, ValueError):
        return None  # written by nobody we know; the file is whole or absent, so this is not a torn one


def clear(home: Home, model: str, token: int | None = None) -> None:
    """Remove the intent: traffic and registry agree. Clearing none is fine.

    Args:
        token: of the holder who clears; a later holder's intent is left. None: whatever stands there.
    """
    file = path(home, model)
    if not file.exists():
        return
    with file_lock(_lock(file)):
        if token is None or ours(read(home, model), token):
            file.unlink(missing_ok=True)
            files.sync_folder(file.parent)


def _lock(file: Path) -> Path:
    return file.with_name(".intent.lock")


class Intents:
    """The intents of one home, for those who are given the place where they lie."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def begin(self, model: str, *, rollout_id: str, token: int, candidate: str, champion: str | None) -> Intent:
        """See ``begin``."""
        return begin(self._home, model, rollout_id=rollout_id, token=token, candidate=candidate, champion=champion)

    def read(self, model: str) -> Intent | None:
        """See ``read``."""
        return read(self._home, model)

    def clear(self, model: str, token: int | None = None) -> None:
        """See ``clear``."""
        clear(self._home, model, token)
