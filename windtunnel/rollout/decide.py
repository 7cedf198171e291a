"""The brain: plan, state, evidence and the time in; a decision out. Nothing else goes in or out.

``intake`` tells what is new, ``gates`` and ``comparisons`` what it shows, ``table`` which row applies, ``words``
says it. This is the same brain as ``batch.decide_batch``: the tests and the table are called with a batch of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from windtunnel.evidence import Outcome
from windtunnel.rollout import comparisons, gates, intake, words
from windtunnel.rollout.comparisons import Comparisons
from windtunnel.rollout.decision import Decision
from windtunnel.rollout.evidence import ArmCounters, Evidence
from windtunnel.rollout.gates import Block, Finding, Held, Taken, percent
from windtunnel.rollout.hours import is_open
from windtunnel.rollout.intake import Intake, Trouble
from windtunnel.rollout.plan import Plan, PlanGate
from windtunnel.rollout.state import Action, GateState, RolloutState
from windtunnel.rollout.table import (
    ACTIONS,
    LACKS,
    NO_TROUBLE,
    OUTCOMES,
    ROW,
    ROWS,
    TROUBLES,
    Facts,
    Progress,
    Steps,
    judge,
)  # fmt: skip
from windtunnel.stats.betting import FloatArray, e_value
from windtunnel.stats.compare import OneSample, TwoSample
from windtunnel.stats.shift import ShiftTest


def decide(plan: Plan, state: RolloutState, evidence: Evidence, now: float) -> Decision:
    """Judge one look.

    Args:
        plan: the plan.
        state: from ``RolloutState.begin`` or the last decision.
        evidence: what this look found.
        now: seconds since the epoch, by the holder's clock.

    Returns:
        the decision; its ``state`` goes into the next look. After a decision that ends the rollout every further
        look repeats it.

    Raises:
        ValueError: ``now`` is not a number, or the plan is for a first release and there is a champion (or the
            other way round), or it has no steps.
    """
    if not math.isfinite(now):
        raise ValueError(f"now must be a time in seconds, found {now}")
    if plan.first != (state.champion is None):
        raise ValueError("a plan for a first release goes with champion None, any other with a champion")
    if not plan.steps:
        raise ValueError("a plan without steps promotes at once: there is nothing to decide")
    if state.ended is not None:
        return Decision(
            state.ended, Outcome(state.ended_outcome or ""), state.ended_row or "", state.ended_reason or "", state, {}
        )

    troubles: list[Trouble] = []
    state, now, clock = intake.clock(state, now)
    troubles += clock
    state = intake.gone(state, evidence, now)
    taken = intake.traffic(plan, state, evidence, now)
    state = taken.state
    troubles += taken.troubles
    outage = intake.outage(plan, state, taken.block)
    if not outage and taken.fresh is not None and taken.testers is not None:
        # Testers may be the only ones who see the candidate: what fails for everybody is not its doing either.
        outage = intake.outage(plan, state, Block(taken.fresh.champion, taken.testers))
    troubles += outage
    state, findings, breaches = _look(plan, state, taken, evidence, limits=not outage)
    troubles += [Trouble(*f.trouble) for f in findings if f.trouble]
    troubles += intake.world(plan, state, evidence)
    troubles.sort(key=lambda trouble: ROW[trouble.row])
    if taken.block is not None and taken.block.both:
        state = replace(state, base=state.last)

    facts = _facts(plan, state, evidence, findings, breaches, troubles, now)
    said = judge(plan, Steps.of(plan), _progress(state), facts, now)
    row = ROWS[int(said.row[0])]
    action, outcome = ACTIONS[int(said.action[0])], OUTCOMES[int(said.outcome[0])]
    elapsed = float(said.elapsed[0])
    numbers = _numbers(plan, state, findings, breaches, elapsed, troubles)
    reason = words.reason(plan, state, evidence, row, findings, breaches, troubles, elapsed)
    since = float(said.progress.since[0])
    if action in ("roll_back", "withdraw") and row in (*TROUBLES, *LACKS):
        reason = words.given_up(plan, state.step, row, reason, now - since, elapsed)
    state = _moved(plan, state, said.progress, action)
    if action in ("promote", "roll_back", "withdraw"):
        state = replace(state, ended=action, ended_outcome=str(outcome), ended_row=row, ended_reason=reason)
    return Decision(action, outcome, row, reason, state, numbers)


def _progress(state: RolloutState) -> Progress:
    """One rollout's progress as the table reads it."""

    def number(value: float | None) -> FloatArray:
        return np.array([math.nan if value is None else float(value)])

    return Progress(
        step=np.array([state.step]),
        entered=number(state.entered_at),
        lost=number(state.lost_s),
        since=number(state.inconclusive_since),
        last_look=number(state.last_look),
        requests=number(state.step_requests),
        champion=number(state.step_champion),
    )


