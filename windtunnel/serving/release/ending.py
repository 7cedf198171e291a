"""The end of a rollout in its look log.

A gate writes it when its own look ends the rollout. When somebody else did (the guard, a person, a task that failed),
the last look says "go on", and whoever replays the log would find a rollout that never ended. So whoever tells
the registry writes one more look first: what was found is that the rollout was taken to 0, and the brain says
what that means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from windtunnel.evidence import Kind, Outcome
from windtunnel.rollout import Evidence, Plan, RolloutState, decide, look_record, resume, several

ENDS = ("promote", "roll_back", "withdraw")


class Looks(Protocol):
    """What is needed of ``windtunnel.serving.release.looklog.LookLog``."""

    def append(self, look: dict[str, Any], *, after: Mapping[str, Any] | None) -> bool: ...

    def read(self, rollout_id: str) -> list[dict[str, Any]]: ...

    def tail(self, rollout_id: str) -> list[dict[str, Any]]: ...


def ended_look(looks: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The look that ended the rollout: the first whose decision was an end. What came later only repeats it."""
    return next((look for look in looks if look["decision"]["action"] in ENDS), None)


def judged(registry: Any, model: str, digest: str, opened_at: float) -> bool:
    """Whether the registry has been told already that this rollout did not end well.

    Two may tell it, the release and the guard; the first one's verdict is the one that stands.

    Args:
        digest: of the version's content.
        opened_at: when the rollout was opened; the window of its verdicts begins then, whatever clocks do later.
    """
    return any(
        posted.verdict.outcome is not Outcome.PASS
        and posted.verdict.window is not None
        and posted.verdict.window[0] == opened_at
        for posted in registry.verdicts(model, subject=digest, kind=str(Kind.ROLLOUT))
    )


def end_log(
    log: Looks,
    rollout_id: str,
    plan: Mapping[str, Any],
    *,
    champion: str | None,
    candidate: str,
    reason: str,
    now: float,
    token: int,
    beside: Sequence[str] = (),
) -> dict[str, Any] | None:
    """The look that ended the rollout, written now unless there is one; None when the plan cannot be read.

    Args:
        plan: ``windtunnel.rollout.Plan`` as a dictionary, as the registry keeps it.
        champion: the version it was compared with; None for a first release.
        reason: who took it to 0, and why.
        now: seconds since the epoch.
        token: of the holder who ends it.
        beside: the further candidates.
    """
    try:
        read = Plan.from_dict(dict(plan))
    except (KeyError, TypeError, ValueError):
        return ended_look(log.tail(rollout_id))  # opened by somebody else, with a plan of their own
    while True:
        looks = log.tail(rollout_id)
        if (found := ended_look(looks)) is not None:
            return found
        evidence = Evidence(aborted=reason)
        if beside and champion is not None:
            states = several.resumed(looks[-1]) if looks else several.begin(champion, (candidate, *beside), now)
            mine = {version: evidence for version, state in states.items() if not state.ended}
            record = several.several_record(rollout_id, now, mine, several.decide_several(read, states, mine, now))
        else:
            state = resume(looks) or RolloutState.begin(champion=champion, candidate=candidate, at=now)
            record = look_record(rollout_id, now, evidence, decide(read, state, evidence, now))
        extra = {} if looks else {"plan": dict(plan)}
        if log.append({**record, **extra, "token": token}, after=looks[-1] if looks else None):
            return record
