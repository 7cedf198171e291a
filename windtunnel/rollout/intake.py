"""From what a router counted to what is new since the last look; whatever is odd becomes trouble and is never counted.

Two readings of one counter make an increment. Counters that started again, numbers from another time, no numbers at
all, an outage of both arms, a world that is not as the rollout wants it: each has a row of its own in the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from windtunnel.rollout.evidence import ArmCounters, Counters, Evidence
from windtunnel.rollout.gates import Block, percent
from windtunnel.rollout.plan import Plan
from windtunnel.rollout.state import Reading, RolloutState

#: Clocks may disagree by this much (seconds) before it is called trouble.
CLOCK_TOLERANCE_S = 1.0
#: The champion's own error rate counts as an outage above this (or three times what it was).
OUTAGE_RATE = 0.05
#: ... when chance explains it less often than this.
OUTAGE_CHANCE = 1e-3
#: A candidate with users' requests and no server is borne for so long: a pod that is put on another node is not its
#: fault, but a step's length would be an hour of errors.
DOWN_S = 60.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """A row of the table that says that nothing can be learnt now, and why."""

    row: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Intake:
    """What the router's counters said at this look.

    Attributes:
        state: with the counters noted.
        block: both arms, since the open block began; None when nothing can be told.
        fresh: both arms, since the last look.
        segments: by segment, since its open block began.
        testers: the candidate's requests from testers since the last look; None when nothing can be told.
    """

    state: RolloutState
    block: Block | None
    fresh: Block | None
    troubles: tuple[Trouble, ...] = ()
    segments: Mapping[str, Block] = field(default_factory=dict)
    testers: ArmCounters | None = None


def clock(state: RolloutState, now: float) -> tuple[RolloutState, float, list[Trouble]]:
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
        down_since=None if state.down_since is None else state.down_since - back,
    )
    return moved, now, [Trouble("clock-back", f"the clock went back by {back:.1f} s since the last look")]


def traffic(plan: Plan, state: RolloutState, evidence: Evidence, now: float) -> Intake:
    """Counters to increments; anything odd becomes trouble and is never counted."""

    def refused(row: str, sentence: str, to: RolloutState = state) -> Intake:
        return Intake(to, None, None, (Trouble(row, sentence),))

    if evidence.traffic is None or evidence.traffic_error is not None:
        return refused("source-down", f"traffic numbers cannot be read: {evidence.traffic_error or 'no answer'}")
    counters = Counters.of(evidence.traffic)
    reading = Reading.of(counters, state.champion, state.candidate)
    odd = _odd(reading)
    if odd is not None:
        return refused("nan", f"traffic numbers make no sense: {odd}")
    # Numbers whose time is wrong still count (harm must be seen), but nothing passes on them.
    doubts: list[Trouble] = []
    stale = max(3 * plan.look_every_s, 15.0)
    if now - reading.at > stale:
        old = f"traffic numbers are {now - reading.at:.0f} s old, more than {stale:.0f} s"
        doubts.append(Trouble("stale", old))
    if reading.at - now > max(CLOCK_TOLERANCE_S, 5.0):
        doubts.append(Trouble("clock-skew", f"traffic numbers are from {reading.at - now:.0f} s in the future"))

    if state.last is None or state.base is None:
        at_start = replace(state, origin=reading, base=reading, last=reading, testers=_testers(evidence))
        begun, _ = _segments(plan, at_start, evidence)
        return Intake(begun, None, None, tuple(doubts))
    fresh = _between(state.last, reading)
    block = _between(state.base, reading)
    if reading.epoch == state.last.epoch and reading.at < state.last.at:
        back = f"traffic numbers are {state.last.at - reading.at:.1f} s older than the last"
        if fresh is None:
            return refused("old-reading", back)  # an earlier reading: to count from it would count twice
        doubts.append(Trouble("clock-skew", back))
    if fresh is None or block is None:
        rebased = replace(state, origin=reading, base=reading, last=reading, segments={}, testers=_testers(evidence))
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
    counted, segments = _segments(plan, counted, evidence)
    testers = _testers(evidence)
    new = testers.since(state.testers or ArmCounters()) if testers is not None else None
    counted = replace(counted, testers=testers if testers is not None else state.testers)
    return Intake(counted, block, fresh, tuple(doubts), segments, new)


def _testers(evidence: Evidence) -> ArmCounters | None:
    """What testers have asked of the candidate; a number that makes no sense is none."""
    if evidence.testers is None:
        return None
    found = ArmCounters.of(evidence.testers)
    counts = (found.requests, found.errors)
    return found if all(math.isfinite(n) for n in counts) and 0 <= found.errors <= found.requests else None


def _segments(plan: Plan, state: RolloutState, evidence: Evidence) -> tuple[RolloutState, dict[str, Block]]:
    """By judged segment, both arms since its open block began. One that cannot be told yet is left out."""
    bases, blocks = dict(state.segments), {}
    for name in plan.segments:
        if name not in evidence.segments:
            continue
        reading = Reading.of(Counters.of(evidence.segments[name]), state.champion, state.candidate)
        if _odd(reading) is not None:
            continue
        block = _between(bases[name], reading) if name in bases else None
        if block is not None and block.both:
            blocks[name] = block
        if block is None or block.both:
            bases[name] = reading
    return replace(state, segments=bases), blocks


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


def outage(plan: Plan, state: RolloutState, block: Block | None) -> list[Trouble]:
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
    return [Trouble("both-failing", sentence)]


def gone(state: RolloutState, evidence: Evidence, now: float) -> RolloutState:
    """Since when the candidate has had users' requests and no server; a look that cannot tell changes nothing."""
    if evidence.ready is None:
        return state
    since = (now if state.down_since is None else state.down_since) if evidence.down else None
    return replace(state, down_since=since)


def world(plan: Plan, state: RolloutState, evidence: Evidence) -> list[Trouble]:
    """Is the world as this rollout wants it? Not knowing is trouble too."""
    troubles: list[Trouble] = []
    if evidence.digest_ok is not True:
        what = "cannot be checked" if evidence.digest_ok is None else "is not what was registered"
        troubles.append(Trouble("version-changed", f"the content of version {state.candidate} {what}"))
    if not there(plan, state, evidence):
        found = "unknown" if evidence.observed_weight is None else f"{evidence.observed_weight} %"
        if evidence.observed_mirror:
            found += f" and {evidence.observed_mirror} % mirrored"
        row = "weights-differ" if state.entered_at is not None else "entering"
        wanted = plan.steps[state.step].words
        troubles.append(Trouble(row, f"the router's weight for version {state.candidate} is {found}, wanted {wanted}"))
    if evidence.ready is not True:
        what = "is not ready" if evidence.ready is False else "cannot be reached"
        troubles.append(Trouble("not-ready", f"the server of version {state.candidate} {what}"))
    return troubles


def there(plan: Plan, state: RolloutState, evidence: Evidence) -> bool:
    """Whether the router has what this step wants."""
    step = plan.steps[state.step]
    return evidence.observed_weight == step.weight and (evidence.observed_mirror or 0) == (step.mirror or 0)
