"""One thing that a doctor looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. ``result``: ok, warn or fail; ``mend`` says what to do about it."""

    name: str
    result: str
    found: str
    mend: str = ""
