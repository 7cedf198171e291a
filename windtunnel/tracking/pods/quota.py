"""What a namespace's quota says when it refuses a pod: whether waiting can help. Pure.

Source of the words: Kubernetes' ResourceQuota admission, "exceeded quota: NAME, requested: A=1,B=2, used: ..., limited:
...".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from windtunnel.tracking.pods.capacity import quantity

_REFUSAL = re.compile(r"exceeded quota: ([^,]+), requested: (\S+), used: (\S+), limited: (\S+)")


@dataclass(frozen=True, slots=True)
class OverQuota:
    """A pod that does not fit now.

    Attributes:
        name: of the quota.
        words: what was asked for, what is used and what there is.
        never: it asks for more than there is for everybody together.
    """

    name: str
    words: str
    never: bool


def over_quota(message: str) -> OverQuota | None:
    """Read a refusal; None where it is for another reason."""
    found = _REFUSAL.search(message)
    if found is None:
        return None
    asked, used, limit = (_amounts(found[at]) for at in (2, 3, 4))
    never = any(key in limit and quantity(value) > quantity(limit[key]) for key, value in asked.items())
    parts = [
        f"{key}: asked {value}, used {used.get(key, '?')} of {limit.get(key, '?')}" for key, value in asked.items()
    ]
    return OverQuota(found[1], "; ".join(parts), never)


def _amounts(text: str) -> dict[str, str]:
    pairs = (part.rpartition("=") for part in text.split(","))
    return {key: value for key, _, value in pairs if key}
