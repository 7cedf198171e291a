"""Reading the registry's answer to "may this version become champion?"."""

from __future__ import annotations

import re
from typing import Any

#: The evidence that a release itself brings; its absence is why the release runs.
_KIND = re.compile(r"\bkind rollout\b")


def still_missing(explanation: Any) -> list[str]:
    """What policy misses beyond the evidence that the release itself will bring."""
    if explanation.allowed:
        return []
    return [str(item) for item in explanation.missing if not _own(str(item))]


def _own(item: str) -> bool:
    """An item is the release's own when it names evidence of the kind that the release will bring."""
    return _KIND.search(item) is not None
