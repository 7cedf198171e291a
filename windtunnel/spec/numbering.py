"""What makes a version MAJOR, MINOR or PATCH (REG-1). Teams differ: presets, and single causes changed by policy.

docs/decisions/0013-what-major-means.md says why these three.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from windtunnel.spec.base import Part

#: What differs between a version and its parent, the gravest first.
Cause = Literal["signature", "wider", "algorithm", "recipe", "unknown", "data", "nothing"]
Level = Literal["major", "minor", "patch"]
Preset = Literal["contract", "callers", "results"]

_CONTRACT: dict[Cause, Level] = {
    "signature": "major",  # a request or an answer of before is no good any more
    "wider": "minor",  # it takes or tells more, and everything of before is still good
    "algorithm": "major",
    "recipe": "minor",  # code, parameters, features
    "unknown": "minor",  # nobody said how one of the two was made
    "data": "patch",  # the same recipe on other data
    "nothing": "patch",
}

PRESETS: Mapping[Preset, Mapping[Cause, Level]] = {
    "contract": _CONTRACT,
    "callers": _CONTRACT | {"algorithm": "minor"},
    "results": _CONTRACT | {"data": "minor"},
}


class Numbering(Part):
    """How a version's semantic version follows from what changed.

    Attributes:
        preset: ``contract``: MAJOR for a signature that breaks and for another algorithm, MINOR for the recipe, PATCH
            for the same recipe on other data. ``callers``: only what breaks callers is MAJOR. ``results``: whatever
            may move predictions is at least MINOR, so PATCH is the same model made again.
        changes: single causes that count otherwise than in the preset.
    """

    preset: Preset = "contract"
    changes: dict[Cause, Level] = Field(default_factory=dict)

    def level(self, cause: Cause) -> Level:
        """What a cause makes of the version."""
        return self.changes.get(cause) or PRESETS[self.preset][cause]
