"""What a rehearsal pretends: drawn traffic has the rates it says, whoever watches. DEMAND ROL-9."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from windtunnel.errors import DataError, DescriptionError
from windtunnel.rehearsal import recorded, scenarios
from windtunnel.rehearsal.arrivals import BLOCK, Arrivals, Counts, Places, Rows, cuts
from windtunnel.rehearsal.recorded import Recording
from windtunnel.rehearsal.scenarios import NAMED, Harm, Outage, Scenario, World, named
from windtunnel.rollout.plan import Plan
from windtunnel.spec import Gate, Rollout, Segments, Step

PLAN = Plan.from_spec(Rollout(look_every="30s", lease="90s"), False)


def totals(
    world: World, plan: Plan = PLAN, *, runs: int = 200, blocks: int = 2, step: int = 1, seed: int = 1
) -> Counts:
    """Everything that came, of one step."""
    arrivals = Arrivals(world, runs, cuts(plan), np.random.SeedSequence(seed), len(world.tails_a))
    everyone, steps, places = np.arange(runs), np.full(runs, step), Places.of(plan)
    found: Counts | None = None
    for _ in range(blocks):
        block = arrivals.block()
        for look in range(BLOCK):
            here = block.counts(look, everyone, steps, places)
            found = here if found is None else found + here
    assert found is not None
    return found


def rates(found: Counts) -> tuple[np.ndarray, np.ndarray]:
    return found.bad_a.sum(axis=(1, 2)) / found.n_a.sum(), found.bad_b.sum(axis=(1, 2)) / found.n_b.sum()


def test_the_split_and_the_rates_are_those_of_the_scenario() -> None:
    world = scenarios.world(PLAN, NAMED["errors"], 20)
    found = totals(world)
    n = found.n_a.sum() + found.n_b.sum()
    assert n == pytest.approx(200 * 2 * BLOCK * 30 * 20, rel=0.005)
    assert found.n_b.sum() / n == pytest.approx(0.25, rel=0.01)
    a, b = rates(found)
    assert a[0] == pytest.approx(0.008, rel=0.03) and b[0] == pytest.approx(0.016, rel=0.03)
    assert a[1] == pytest.approx(0.05, rel=0.02) and b[1] == pytest.approx(0.05, rel=0.02)
    # Log-normal: 25 % above the p95 of sigma 0.5 lies 1.83 % of the requests.
    assert a[2] == pytest.approx(0.0183, rel=0.03)


def test_slow_is_slow_at_every_threshold() -> None:
    a, b = rates(totals(scenarios.world(PLAN, NAMED["slow"], 20)))
    assert b[0] == pytest.approx(a[0], rel=0.05)
    assert b[1] > 3 * a[1] and b[2] > 3 * a[2] and (b[2] <= b[1])


def test_a_mirrored_step_takes_nothing_from_the_champion() -> None:
    plan = Plan.from_spec(Rollout(strategy="shadow", steps=[Step(weight=0, mirror=30, hold="1h")]), False)
    found = totals(scenarios.world(plan, NAMED["none"], 20), plan, step=0, blocks=1)
    assert found.n_b.sum() / found.n_a.sum() == pytest.approx(0.3, rel=0.02)
    assert found.n_a.sum() == pytest.approx(200 * BLOCK * plan.look_every_s * 20, rel=0.01)


def test_the_traffic_does_not_depend_on_who_watches() -> None:
    world = scenarios.world(PLAN, NAMED["none"], 20)
    places = Places.of(PLAN)
    first, second = (Arrivals(world, 5, cuts(PLAN), np.random.SeedSequence(3), n).block() for n in (1, 2))
    low = first.counts(7, np.arange(5), np.array([0, 1, 2, 3, 0]), places)
    high = second.counts(7, np.arange(5), np.array([3, 3, 3, 3, 3]), places)
    assert (low.n_a + low.n_b == high.n_a + high.n_b).all()
    assert (low.bad_b[0] <= high.bad_b[0]).all()  # the same requests, and more of them
    some = second.counts(7, np.array([2, 4]), np.array([3, 3]), places)
    assert (some.n_b == high.n_b[[2, 4]]).all()


def test_an_outage_hits_both_arms_for_its_time() -> None:
    scenario = Scenario(outage=Outage(after=timedelta(0), lasts=timedelta(minutes=30), errors=0.5))
    a, b = rates(totals(scenarios.world(PLAN, scenario, 20), blocks=1))
    assert a[0] == pytest.approx(0.5, rel=0.02) and b[0] == pytest.approx(0.5, rel=0.02)
    arrivals = Arrivals(scenarios.world(PLAN, scenario, 20), 100, cuts(PLAN), np.random.SeedSequence(1), 1)
    arrivals.block()
    after = arrivals.block().counts(5, np.arange(100), np.full(100, 3), Places.of(PLAN))
    assert after.bad_a[0].sum() / after.n_a.sum() < 0.02


def test_a_harm_of_a_part_is_of_the_first_segment() -> None:
    plan = Plan.from_spec(Rollout(segments=Segments(values=["eu", "us"]), look_every="30s", lease="90s"), False)
    world = scenarios.world(plan, NAMED["partial"], 20)
    found = totals(world, plan)
    share = found.n_a.sum(axis=0) / found.n_a.sum()
    assert world.names == ("eu", "us") and share[0] == pytest.approx(0.2, rel=0.02)
    by_segment = found.bad_b[0].sum(axis=0) / found.n_b.sum(axis=0)
    assert by_segment[0] == pytest.approx(0.04, rel=0.05) and by_segment[1] == pytest.approx(0.008, rel=0.1)


def test_a_drift_moves_both_arms_alike_and_runs_apart() -> None:
    found = totals(scenarios.world(PLAN, Scenario(drift=0.5, errors=0.05), 20), blocks=4)
    a, b = (found.bad_a[0].sum(axis=1) / found.n_a.sum(axis=1), found.bad_b[0].sum(axis=1) / found.n_b.sum(axis=1))
    assert a.std() > 0.01 and np.corrcoef(a, b)[0, 1] > 0.9


def test_the_day_comes_and_goes() -> None:
    found = totals(scenarios.world(PLAN, Scenario(day_traffic=0.8), 20), blocks=1)
    n = found.n_a.sum(axis=1)
    assert n.max() > 3 * n.min()


def test_rows_come_late_and_in_full() -> None:
    gates = [Gate(metric="quality", margin=0.1), Gate(metric="prediction", margin=0.1)]
    plan = Plan.from_spec(Rollout(gates=gates, look_every="30s", lease="90s"), False)
    world = scenarios.world(plan, Scenario(label_delay=timedelta(minutes=5), label_share=0.5, harm=Harm(loss=2.0)), 20)
    rows = Rows(world, 3, frozenset({"quality"}), np.random.SeedSequence(1))
    came: dict[str, list[tuple[int, Any, Any]]] = {"quality": [], "prediction": []}
    for look in range(1, 41):
        rows.add(look, np.arange(3), np.full(3, 400.0), np.full(3, 100.0))
        for gate, (a, b) in rows.due(look, np.arange(3)).items():
            came[gate].append((look, a, b))
    assert came["prediction"][0][0] == 2 and came["quality"][0][0] == 12  # a batch a minute, ten looks late
    assert sum(a.sum() for _, a, _ in came["prediction"]) == 3 * 400 * 40
    labelled = sum(b.sum() for _, _, b in came["quality"])
    assert labelled == pytest.approx(3 * 100 * 30 * 0.5, rel=0.05)
    points = (np.arange(33) / 32) ** 2
    mean_a = sum((a @ points).sum() for _, a, _ in came["quality"]) / sum(a.sum() for _, a, _ in came["quality"])
    mean_b = sum((b @ points).sum() for _, _, b in came["quality"]) / labelled
    assert mean_b / mean_a == pytest.approx(1.9, abs=0.15)  # clipped at the bound, so a little less than 2


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_named_scenario_can_be_drawn(name: str) -> None:
    assert totals(scenarios.world(PLAN, NAMED[name], 2), blocks=1, runs=5).n_a.sum() > 0


def test_harmless_scenarios_are_harmless() -> None:
    assert {name for name, scenario in NAMED.items() if not scenario.harmful} == {"none", "outage"}
    for scenario in NAMED.values():
        assert not scenario.harmless.harmful and scenario.harmless.silence is None


def test_a_name_with_a_factor() -> None:
    found = named("errors:x5")
    assert found is not None and found.harm.errors == 5
    assert named("slow:2") == NAMED["slow"].model_copy(update={"harm": Harm(latency=2)})
    assert named("nothing") is None and named("outage:x2") is None
    with pytest.raises(DescriptionError, match="above 0"):
        named("errors:x0")


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_of_nothing_is_refused(rate: float) -> None:
    with pytest.raises(DescriptionError, match="above 0"):
        scenarios.world(PLAN, NAMED["none"], rate)


# --- recorded traffic
def recording(hours: float = 6.0, rate: float = 1.0, *, seed: int = 1, names: bool = False) -> Recording:
    """A champion whose traffic doubles and whose errors triple in the second half."""
    rng = np.random.default_rng(seed)
    half = hours * 1800
    time = np.sort(
        np.concatenate([rng.uniform(0, half, int(rate * half)), rng.uniform(half, 2 * half, int(2 * rate * half))])
    )
    failed = rng.random(time.size) < np.where(time < half, 0.01, 0.03)
    latency = rng.lognormal(2.0, 0.5, time.size)
    predictions = rng.choice(["no", "yes"], time.size, p=[0.7, 0.3]) if names else rng.gamma(2, 1.5, time.size)
    return Recording(time, failed, latency, predictions, rng.gamma(0.7, 1.0, time.size // 2))


def test_recorded_traffic_comes_back_as_it_was() -> None:
    record = recording()
    world = recorded.world(PLAN, NAMED["none"], record, None)
    found = totals(world, blocks=4, runs=300)
    a, b = rates(found)
    assert (found.n_a.sum() + found.n_b.sum()) / (300 * 4 * BLOCK * 30) == pytest.approx(1.5, rel=0.1)
    # Blocks are drawn by the time of day: outside the recorded six hours the nearest ones come, so not the plain mean.
    assert 0.01 < a[0] < 0.03 and b[0] == pytest.approx(a[0], rel=0.1)
    assert a[1] == pytest.approx(0.05, rel=0.1)


def test_recorded_traffic_follows_the_hour_it_was_recorded_at() -> None:
    record = recording(24.0, 0.5)
    arrivals = Arrivals(
        recorded.world(PLAN, NAMED["none"], record, None), 400, cuts(PLAN), np.random.SeedSequence(1), 1
    )
    hour = arrivals._phase / 3600
    block = arrivals.block()
    n = sum(block.counts(i, np.arange(400), np.zeros(400, dtype=int), Places.of(PLAN)).n_a[:, 0] for i in range(BLOCK))
    early, late = n[(hour > 1) & (hour < 10)].mean(), n[(hour > 13) & (hour < 22)].mean()
    assert late / early == pytest.approx(2.0, rel=0.1)


def test_a_rate_stretches_recorded_traffic() -> None:
    found = totals(recorded.world(PLAN, NAMED["none"], recording(24.0, 0.5), 20.0), blocks=2, runs=300)
    assert (found.n_a.sum() + found.n_b.sum()) / (300 * 2 * BLOCK * 30) == pytest.approx(20, rel=0.1)


def test_harm_is_applied_to_recorded_traffic() -> None:
    harm = Scenario(harm=Harm(errors=3.0, latency=2.0))
    a, b = rates(totals(recorded.world(PLAN, harm, recording(), None), blocks=4, runs=300))
    assert b[0] / a[0] == pytest.approx(3.0, rel=0.1)
    assert b[1] > 5 * a[1]


def test_recorded_categories_move_to_the_most_frequent() -> None:
    plan = Plan.from_spec(Rollout(gates=[Gate(metric="prediction", margin=0.1)]), False)
    world = recorded.world(plan, Scenario(harm=Harm(prediction=1.2)), recording(names=True), None)
    a, b = world.cells["prediction"]
    assert not world.ordered
    assert a == pytest.approx([0.7, 0.3, 0], abs=0.02) and b == pytest.approx([0.76, 0.24, 0], abs=0.02)


def test_too_little_recorded_is_refused() -> None:
    with pytest.raises(DataError, match="rows of the champion"):
        recorded.world(PLAN, NAMED["none"], recording(0.1, 0.1), None)
    plan = Plan.from_spec(Rollout(gates=[Gate(metric="quality", margin=0.1)]), False)
    record = recording()
    few = Recording(record.time, record.failed, record.latency_ms, record.predictions, record.losses[:10])
    with pytest.raises(DataError, match="gate quality: the prediction log has 10 labelled rows"):
        recorded.world(plan, NAMED["none"], few, None)
    blind = Recording(record.time, record.failed, record.latency_ms * np.nan, record.predictions, record.losses)
    with pytest.raises(DataError, match="looks at latency"):
        recorded.world(PLAN, NAMED["none"], blind, None)