def _moved(plan: Plan, state: RolloutState, after: Progress, action: Action) -> RolloutState:
    """The state behind what the table said."""

    def value(array: FloatArray) -> float | None:
        return None if math.isnan(array[0]) else float(array[0])

    gates = state.gates
    if action == "advance":
        # What is slow is asked anew at each step, so that the threshold follows the day.
        gates = {name: replace(gate, threshold_ms=None) for name, gate in gates.items()}
    return replace(
        state,
        step=int(after.step[0]),
        entered_at=value(after.entered),
        lost_s=float(after.lost[0]),
        inconclusive_since=value(after.since),
        last_look=value(after.last_look),
        step_requests=int(after.requests[0]),
        step_champion=int(after.champion[0]),
        gates=gates,
    )


def _facts(
    plan: Plan,
    state: RolloutState,
    evidence: Evidence,
    findings: Sequence[Finding],
    breaches: Sequence[Finding],
    troubles: Sequence[Trouble],
    now: float,
) -> Facts:
    by_name = {gate.name: gate for gate in plan.gates}
    required = [finding for finding in findings if by_name[finding.name].required]
    order = evidence.order if evidence.order is not None and evidence.order.step == state.step else None
    alone = plan.steps[state.step].alone
    # Nobody has to test: a limit that only testers' requests are held against is silent without harm.
    everybody = [f for f in breaches if not f.name.endswith(comparisons.TESTERS)]
    silent = any(f.missing is not None for f in everybody) or (not alone and any(f.missing for f in required))
    return Facts(
        aborted=evidence.aborted is not None,
        harm=any(f.harm for f in findings),
        limit=any(f.harm for f in breaches),
        trouble=ROW[troubles[0].row] if troubles else NO_TROUBLE,
        there=intake.there(plan, state, evidence),
        sound=evidence.digest_ok is True and evidence.ready is True,
        silent=silent,
        safe=all(f.safe for f in findings if by_name[f.name].non_inferior),
        shown=bool(required) and all(f.safe for f in required),
        ordered_promote=order is not None and order.kind == "promote",
        ordered_skip=order is not None and order.kind == "skip",
        paused=evidence.paused is not None,
        frozen=evidence.frozen is not None,
        open=is_open(plan.windows, now),
        stranded=evidence.no_way_back is not None,
        down=state.down_since is not None and now - state.down_since >= intake.DOWN_S,
    )


def _look(
    plan: Plan, state: RolloutState, taken: Intake, evidence: Evidence, *, limits: bool
) -> tuple[RolloutState, list[Finding], list[Finding]]:
    """All gates and limits: (state, findings of the gates, findings of the limits).

    Args:
        limits: whether this look counts for the absolute limits.
    """
    if state.loss_bound is None and evidence.quality is not None:
        state = replace(state, loss_bound=evidence.quality.bound)
    if state.prediction_edges is None and evidence.prediction is not None:
        state = replace(state, prediction_edges=evidence.prediction.edges)
    held = Held(state.loss_bound, state.prediction_edges)
    alone = plan.steps[state.step].alone
    looked: dict[str, Taken] = {}
    for gate in plan.gates:
        before = state.gates.get(gate.name) or gates.begin(gate, state.origin.champion if state.origin else None)
        if gate.metric == "latency" and before.threshold_ms is None:
            before = _set_threshold(gate, before, state)
        block = taken.block if gate.segment is None else taken.segments.get(gate.segment)
        # With all the traffic the candidate has nothing to be compared with.
        looked[gate.name] = Taken(before) if alone else gates.take(gate, before, block, evidence, held)

    known = {name: state.limits.get(name, OneSample()) for name, _ in comparisons.limits(plan)}
    fresh = _limited(plan, taken.fresh if limits else None, taken.testers if limits else None)
    events = _events(state, evidence)
    tests = comparisons.update(
        plan,
        Comparisons.of(plan, {name: found.state for name, found in looked.items()}, known, events),
        {name: (found.block[0][None], found.block[1][None]) for name, found in looked.items() if found.block},
        {name: counts[None] for name, counts in fresh.items()},
        ordered=evidence.prediction.ordered if evidence.prediction is not None else True,
    )
    by_gate, by_limit = tests.one(plan)
    looked = {
        name: replace(found, state=replace(found.state, test=by_gate[name])) if found.block else found
        for name, found in looked.items()
    }
    known = {name: by_limit[name] if name in fresh and fresh[name].sum() > 0 else test for name, test in known.items()}
    state = replace(state, gates={name: found.state for name, found in looked.items()}, limits=known)
    findings = [gates.say(gate, looked[gate.name], plan.beta, held) for gate in plan.gates]
    return state, findings, [_say_limit(plan, name, known[name], share) for name, share in comparisons.limits(plan)]


