"""The verdicts on candidates of a release of several that did not become champion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from windtunnel_airflow.rollouts import candidates_of, claim_story


def record_out(operator: Any, claim: Any, context: Any, versions: Sequence[str]) -> None:
    """What the look that ended the rollout says of each of ``versions``, as a verdict on its content (each try the
    same one)."""
    from windtunnel.evidence import Kind, Outcome
    from windtunnel.rollout.several import arms_of
    from windtunnel.serving.release.ending import ended_look, judged

    registry, since = operator.hook.registry, float(claim["claimed_at"])
    last = ended_look(operator.hook.looks(claim["model"]).read(claim["rollout_id"]))
    arms = arms_of(last) if last is not None else {}
    for one in candidates_of(claim):
        if one["version"] not in versions or judged(registry, claim["model"], one["digest"], since):
            continue
        decision = (arms.get(one["version"]) or {}).get("decision") or {}
        told = decision.get("action") == "roll_back"
        registry.post_verdict(
            operator.verdict(
                context,
                claim_story(claim),
                kind=Kind.ROLLOUT,
                outcome=Outcome(decision["outcome"]) if told else Outcome.INCONCLUSIVE,
                reason=str(decision["reason"]) if told else "its release ended without a word on it",
                subject=one["digest"],
                version=one["version"],
                window=(since, float(last["at"]) if last is not None else since),
            )
        )
