"""What the registry demands before a version may become champion. Enforced in the store, not here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from windtunnel.spec.base import Part

Evidence = Literal["data-check", "evaluation", "benchmark", "rollout", "scan"]


class Policy(Part):
    """Required PASS verdicts.

    Attributes:
        champion: what a version needs to become champion.
        first: what the first release needs instead; there is nobody to compare it with yet.
    """

    champion: list[Evidence] = Field(["data-check", "evaluation", "rollout"])
    first: list[Evidence] = Field(["data-check", "evaluation"])
