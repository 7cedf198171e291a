"""Reading the registry's answers: may this version become champion, and does a person hold its release?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from windtunnel.errors import FencedError

if TYPE_CHECKING:
    from windtunnel.registry.orders import Standing

#: The evidence that a release itself brings; its absence is why the release runs.
_KIND = re.compile(r"\bkind rollout\b")


def still_missing(explanation: Any) -> list[str]:
    """What policy misses beyond the evidence that the release itself will bring."""
    if explanation.allowed:
        return []
    return [str(item) for item in explanation.missing if not _own(str(item))]


def people(registry: Any, model: str, version: str) -> Standing | None:
    """What people ordered of the version's open rollout; None when none is open.

    A first step is not behind any gate, so it is before it that a release asks this (ROL-8).
    """
    from windtunnel.registry.orders import standing

    newest = registry.rollouts(model, limit=1)
    if not newest or newest[0].ended or str(newest[0].version) != str(version):
        return None
    return standing(*registry.orders_of(newest[0].id))


def held(registry: Any, model: str, version: str) -> list[str]:
    """What keeps the model's open rollout from beginning: freezes over it, a pause.

    Raises:
        FencedError: a person has ended it.
    """
    holds = people(registry, model, version)
    if holds is None:
        return []
    if holds.abort is not None:
        raise FencedError(f"the release of version {version} of {model} was aborted by {holds.abort.sentence}")
    return [*holds.frozen, *([f"paused by {holds.paused.sentence}"] if holds.paused else [])]


def _own(item: str) -> bool:
    """An item is the release's own when it names evidence of the kind that the release will bring."""
    return _KIND.search(item) is not None
