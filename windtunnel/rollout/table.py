"""The decision table: which row applies, and what it does to a rollout's progress.

Works on arrays of any shape, so that one rollout and ten thousand simulated ones are judged by the same lines. From
the top, the first row that applies decides. Harm that is shown beats everything, so that no trouble with the numbers
can keep a harmful version in traffic. Trouble beats passing, so that nothing passes on numbers that cannot be
trusted (ROL-3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.evidence import Outcome
from windtunnel.rollout.plan import Plan
from windtunnel.rollout.state import Action
from windtunnel.stats.betting import FloatArray

Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]

#: Something is wrong with the numbers or the world; nothing is learnt about the candidate.
TROUBLES = (
    "version-changed", "clock-back", "source-down", "nan", "stale", "clock-skew", "old-reading", "counter-reset",
    "both-failing", "labels-corrected", "predictions-changed", "entering", "weights-differ", "not-ready",
)  # fmt: skip
#: The step's time is over, and this is still lacking.
LACKS = ("no-traffic-candidate", "too-few-requests", "no-traffic-champion", "gate-silent", "not-yet-safe")

#: All rows, from the top.
ROWS = (
    "aborted", "harm", "limit", "down", "promoted-by-order", "skipped", "paused", *TROUBLES, "watching", "no-way-back",
    *LACKS, "frozen", "outside-hours", "early", "pass", "pass-last",
)  # fmt: skip
ROW = {name: index for index, name in enumerate(ROWS)}
NO_TROUBLE = -1

ACTIONS: tuple[Action, ...] = ("hold", "advance", "promote", "roll_back", "withdraw")
HOLD, ADVANCE, PROMOTE, ROLL_BACK, WITHDRAW = range(5)
OUTCOMES = (Outcome.INCONCLUSIVE, Outcome.PASS, Outcome.FAIL)
INCONCLUSIVE, PASS, FAIL = range(3)

_PASSES = np.array([row in ("early", "pass", "pass-last") for row in ROWS])
_FAILS = np.array([row in ("harm", "limit") for row in ROWS])
_WAITS = np.array([row in TROUBLES or row in LACKS for row in ROWS])
_TROUBLE = np.array([row in TROUBLES for row in ROWS])
#: What is wrong with the candidate itself: worse than any champion.
_CANDIDATES = np.array([row in ("version-changed", "not-ready") for row in ROWS])


@dataclass(frozen=True, slots=True)
class Progress:
    """Where rollouts stand in their plan; arrays of one shape. Times in seconds, NaN where there is none.

    Attributes:
        step: index into the plan's steps.
        entered: when the router was first seen with this step's weight.
        lost: seconds of this step that do not count.
        since: since when nothing can be said.
        last_look: time of the last look.
        requests, champion: of candidate and champion since this step was entered.
    """

    step: Ints
    entered: FloatArray
    lost: FloatArray
    since: FloatArray
    last_look: FloatArray
    requests: FloatArray
    champion: FloatArray

    @classmethod
    def begin(cls, n: int) -> Progress:
        """``n`` rollouts nobody has looked at."""
        nothing, zero = np.full(n, np.nan), np.zeros(n)
        return cls(np.zeros(n, dtype=np.int64), nothing, zero, nothing, nothing, zero, zero)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a look has shown; masks of the rollouts' shape (or plain booleans).

    Attributes:
        aborted: the candidate was taken to 0 by guard or person.
        harm, limit: a gate, an absolute limit shows harm.
        down: users' requests go to the candidate, and for too long nobody has been there to answer them.
        trouble: index into ``ROWS`` of the first trouble, or ``NO_TROUBLE``.
        there: the router has the step's weight.
        sound: the candidate is what was registered, and ready: an order of a person may be followed.
        silent: a required gate or a limit can say nothing.
        safe: all that promotion needs is shown.
        shown: every required comparison has shown that the candidate is within its margin.
        ordered_promote, ordered_skip, paused, frozen: what people said.
        open: exposure may grow at this time of the week.
        stranded: the champion could not take over: no step begins, and not knowing is no reason to go back to it.
    """

    aborted: Any
    harm: Any
    limit: Any
    trouble: Any
    there: Any
    sound: Any
    silent: Any
    safe: Any
    shown: Any
    ordered_promote: Any = False
    ordered_skip: Any = False
    paused: Any = False
    frozen: Any = False
    open: Any = True
    stranded: Any = False
    down: Any = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """``row`` (index into ``ROWS``), ``action`` and ``outcome`` (indices), the time spent in the step before (seconds),
    and the progress after."""

    row: Ints
    action: Ints
    outcome: Ints
    elapsed: FloatArray
    progress: Progress


@dataclass(frozen=True, slots=True)
class Steps:
    """A plan's steps as arrays."""

    hold: FloatArray
    at_least: FloatArray
    longest: FloatArray
    patience: FloatArray
    min_requests: FloatArray
    max_requests: FloatArray
    alone: Mask
    proof: Mask

    @classmethod
    def of(cls, plan: Plan) -> Steps:
        steps, every = plan.steps, range(len(plan.steps))
        return cls(
            hold=np.array([step.hold_s for step in steps]),
            at_least=np.array([step.hold_s if step.at_least_s is None else step.at_least_s for step in steps]),
            longest=np.array([plan.longest(i) for i in every]),
            patience=np.array([plan.patience(i) for i in every]),
            min_requests=np.array([step.min_requests for step in steps], dtype=np.float64),
            max_requests=np.array([np.inf if step.max_requests is None else step.max_requests for step in steps]),
            alone=np.array([step.alone for step in steps]),
            proof=np.array([i == plan.proof_at for i in every]),
        )


