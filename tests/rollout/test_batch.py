"""Ten thousand rollouts are decided by the same brain as one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from windtunnel.rollout import Counters, Evidence, RolloutState, decide, prediction_numbers, quality_numbers, table
from windtunnel.rollout.batch import Lanes, Look, decide_batch
from windtunnel.rollout.evidence import ArmCounters
from windtunnel.spec.rollout import Gate, Limits, Step
from windtunnel.stats.binning import loss_points, spread

from .conftest import histogram, make_plan, seconds

RATES = [Gate(metric="errors", margin=0.01), Gate(metric="latency", margin=0.05)]
ROWS_TOO = [*RATES, Gate(metric="quality", margin=0.2), Gate(metric="prediction", margin=0.15)]
NO_MARGIN = [Gate(metric="errors", margin=0.0, within=0.02), Gate(metric="latency", margin=0.1)]
EARLY = [
    Step(weight=20, hold=seconds(120), min_requests=30, at_least=seconds(30)),
    Step(weight=50, hold=seconds(60), min_requests=50, at_most=seconds(240), max_requests=4000),
]


def pair(n: int, hits: int) -> np.ndarray:
    return np.array([n - hits, hits], dtype=float)


class Twin:
    """One lane, told to ``decide`` as a router would tell it."""

    def __init__(self, plan, history: int) -> None:
        self.plan = plan
        self.state = RolloutState.begin(champion="1", candidate="2", at=0.0)
        self.totals = {"1": np.array([history, history // 100, history // 25]), "2": np.zeros(3, dtype=int)}
        self.losses: dict[str, list[float]] = {"1": [], "2": []}
        self.quality = self.prediction = None

    def look(self, now: float, fresh: dict[str, np.ndarray], **changes) -> str:
        for version, more in fresh.items():
            self.totals[version] = self.totals[version] + more
        arms = {
            v: ArmCounters(int(n), int(e), 0, histogram(int(n - s), int(s))) for v, (n, e, s) in self.totals.items()
        }
        evidence = Evidence(
            traffic=Counters("a", now, arms), quality=self.quality, prediction=self.prediction,
            observed_weight=self.plan.steps[self.state.step].weight, ready=True, digest_ok=True,
        )  # fmt: skip
        decision = decide(self.plan, self.state, replace(evidence, **changes), now)
        self.state = decision.state
        return decision.row


@pytest.mark.parametrize("gates", [RATES, ROWS_TOO, NO_MARGIN], ids=["rates", "rows", "no-margin"])
@pytest.mark.parametrize("steps", [None, EARLY], ids=["plain", "early"])
@pytest.mark.parametrize("policy", ["hold", "extend", "roll_back"])
def test_a_batch_and_single_rollouts_agree_at_every_look(gates, steps, policy) -> None:
    rng = np.random.default_rng(9)
    changes = {"steps": steps} if steps else {}
    plan = make_plan(gates=gates, limits=Limits(error_rate=0.08), on_inconclusive=policy, **changes)
    worse = [0.01, 0.01, 0.01, 0.02, 0.03, 0.06, 0.1, 0.3]
    n, history = len(worse), 1000
    known = {"errors": (history, history // 100), "latency_p95": (history, history // 25)}
    rows = any(gate.metric == "quality" for gate in gates)
    twins = [Twin(plan, history) for _ in worse]
    points, bound, edges = loss_points(), 4.0, tuple(np.arange(1, 10) / 10)
    lanes = Lanes.begin(plan, n, events=len(edges), history=known)
    zeros = np.zeros(n)
    empty = Look({}, {"limit_error_rate": np.zeros((n, 2))}, zeros, zeros)
    lanes = decide_batch(plan, lanes, empty, 0.0)
    for lane, twin in enumerate(twins):
        assert twin.look(0.0, {}) == table.ROWS[lanes.row[lane]]
    for look in range(1, 90):
        if not lanes.running.any():
            break
        now = 10.0 * look
        known_mask = np.full(n, look % 7 != 3 or policy == "roll_back")
        made: dict[str, list] = {name: [] for name in ("e", "s", "l", "q", "p")}
        sizes = np.zeros((n, 2))
        for lane, (twin, rate) in enumerate(zip(twins, worse, strict=True)):
            weight = plan.steps[twin.state.step].weight / 100
            total = int(rng.poisson(300)) if known_mask[lane] else 0
            b = int(rng.binomial(total, weight))
            a = total - b
            fresh = {
                "1": np.array([a, rng.binomial(a, 0.01), rng.binomial(a, 0.03)]),
                "2": np.array([b, rng.binomial(b, rate), rng.binomial(b, 0.03)]),
            }
            changes = {} if known_mask[lane] else {"traffic": None, "traffic_error": "gone"}
            if rows:
                for version, count in (("1", a), ("2", b)):
                    twin.losses[version] += rng.random(count).tolist()
                one = [np.asarray(twin.losses[v]) for v in ("1", "2")]
                q = quality_numbers(*one, bound)
                p = prediction_numbers(*one, edges)
                old = (twin.quality, twin.prediction)
                twin.quality, twin.prediction = q, p
                made["q"].append([np.asarray(x.cells) - (np.asarray(y.cells) if o else 0) for x, y, o in (
                    (q.champion, old[0].champion if old[0] else None, old[0]),
                    (q.candidate, old[0].candidate if old[0] else None, old[0]),
                )])  # fmt: skip
                made["p"].append([np.asarray(x) - (np.asarray(y) if o else 0) for x, y, o in (
                    (p.champion, old[1].champion if old[1] else None, old[1]),
                    (p.candidate, old[1].candidate if old[1] else None, old[1]),
                )])  # fmt: skip
            twin.look(now, fresh, **changes)
            for key, place in (("e", 1), ("s", 2)):
                made[key].append([pair(fresh["1"][0], fresh["1"][place]), pair(fresh["2"][0], fresh["2"][place])])
            made["l"].append(pair(fresh["2"][0], fresh["2"][1]))
            sizes[lane] = a, b
        blocks = {"errors": made["e"], "latency_p95": made["s"]} | (
            {"quality": made["q"], "prediction": made["p"]} if rows else {}
        )
        arrays = {name: (np.array([x[0] for x in v]), np.array([x[1] for x in v])) for name, v in blocks.items()}
        lanes = decide_batch(
            plan,
            lanes,
            Look(arrays, {"limit_error_rate": np.array(made["l"])}, sizes[:, 0], sizes[:, 1], known=known_mask),
            now,
        )
        for lane, twin in enumerate(twins):
            state = twin.state
            if state.ended is not None:
                assert lanes.ended[lane] and table.ROWS[lanes.row[lane]] == state.ended_row, (look, lane)
                continue
            assert not lanes.ended[lane], (look, lane, table.ROWS[lanes.row[lane]])
            assert state.step == lanes.step[lane], (look, lane)
            assert state.requests == lanes.requests[lane]
            assert state.step_requests == lanes.progress.requests[lane]
            at = [g.name for g in plan.gates if g.rates and g.margin > 0].index("latency_p95")
            assert state.gates["latency_p95"].test.harm == pytest.approx(lanes.tests.rates.harm[at, lane], abs=2e-6)
    assert len(set(lanes.ended)) > 1, "innocent and harmful lanes must not all end alike, or this shows little"
    assert spread(np.array([0.5]), points).sum() == 1


def test_lanes_that_ended_stay_as_they_are_and_can_be_dropped() -> None:
    plan = make_plan(gates=RATES)
    lanes = Lanes.begin(plan, 3)
    many, none = np.array([[0.0, 50.0], [50.0, 0.0], [50.0, 0.0]]), np.array([[500.0, 0.0]] * 3)
    zeros = np.zeros(3)
    lanes = decide_batch(plan, lanes, Look({}, {"limit_error_rate": np.zeros((3, 2))}, zeros, zeros), 0.0)
    look = Look({"errors": (none, many)}, {"limit_error_rate": many}, none.sum(1), many.sum(1))
    lanes = decide_batch(plan, lanes, look, 10.0)
    assert lanes.ended.tolist() == [2, 0, 0]
    later = decide_batch(plan, lanes, look, 20.0)
    assert later.at.tolist() == [10.0, 20.0, 20.0] and later.requests.tolist() == [50, 100, 100]
    left = later.take(later.running)
    assert left.ended.tolist() == [0, 0]
    again = decide_batch(plan, left, Look({}, {}, zeros[:2], zeros[:2]), 30.0)
    assert again.tests.rates.harm == pytest.approx(later.tests.rates.harm[:, 1:])


def test_a_plan_without_steps_has_nothing_to_watch() -> None:
    plan = replace(make_plan(), steps=())
    with pytest.raises(ValueError, match="nothing to decide"):
        Lanes.begin(plan, 1)
    with pytest.raises(ValueError, match="nothing to decide"):
        decide(plan, RolloutState.begin(champion="1", candidate="2", at=0.0), Evidence(), 0.0)
