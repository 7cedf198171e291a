"""The promoting intent: a note on the disk that a promotion is between traffic and registry.

Promotion spans two places. Whoever promotes

1. ``begin``: writes the intent;
2. applies the release with the candidate at 100, still a candidate and still under a lease;
3. commits to the registry (``promote``);
4. applies the release with the candidate as champion and no lease;
5. ``clear``.

Whoever finds an intent whose holder is gone (the guard, or the next holder) finishes or undoes it, so
that both places change or neither (ROL-7): promoted in the registry, go on with 4; else back.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from windtunnel import files
from windtunnel.home import Home
from windtunnel.names import check_model_name

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
        OSError: it cannot be written; nothing may be promoted then.
    """
    found = read(home, model)
    if found and (found.rollout_id, found.token, found.candidate) == (rollout_id, token, candidate):
        return found
    intent = Intent(
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
    files.write_json(file, asdict(intent))
    return intent


def read(home: Home, model: str) -> Intent | None:
    """The intent that stands, or None."""
    plain = files.read_json(path(home, model), broken_ok=True)
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


def clear(home: Home, model: str) -> None:
    """Remove the intent: traffic and registry agree. Clearing none is fine."""
    file = path(home, model)
    if file.exists():
        file.unlink(missing_ok=True)
        files.sync_folder(file.parent)