def judge(plan: Plan, steps: Steps, before: Progress, facts: Facts, now: float) -> Judgement:
    """The row, action and outcome of each rollout, and where it stands then.

    Args:
        steps: ``Steps.of(plan)``.
        before: its ``requests`` and ``champion`` hold this look's already.
        now: seconds since the epoch.
    """
    step = before.step
    hold, longest = steps.hold[step], steps.longest[step]
    entered = np.where(np.isnan(before.entered) & facts.there, now, before.entered)
    elapsed = np.where(np.isnan(entered), 0.0, now - entered - before.lost)

    lack = _lacking(steps, before, facts)
    due = elapsed >= hold
    early = (elapsed >= steps.at_least[step]) & ~due & (lack == NO_TROUBLE) & facts.shown
    last = step + 1 == len(plan.steps)
    trouble = np.asarray(facts.trouble)
    # A person may order what the numbers do not say yet, but not past a freeze, nor to a version that is not sound.
    may_order = facts.sound & ~np.asarray(facts.frozen, dtype=bool)

    row = _first(
        step.shape,
        (facts.aborted, ROW["aborted"]),
        (facts.harm, ROW["harm"]),
        (facts.limit, ROW["limit"]),
        (facts.down, ROW["down"]),
        (may_order & facts.ordered_promote, ROW["promoted-by-order"]),
        (may_order & facts.ordered_skip, ROW["skipped"]),
        (facts.paused, ROW["paused"]),
        (trouble >= 0, trouble),
        (~due & ~early, ROW["watching"]),
        (facts.stranded, ROW["no-way-back"]),
        (lack >= 0, lack),
        (facts.frozen, ROW["frozen"]),
        (~np.asarray(facts.open, dtype=bool), ROW["outside-hours"]),
        (last, ROW["pass-last"]),
        (early, ROW["early"]),
        (True, ROW["pass"]),
    )

    waits = _WAITS[row]
    since = np.where(waits, np.where(np.isnan(before.since), now, before.since), np.nan)
    # Trouble is borne for so long; what is lacking is waited for until so much of the step is over.
    tired = np.where(_TROUBLE[row], now - since >= steps.patience[step], elapsed >= np.maximum(longest, hold)) | (
        ~_TROUBLE[row] & (before.requests >= steps.max_requests[step])
    )
    if plan.on_inconclusive == "roll_back":
        tired = tired | (row != ROW["entering"])
    tired = tired & (~np.asarray(facts.stranded, dtype=bool) | _CANDIDATES[row])
    retreat = WITHDRAW if plan.first else ROLL_BACK
    goes = _PASSES[row] | (row == ROW["skipped"])
    action = _first(
        step.shape,
        ((row == ROW["aborted"]) | (row == ROW["down"]) | _FAILS[row], retreat),
        ((row == ROW["promoted-by-order"]) | (goes & last), PROMOTE),
        (goes, ADVANCE),
        (waits & tired, retreat),
        (True, HOLD),
    )
    outcome = np.where(_FAILS[row], FAIL, np.where(_PASSES[row], PASS, INCONCLUSIVE))

    # Time in which a person had paused it does not count, nor that of trouble where the plan extends.
    idle = row == ROW["paused"]
    if plan.on_inconclusive == "extend":
        idle = idle | _TROUBLE[row]
    idle = idle & (action == HOLD) & ~np.isnan(entered) & ~np.isnan(before.last_look)
    with np.errstate(invalid="ignore"):
        spent = np.where(idle, np.maximum(0.0, now - np.fmax(before.last_look, entered)), 0.0)

    onward = action == ADVANCE
    after = Progress(
        step=np.where(onward, step + 1, step),
        entered=np.where(onward, np.nan, entered),
        lost=np.where(onward, 0.0, before.lost + spent),
        since=np.where(onward, np.nan, since),
        last_look=np.full(step.shape, now),
        requests=np.where(onward, 0.0, before.requests),
        champion=np.where(onward, 0.0, before.champion),
    )
    return Judgement(row, action, outcome, elapsed, after)


def _lacking(steps: Steps, before: Progress, facts: Facts) -> Ints:
    """Row of the first thing a step still lacks to pass, or ``NO_TROUBLE``."""
    step = before.step
    least = steps.min_requests[step]
    compared = ~steps.alone[step]
    return _first(
        step.shape,
        (before.requests == 0, ROW["no-traffic-candidate"]),
        (before.requests < least, ROW["too-few-requests"]),
        (compared & (before.champion < np.minimum(np.maximum(least, 1), 10)), ROW["no-traffic-champion"]),
        (facts.silent, ROW["gate-silent"]),
        (compared & steps.proof[step] & ~np.asarray(facts.safe, dtype=bool), ROW["not-yet-safe"]),
        (True, NO_TROUBLE),
    )


def _first(shape: tuple[int, ...], *cases: tuple[Any, Any]) -> Ints:
    """For each rollout the value of the first case that applies (``numpy.select``, cheap for a single one)."""
    if shape == (1,):
        for applies, value in cases:
            if applies if isinstance(applies, bool) else np.ravel(applies)[0]:
                return np.array([value if isinstance(value, int) else np.ravel(value)[0]], dtype=np.int64)
    found: Any = np.zeros(shape, dtype=np.int64)
    for applies, value in reversed(cases):
        found = np.where(applies, value, found)
    return np.asarray(found, dtype=np.int64)
