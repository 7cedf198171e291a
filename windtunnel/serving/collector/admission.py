"""Who may send what, and how much at once. Pure but for reading the token's file."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from windtunnel.errors import DescriptionError
from windtunnel.names import check_model_name
from windtunnel.serving.predictions.writer import in_sample

#: The token's file is read again when it is older than this (seconds): a mounted secret is exchanged under the process.
_READ_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what is held; what comes beyond is refused with a status that says when to come again.

    Attributes:
        waiting: events that wait for the disk at one moment; beyond: 429.
        held_bytes: of events that are not published yet; beyond: 429.
        event_bytes, file_bytes: of one body; beyond: 413.
        stuck_s: nothing could be published for so long: not ready.
    """

    waiting: int = 2000
    held_bytes: int = 256 * 2**20
    event_bytes: int = 2**20
    file_bytes: int = 64 * 2**20
    stuck_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What is let in.

    Attributes:
        token_file: holds the bearer token that senders show; None: nobody has to.
        open_events: events need none, for Seldon's executor can show none.
        namespaces: whose events are taken; empty: everybody's.
        sample: fraction of predictions kept, by model; by request id, so that both halves share their fate.
    """

    token_file: Path | None = None
    open_events: bool = False
    namespaces: frozenset[str] = frozenset()
    sample: Mapping[str, float] = field(default_factory=dict)

    def keeps(self, model: str, request_id: str) -> bool:
        fraction = self.sample.get(model)
        return fraction is None or in_sample(request_id, fraction)


class Token:
    """The token in a file, which may be exchanged.

    Raises:
        DescriptionError: the file cannot be read, or is empty.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = 0.0
        self._token = b""
        self._read()

    def fits(self, authorization: str | None) -> bool:
        """Whether a header ``Authorization`` shows it; in constant time."""
        if time.monotonic() - self._read_at > _READ_AGAIN_S:
            try:
                self._read()
            except DescriptionError:
                self._read_at = time.monotonic()  # half exchanged: the one we have goes on
        scheme, _, shown = (authorization or "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(), self._token)

    def _read(self) -> None:
        try:
            token = self._path.read_bytes().strip()
        except OSError as error:
            raise DescriptionError(f"the token in {self._path} cannot be read: {error.strerror}") from error
        if not token:
            raise DescriptionError(f"{self._path} is empty", hint="it holds the bearer token that senders show")
        self._token, self._read_at = token, time.monotonic()


def samples(told: list[str]) -> dict[str, float]:
    """``MODEL=FRACTION`` as a rule.

    Raises:
        DescriptionError: naming what is no such thing.
    """
    found = {}
    for one in told:
        model, _, text = one.partition("=")
        try:
            fraction = float(text)
        except ValueError:
            fraction = -1.0
        if not 0 <= fraction <= 1:
            raise DescriptionError(f"sample {one!r}: expected MODEL=FRACTION, the fraction from 0 to 1")
        found[check_model_name(model)] = fraction
    return found
