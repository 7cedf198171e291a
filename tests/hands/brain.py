"""A brain of a few lines in place of ``rollout.decide``, for tests of the hands: a hundred times cheaper, same shape.

What the real one decides, and why, is shown in ``tests/rollout``. Here only matters what follows from a decision, and
that harm, trouble and passing all occur. It is pure and replays, as the real one does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import windtunnel.serving.release.ending  # noqa: F401  (found by name below)
from windtunnel.evidence import Outcome
from windtunnel.rollout import Decision, Evidence, Plan, RolloutState

#: Share of failed requests that is harm, from so many requests on.
HARM, ENOUGH = 0.2, 20


def decide(plan: Plan, state: RolloutState, evidence: Evidence, now: float) -> Decision:
    """See ``windtunnel.rollout.decide``."""
    if state.ended is not None:
        reason = state.ended_reason or ""
        return Decision(state.ended, Outcome(state.ended_outcome or ""), state.ended_row or "", reason, state, {})
    step = plan.steps[state.step]
    if state.last_look is not None and now < state.last_look:  # the clock was set back: time already spent is kept
        back = state.last_look - now
        state = replace(
            state,
            entered_at=None if state.entered_at is None else state.entered_at - back,
            inconclusive_since=None if state.inconclusive_since is None else state.inconclusive_since - back,
        )
    if evidence.aborted is not None:
        return _end(state, plan.retreat, Outcome.INCONCLUSIVE, "aborted", f"taken to 0: {evidence.aborted}")
    arm = evidence.traffic.arms.get(state.candidate) if evidence.traffic is not None else None
    requests, errors = (arm.requests, arm.errors) if arm else (0, 0)
    if requests >= ENOUGH and errors > HARM * requests:
        return _end(state, plan.retreat, Outcome.FAIL, "harm", f"{errors} of {requests} requests failed")
    if state.entered_at is None and evidence.observed_weight == step.weight:
        state = replace(state, entered_at=now, requests=requests)
    well = evidence.traffic is not None and evidence.ready and evidence.digest_ok
    if not well or evidence.observed_weight != step.weight:
        since = now if state.inconclusive_since is None else state.inconclusive_since
        if now - since >= plan.patience(state.step):
            return _end(state, plan.retreat, Outcome.INCONCLUSIVE, "weights-differ", "nothing could be said")
        state = replace(state, inconclusive_since=since, last_look=now)
        return Decision("hold", Outcome.INCONCLUSIVE, "weights-differ", "nothing can be said", state, {})
    state = replace(state, inconclusive_since=None, last_look=now)
    if (
        state.entered_at is None
        or now - state.entered_at < step.hold_s
        or requests - state.requests < step.min_requests
    ):
        return Decision("hold", Outcome.INCONCLUSIVE, "watching", "no harm so far", state, {})
    if state.step + 1 == len(plan.steps):
        return _end(state, "promote", Outcome.PASS, "pass-last", "no harm")
    onward = replace(state, step=state.step + 1, entered_at=None, requests=requests)
    return Decision("advance", Outcome.PASS, "pass", "no harm", onward, {})


def _end(state: RolloutState, action: Any, outcome: Outcome, row: str, reason: str) -> Decision:
    ended = replace(state, ended=action, ended_outcome=str(outcome), ended_row=row, ended_reason=reason)
    return Decision(action, outcome, row, reason, ended, {})


@contextmanager
def scripted() -> Iterator[None]:
    """``decide`` is this one, wherever it is used."""
    used = [
        "windtunnel.rollout",
        "windtunnel.rollout.replay",
        "windtunnel.rollout.several",
        "windtunnel.serving.release.ending",
    ]
    before = {name: sys.modules[name].decide for name in used}  # type: ignore[attr-defined]
    for name in used:
        sys.modules[name].decide = decide  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for name, real in before.items():
            sys.modules[name].decide = real  # type: ignore[attr-defined]
