"""What a decision says to people: one sentence with the numbers that decided."""

from __future__ import annotations

from collections.abc import Sequence

from windtunnel.rollout.evidence import Evidence
from windtunnel.rollout.gates import Finding
from windtunnel.rollout.intake import DOWN_S, Trouble
from windtunnel.rollout.plan import Plan
from windtunnel.rollout.state import RolloutState
from windtunnel.rollout.table import TROUBLES


def place(plan: Plan, step: int) -> str:
    """``step 2 of 4 at 25 %``."""
    if plan.first:
        return "first watch"
    return f"step {step + 1} of {len(plan.steps)} at {plan.steps[step].words}"


def reason(
    plan: Plan,
    state: RolloutState,
    evidence: Evidence,
    row: str,
    findings: Sequence[Finding],
    breaches: Sequence[Finding],
    troubles: Sequence[Trouble],
    elapsed: float,
) -> str:
    """The sentence of ``row``.

    Args:
        findings, breaches: of the gates and of the absolute limits.
        elapsed: seconds of this step.
    """
    step, where = plan.steps[state.step], place(plan, state.step)
    if row in TROUBLES:
        return next(trouble.sentence for trouble in troubles if trouble.row == row)
    match row:
        case "aborted":
            return f"taken to 0: {evidence.aborted}"
        case "harm":
            return next(f.sentence for f in findings if f.harm)
        case "limit":
            return next(f.sentence for f in breaches if f.harm)
        case "down":
            return (
                f"version {state.candidate} has had no server for {DOWN_S:.0f} s or more, and users' requests go to it"
            )
        case "promoted-by-order" | "skipped":
            what = "promoted now" if row == "promoted-by-order" else "this step ends"
            assert evidence.order is not None
            return f"{where}: {what} {evidence.order.words}; {_shown(findings, breaches)}"
        case "paused":
            return f"{where}: paused {evidence.paused}"
        case "watching":
            return (
                f"{where}: no harm shown after {elapsed:.0f} of {step.hold_s:.0f} s and {state.step_requests} of "
                f"{step.min_requests} requests"
            )
        case "no-way-back":
            return f"{where}: held, as the champion could not take over: {evidence.no_way_back}"
        case "no-traffic-candidate":
            return f"no request reached version {state.candidate} in this step"
        case "too-few-requests":
            return f"{state.step_requests} requests to the candidate in this step, needs {step.min_requests}"
        case "no-traffic-champion":
            needed = max(1, min(10, step.min_requests))
            return f"{state.step_champion} requests to the champion in this step, needs {needed} to compare with"
        case "gate-silent":
            required = {gate.name for gate in plan.gates if gate.required}
            return next(
                f.missing for f in [*findings, *breaches] if f.missing and (f in breaches or f.name in required)
            )
        case "not-yet-safe":
            return _unproven(plan, findings)
        case "frozen":
            return f"{where}: would pass, but rollouts are frozen: {evidence.frozen}"
        case "outside-hours":
            return f"{where}: would pass, but exposure grows only {'; '.join(str(w) for w in plan.windows)}"
        case "early":
            return f"{where}: shown to be within its margins after {elapsed:.0f} of {step.hold_s:.0f} s; " + _shown(
                findings, breaches
            )
        case _:
            return f"{where}: no harm shown in {state.step_requests} requests; {_shown(findings, breaches)}"


def _unproven(plan: Plan, findings: Sequence[Finding]) -> str:
    demanded = {gate.name: gate for gate in plan.gates if gate.non_inferior}
    finding = next(f for f in findings if f.name in demanded and not f.safe)
    gate = demanded[finding.name]
    what = f"within {gate.safe_margin * gate.scale:g}" if gate.superior is None else f"better by {gate.superior:g}"
    e = finding.numbers.get("e_safe") or 0
    return f"not shown to be {what} (evidence {e:.3g}, bar {1 / plan.beta:.3g}): {finding.sentence}"


def _shown(findings: Sequence[Finding], breaches: Sequence[Finding]) -> str:
    return next((f.sentence for f in [*findings, *breaches] if f.missing is None), "nothing was compared")


def given_up(plan: Plan, step: int, row: str, sentence: str, waited: float, elapsed: float) -> str:
    """``sentence`` where it ends the rollout: how long that was borne."""
    if plan.on_inconclusive == "roll_back" and waited < plan.patience(step):
        return f"{sentence}; the plan does not wait"
    if row in TROUBLES:
        return f"{sentence}; nothing could be said for {waited:.0f} s, patience is {plan.patience(step):.0f} s"
    most = plan.longest(step)
    if elapsed < most:
        return f"{sentence}; the step ends after {plan.steps[step].max_requests} requests"
    return f"{sentence}; the step has waited {elapsed:.0f} s, at most {most:.0f} s"
