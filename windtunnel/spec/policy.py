"""What the registry demands before a version may become champion. Enforced in the store, not here."""

from __future__ import annotations

from typing import Literal

from windtunnel.spec.base import Part

Evidence = Literal["data-check", "evaluation", "benchmark", "rollout", "scan"]


class Policy(Part):
    """Required PASS verdicts for ``champion``; a first release has no rollout yet, so it needs ``first``."""

    champion: list[Evidence] = ["data-check", "evaluation", "rollout"]
    first: list[Evidence] = ["data-check", "evaluation"]