def _events(state: RolloutState, evidence: Evidence) -> int:
    """How many events predictions are counted in; 1 while nobody knows."""
    if evidence.prediction is None or state.prediction_edges is None:
        tests = [gate.test for gate in state.gates.values() if isinstance(gate.test, ShiftTest) and gate.test.champion]
        return len(tests[0].champion) if tests else 1
    cells = len(state.prediction_edges) + 1
    return cells - 1 if evidence.prediction.ordered else cells


def _set_threshold(gate: PlanGate, before: GateState, state: RolloutState) -> GateState:
    """Only from requests before the open block: a threshold must not know what it will judge."""
    if state.base is None or state.origin is None:
        return before
    ever = state.base.champion
    bound = gates.slow_threshold(gate.quantile, ever.since(state.origin.champion), ever)
    test = before.test
    if bound is not None and isinstance(test, TwoSample) and test.weight == 0:
        slow = ever.latency.above(bound)
        test = test.believing(ever.latency.total, slow, slow)
    return replace(before, threshold_ms=bound, test=test)


def _limited(plan: Plan, fresh: Block | None, testers: ArmCounters | None) -> dict[str, FloatArray]:
    """The candidate's new requests as each absolute limit counts them: within, beyond."""
    counts = {}
    for name, _ in comparisons.limits(plan):
        n = hits = 0
        arm = testers if name.endswith(comparisons.TESTERS) else fresh.candidate if fresh is not None else None
        if arm is not None and name.startswith("limit_error_rate"):
            n, hits = arm.requests, arm.errors
        elif arm is not None:
            n, hits = arm.latency.total, arm.latency.above(plan.p95_ms or 0.0)
        counts[name] = np.array([n - hits, hits], dtype=np.float64)
    return counts


def _say_limit(plan: Plan, name: str, test: OneSample, limit: float) -> Finding:
    """The candidate alone against an absolute limit."""
    what, told = "errors", f"limit {percent(limit)}"
    slow, whose = name.startswith("limit_p95_ms"), "testers' " if name.endswith(comparisons.TESTERS) else ""
    if slow:
        what, told = f"slower than {plan.p95_ms:g} ms", "limit 5 %, as its p95 may not be slower"
    harm = test.log_above is not None and test.log_above >= math.log(1 / plan.limit_alpha)
    e = None if test.log_above is None else float(f"{e_value(test.log_above):.6g}")
    rate = test.hits / test.n if test.n else None
    sentence = (
        f"{what}: candidate {percent(rate)} of {test.n:.0f} {whose}requests ({told}; evidence of a breach "
        f"{e or 0:.3g}, bar {1 / plan.limit_alpha:.3g})"
    )
    numbers = {"n": test.n, "rate": rate, "limit": limit, "e_harm": e, "bar": 1 / plan.limit_alpha, "harm": harm}
    if slow:
        numbers["p95_ms"] = plan.p95_ms
    missing = None if test.n else f"{name}: no {whose}requests to the candidate yet"
    return Finding(name, harm, False, missing, sentence, numbers)


def _numbers(
    plan: Plan,
    state: RolloutState,
    findings: list[Finding],
    limits: list[Finding],
    elapsed: float,
    troubles: list[Trouble],
) -> dict[str, Any]:
    step = plan.steps[state.step]
    return {
        "step": {
            "index": state.step,
            "weight": step.weight,
            "elapsed_s": round(elapsed, 3),
            "hold_s": step.hold_s,
            "requests": state.step_requests,
            "min_requests": step.min_requests,
            "champion_requests": state.step_champion,
        },
        "exposed": {"requests": state.requests, "errors": state.errors},
        "gates": {f.name: {**f.numbers, "missing": f.missing} for f in findings},
        "limits": {f.name: {**f.numbers, "missing": f.missing} for f in limits},
        "trouble": [[t.row, t.sentence] for t in troubles],
    }
