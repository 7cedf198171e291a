"""What a description asks for that a release on Seldon could not do: told when the DAG is made. Pure, no connection."""

from __future__ import annotations

from collections.abc import Collection

from windtunnel.serving.backend import Capability
from windtunnel.spec import Model

_ROWS = frozenset({"quality", "prediction"})


def unable(model: Model, capabilities: Collection[Capability]) -> list[str]:
    """Sentences that name the key, why it cannot be, and what to do; empty when all can be done.

    Args:
        capabilities: of the backend: ``windtunnel.serving.seldon.manifest.CAPABILITIES``.
    """
    rollout, serving, found = model.rollout, model.serving, []
    if rollout.audience is not None and "audience" not in capabilities:
        found.append(
            "rollout.audience: Seldon divides requests by weight alone, not by a header of theirs; leave it out"
        )
    if rollout.segments is not None and "segments" not in capabilities:
        found.append(
            "rollout.segments: Seldon's metrics do not count by a header's value; leave it out, or let gates compare "
            "all requests"
        )
    if serving.sticky and "sticky" not in capabilities:
        found.append("serving.sticky: Seldon cannot keep a user on one version; leave it out")
    if rollout.strategy == "shadow" and "mirror" not in capabilities:
        found.append("rollout.strategy shadow: requests cannot be copied there")
    if not serving.log:
        asked = [gate.metric for gate in rollout.gates if gate.metric in _ROWS or gate.figure]
        found += [
            f"rollout.gates {metric}: it compares rows of the prediction log, and the pods' rows are not collected; "
            "set serving.log: true where a collector writes them into the workers' prediction log, or leave it out"
            for metric in dict.fromkeys(asked)
        ]
    return found
