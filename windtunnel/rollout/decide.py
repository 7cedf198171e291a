"""The brain: plan, state, evidence and the time in; a decision out. Nothing else goes in or out.

The order is the policy. Harm that is shown beats everything, so that no trouble with the numbers can keep a harmful
version in traffic. Trouble beats passing, so that nothing passes on numbers that cannot be trusted (ROL-3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from windtunnel.evidence import Outcome
from windtunnel.rollout import gates
from windtunnel.rollout.decision import Decision
from windtunnel.rollout.evidence import Counters, Evidence
from windtunnel.rollout.gates import Block, Finding, percent
from windtunnel.rollout.plan import Plan, PlanGate
from windtunnel.rollout.state import Action, GateState, Reading, RolloutState
from windtunnel.stats.betting import e_value
from windtunnel.stats.compare import OneSample, TwoSample

#: Clocks may disagree by this much (seconds) before it is called trouble.
CLOCK_TOLERANCE_S = 1.0
#: The champion's own error rate counts as an outage above this (or three times what it was).
OUTAGE_RATE = 0.05
#: ... when chance explains it less often than this.
OUTAGE_CHANCE = 1e-3


@dataclass(frozen=True, slots=True)
class _Trouble:
    row: str
    sentence: str


@dataclass(frozen=True, slots=True)
class _Taken:
    """What the router's counters said at this look."""

    state: RolloutState
    block: Block | None  # both arms, since the open block began
    fresh: Block | None  # both arms, since the last look
    troubles: tuple[_Trouble, ...]


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
            other way round).
    """
    if not math.isfinite(now):
        raise ValueError(f"now must be a time in seconds, found {now}")
    if plan.first != (state.champion is None):
        raise ValueError("a plan for a first release goes with champion None, any other with a champion")
    if state.ended is not None:
        return Decision(
            state.ended, Outcome(state.ended_outcome or ""), state.ended_row or "", state.ended_reason or "", state, {}
        )

    troubles: list[_Trouble] = []
    state, now, clock = _clock(state, now)
    troubles += clock
    if evidence.aborted is not None:
        return _end(state, plan.retreat, Outcome.INCONCLUSIVE, "aborted", f"taken to 0: {evidence.aborted}", {})

    taken = _take_traffic(plan, state, evidence, now)
    state = taken.state
    troubles += taken.troubles
    outage = _outage(plan, state, taken.block)
    troubles += outage

    state, findings = _look_gates(plan, state, taken.block, evidence)
    state, limits = _look_limits(plan, state, None if outage else taken.fresh)
    troubles += [_Trouble(*f.trouble) for f in findings if f.trouble]
    troubles += _world(plan, state, evidence)

    step = plan.steps[state.step]
    if state.entered_at is None and evidence.observed_weight == step.weight:
        state = replace(state, entered_at=now)
    if taken.block is not None and taken.block.both:
        state = replace(state, base=state.last)
    before, state = state, replace(state, last_look=now)
    elapsed = 0.0 if state.entered_at is None else now - state.entered_at - state.lost_s
    numbers = _numbers(plan, state, findings, limits, elapsed, troubles)

    harms = [f for f in findings if f.harm] + [f for f in limits if f.harm]
    if harms:
        row = "limit" if harms[0].name.startswith("limit_") else "harm"
        return _end(state, plan.retreat, Outcome.FAIL, row, harms[0].sentence, numbers)
    if troubles:
        return _inconclusive(plan, state, troubles[0].row, troubles[0].sentence, numbers, now, before.last_look, True)

    if elapsed < step.hold_s:
        state = replace(state, inconclusive_since=None)
        sentence = (
            f"step {state.step + 1} of {len(plan.steps)} at {step.weight} %: no harm shown after {elapsed:.0f} of "
            f"{step.hold_s:.0f} s and {state.step_requests} of {step.min_requests} requests"
        )
        return Decision("hold", Outcome.INCONCLUSIVE, "watching", sentence, state, numbers)
    lacking = _lacking(plan, state, findings, limits)
    if lacking is not None:
        return _inconclusive(plan, state, lacking.row, lacking.sentence, numbers, now, before.last_look, False)
    return _pass(plan, state, findings + limits, numbers)


def _clock(state: RolloutState, now: float) -> tuple[RolloutState, float, list[_Trouble]]:
    """A clock that went back must not stop the watch: times already spent are kept, the rest moves along."""
    if state.last_look is None or now >= state.last_look:
        return state, now, []
    back = state.last_look - now
    if back <= CLOCK_TOLERANCE_S:
        return state, state.last_look, []
    moved = replace(
        state,
        last_look=now,
        entered_at=None if state.entered_at is None else state.entered_at - back,
        inconclusive_since=None if state.inconclusive_since is None else state.inconclusive_since - back,
    )
    return moved, now, [_Trouble("clock-back", f"the clock went back by {back:.1f} s since the last look")]


def _take_traffic(plan: Plan, state: RolloutState, evidence: Evidence, now: float) -> _Taken:
    """Counters to increments; anything odd becomes trouble and is never counted."""

    def refused(row: str, sentence: str, to: RolloutState = state) -> _Taken:
        return _Taken(to, None, None, (_Trouble(row, sentence),))

    if evidence.traffic is None or evidence.traffic_error is not None:
        return refused("source-down", f"traffic numbers cannot be read: {evidence.traffic_error or 'no answer'}")
    counters = Counters.of(evidence.traffic)
    reading = Reading(counters.epoch, counters.at, counters.arm(state.champion), counters.arm(state.candidate))
    odd = _odd(reading)
    if odd is not None:
        return refused("nan", f"traffic numbers make no sense: {odd}")
    # Numbers whose time is wrong still count (harm must be seen), but nothing passes on them.
    doubts: list[_Trouble] = []
    stale = max(3 * plan.look_every_s, 15.0)
    if now - reading.at > stale:
        old = f"traffic numbers are {now - reading.at:.0f} s old, more than {stale:.0f} s"
        doubts.append(_Trouble("stale", old))
    if reading.at - now > max(CLOCK_TOLERANCE_S, 5.0):
        doubts.append(_Trouble("clock-skew", f"traffic numbers are from {reading.at - now:.0f} s in the future"))

    if state.last is None or state.base is None:
        return _Taken(replace(state, origin=reading, base=reading, last=reading), None, None, tuple(doubts))
    fresh = _between(state.last, reading)
    block = _between(state.base, reading)
    if reading.epoch == state.last.epoch and reading.at < state.last.at:
        back = f"traffic numbers are {state.last.at - reading.at:.1f} s older than the last"
        if fresh is None:
            return refused("old-reading", back)  # an earlier reading: to count from it would count twice
        doubts.append(_Trouble("clock-skew", back))
    if fresh is None or block is None:
        rebased = replace(state, origin=reading, base=reading, last=reading)
        return refused("counter-reset", "the router's counters started again; counting goes on from here", rebased)
    counted = replace(
        state,
        last=reading,
        requests=state.requests + fresh.candidate.requests,
        errors=state.errors + fresh.candidate.errors,
    )
    if state.entered_at is not None:
        counted = replace(
            counted,
            step_requests=state.step_requests + fresh.candidate.requests,
            step_champion=state.step_champion + fresh.champion.requests,
        )
    return _Taken(counted, block, fresh, tuple(doubts))


def _between(before: Reading, after: Reading) -> Block | None:
    """None when the two are not of one counter."""
    if before.epoch != after.epoch:
        return None
    champion, candidate = after.champion.since(before.champion), after.candidate.since(before.candidate)
    return None if champion is None or candidate is None else Block(champion, candidate)


def _odd(reading: Reading) -> str | None:
    if not math.isfinite(reading.at):
        return f"their time is {reading.at}"
    for name, arm in (("champion", reading.champion), ("candidate", reading.candidate)):
        for what, count in (("requests", arm.requests), ("errors", arm.errors)):
            if not math.isfinite(count) or count < 0:
                return f"{what} of the {name} are {count}"
        if arm.errors > arm.requests:
            return f"the {name} has {arm.errors} errors in {arm.requests} requests"
    return None


def _outage(plan: Plan, state: RolloutState, block: Block | None) -> list[_Trouble]:
    """Both arms fail: what is broken is not the candidate, and nothing can be learnt about it now."""
    if block is None or not block.both or plan.first or state.origin is None:
        return []
    a, b = block.champion, block.candidate
    # What the champion was like before the rollout: an outage that lasts must not become the usual.
    history = state.origin.champion
    usual = (history.errors + 0.5) / (history.requests + 50)
    bar = min(0.9, max(plan.error_rate or OUTAGE_RATE, OUTAGE_RATE, 3 * usual))
    rate_a, rate_b = a.errors / a.requests, b.errors / b.requests
    if rate_a <= bar or rate_b <= bar:
        return []
    # Chernoff: chance of so many errors if the rate were only at the bar.
    divergence = rate_a * math.log(rate_a / bar)
    if rate_a < 1:
        divergence += (1 - rate_a) * math.log((1 - rate_a) / (1 - bar))
    if math.exp(-a.requests * divergence) > OUTAGE_CHANCE:
        return []
    sentence = (
        f"both arms fail: champion {percent(rate_a)} of {a.requests}, candidate {percent(rate_b)} of {b.requests}"
    )
    return [_Trouble("both-failing", sentence)]


def _look_gates(
    plan: Plan, state: RolloutState, block: Block | None, evidence: Evidence
) -> tuple[RolloutState, list[Finding]]:
    if state.loss_bound is None and evidence.quality is not None:
        state = replace(state, loss_bound=evidence.quality.bound)
    if state.prediction_edges is None and evidence.prediction is not None:
        state = replace(state, prediction_edges=evidence.prediction.edges)
    known = dict(state.gates)
    findings: list[Finding] = []
    for gate in plan.gates:
        before = known.get(gate.name)
        if gate.metric == "latency" and (before is None or before.threshold_ms is None):
            before = _set_threshold(gate, before, state)
        known[gate.name], finding = gates.look(
            gate, before, block, evidence, plan.beta,
            loss_bound=state.loss_bound, prediction_edges=state.prediction_edges,
        )  # fmt: skip
        findings.append(finding)
    return replace(state, gates=known), findings


def _set_threshold(gate: PlanGate, before: GateState | None, state: RolloutState) -> GateState:
    """Only from requests before the open block: a threshold must not know what it will judge."""
    empty = before or GateState(TwoSample())
    if state.base is None or state.origin is None:
        return empty
    since_start = state.base.champion.since(state.origin.champion)
    return replace(empty, threshold_ms=gates.slow_threshold(gate.quantile, since_start, state.base.champion))


def _look_limits(plan: Plan, state: RolloutState, fresh: Block | None) -> tuple[RolloutState, list[Finding]]:
    """The candidate alone against the absolute limits."""
    known = dict(state.limits)
    findings: list[Finding] = []
    rules = []
    if plan.error_rate is not None:
        n, hits = (fresh.candidate.requests, fresh.candidate.errors) if fresh else (0, 0)
        rules.append(("limit_error_rate", plan.error_rate, n, hits, "errors", f"limit {percent(plan.error_rate)}"))
    if plan.p95_ms is not None:
        n, hits = (fresh.candidate.latency.total, fresh.candidate.latency.above(plan.p95_ms)) if fresh else (0, 0)
        words = f"slower than {plan.p95_ms:g} ms"
        rules.append(("limit_p95_ms", 0.05, n, hits, words, "limit 5 %, as its p95 may not be slower"))
    for name, limit, n, hits, what, words in rules:
        test = known.get(name, OneSample()).update(n, hits, limit)
        known[name] = test
        harm = test.log_above is not None and test.log_above >= math.log(1 / plan.limit_alpha)
        e = None if test.log_above is None else float(f"{e_value(test.log_above):.6g}")
        rate = test.hits / test.n if test.n else None
        sentence = (
            f"{what}: candidate {percent(rate)} of {test.n:.0f} requests ({words}; evidence of a breach {e or 0:.3g}, "
            f"bar {1 / plan.limit_alpha:.3g})"
        )
        numbers = {
            "n": test.n, "rate": rate, "limit": limit, "e_harm": e, "bar": 1 / plan.limit_alpha, "harm": harm,
        }  # fmt: skip
        if name == "limit_p95_ms":
            numbers["p95_ms"] = plan.p95_ms
        missing = None if test.n else f"{name}: no requests to the candidate yet"
        findings.append(Finding(name, harm, False, missing, sentence, numbers))
    return replace(state, limits=known), findings


def _world(plan: Plan, state: RolloutState, evidence: Evidence) -> list[_Trouble]:
    """Is the world as this rollout wants it? Not knowing is trouble too."""
    troubles: list[_Trouble] = []
    if evidence.digest_ok is not True:
        what = "cannot be checked" if evidence.digest_ok is None else "is not what was registered"
        troubles.append(_Trouble("version-changed", f"the content of version {state.candidate} {what}"))
    weight = plan.steps[state.step].weight
    if evidence.observed_weight != weight:
        found = "unknown" if evidence.observed_weight is None else f"{evidence.observed_weight} %"
        row = "weights-differ" if state.entered_at is not None else "entering"
        troubles.append(
            _Trouble(row, f"the router's weight for version {state.candidate} is {found}, wanted {weight} %")
        )
    if evidence.ready is not True:
        what = "is not ready" if evidence.ready is False else "cannot be reached"
        troubles.append(_Trouble("not-ready", f"the server of version {state.candidate} {what}"))
    return troubles


def _lacking(plan: Plan, state: RolloutState, findings: list[Finding], limits: list[Finding]) -> _Trouble | None:
    """What a step whose time is over still lacks; None when it may pass."""
    step = plan.steps[state.step]
    if state.step_requests == 0:
        return _Trouble("no-traffic-candidate", f"no request reached version {state.candidate} in this step")
    if state.step_requests < step.min_requests:
        return _Trouble(
            "too-few-requests",
            f"{state.step_requests} requests to the candidate in this step, needs {step.min_requests}",
        )
    needed = max(1, min(10, step.min_requests))
    if not plan.first and state.step_champion < needed:
        sentence = f"{state.step_champion} requests to the champion in this step, needs {needed} to compare with"
        return _Trouble("no-traffic-champion", sentence)
    required = {gate.name for gate in plan.gates if gate.required}
    for finding in findings:
        if finding.name in required and finding.missing is not None:
            return _Trouble("gate-silent", finding.missing)
    for finding in limits:
        if finding.missing is not None:
            return _Trouble("gate-silent", finding.missing)
    demanded = {gate.name for gate in plan.gates if gate.non_inferior}
    for finding in findings:
        if finding.name in demanded and not finding.safe:
            return _Trouble("not-yet-safe", f"not shown to be within its margin: {finding.sentence}")
    return None


def _inconclusive(
    plan: Plan,
    state: RolloutState,
    row: str,
    sentence: str,
    numbers: dict[str, Any],
    now: float,
    last_look: float | None,
    trouble: bool,
) -> Decision:
    """Nothing can be said: the plan says what then. Never a pass."""
    since = now if state.inconclusive_since is None else state.inconclusive_since
    state = replace(state, inconclusive_since=since)
    patience = plan.patience(state.step)
    if plan.on_inconclusive == "roll_back" and row != "entering":
        return _end(state, plan.retreat, Outcome.INCONCLUSIVE, row, f"{sentence}; the plan does not wait", numbers)
    if now - since >= patience:
        ending = f"{sentence}; nothing could be said for {now - since:.0f} s, patience is {patience:.0f} s"
        return _end(state, plan.retreat, Outcome.INCONCLUSIVE, row, ending, numbers)
    if plan.on_inconclusive == "extend" and trouble and state.entered_at is not None and last_look is not None:
        state = replace(state, lost_s=state.lost_s + max(0.0, now - max(last_look, state.entered_at)))
    return Decision("hold", Outcome.INCONCLUSIVE, row, sentence, state, numbers)


def _pass(plan: Plan, state: RolloutState, findings: list[Finding], numbers: dict[str, Any]) -> Decision:
    step = plan.steps[state.step]
    shown = next((f.sentence for f in findings if f.missing is None), "")
    what = "first watch" if plan.first else f"step {state.step + 1} of {len(plan.steps)} at {step.weight} %"
    reason = f"{what}: no harm shown in {state.step_requests} requests; {shown}"
    if state.step + 1 == len(plan.steps):
        return _end(state, "promote", Outcome.PASS, "pass-last", reason, numbers)
    known = {
        # What is slow is asked anew at each step, so that the threshold follows the day.
        name: replace(gate, threshold_ms=None)
        for name, gate in state.gates.items()
    }
    onward = replace(
        state,
        step=state.step + 1,
        entered_at=None,
        lost_s=0.0,
        inconclusive_since=None,
        step_requests=0,
        step_champion=0,
        gates=known,
    )
    return Decision("advance", Outcome.PASS, "pass", reason, onward, numbers)


def _end(
    state: RolloutState, action: Action, outcome: Outcome, row: str, reason: str, numbers: dict[str, Any]
) -> Decision:
    ended = replace(state, ended=action, ended_outcome=str(outcome), ended_row=row, ended_reason=reason)
    return Decision(action, outcome, row, reason, ended, numbers)


def _numbers(
    plan: Plan,
    state: RolloutState,
    findings: list[Finding],
    limits: list[Finding],
    elapsed: float,
    troubles: list[_Trouble],
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
