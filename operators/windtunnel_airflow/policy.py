"""Reading the registry's answers: may this version become champion, and does a person hold its release?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from windtunnel.errors import FencedError

if TYPE_CHECKING:
    from windtunnel.registry.orders import Standing
    from windtunnel.registry.records import Explanation
    from windtunnel.registry.waiting import Next


def look(
    registry: Any, model: str, versions: Sequence[str], to: str = "champion", rollout_id: str | None = None
) -> tuple[Next, dict[str, Explanation]]:
    """What a release of ``versions`` does now, and each one's explanation.

    Args:
        rollout_id: its rollout, where it has one already.

    Raises:
        FencedError: a person has ended it, or its rollout has ended some other way.
    """
    from windtunnel.registry.waiting import decide

    found = {str(version): registry.explain(model, version, to) for version in versions}
    return decide(model, list(found.items()), held(registry, model, str(versions[0]), rollout_id)), found


def people(registry: Any, model: str, version: str) -> Standing | None:
    """What people ordered of the version's open rollout; None when none is open.

    A first step is not behind any gate, so it is before it that a release asks this (ROL-8).
    """
    from windtunnel.registry.orders import standing

    newest = registry.rollouts(model, limit=1)
    if not newest or newest[0].ended or str(newest[0].version) != str(version):
        return None
    return standing(*registry.orders_of(newest[0].id))


def held(registry: Any, model: str, version: str, rollout_id: str | None = None) -> list[str]:
    """What keeps the model's open rollout from beginning: freezes over it, a pause.

    Args:
        rollout_id: which it must be.

    Raises:
        FencedError: a person has ended it, or it is not open any more.
    """
    holds = people(registry, model, version)
    if holds is None:
        if rollout_id is not None:
            ended = registry.rollout(rollout_id)
            why = f": {ended.reason}" if ended.reason else ""
            raise FencedError(f"the rollout of version {version} of {model} is {ended.state} already{why}")
        return []
    if holds.abort is not None:
        raise FencedError(f"the release of version {version} of {model} was aborted by {holds.abort.sentence}")
    return [*holds.frozen, *([f"paused by {holds.paused.sentence}"] if holds.paused else [])]
