"""Every factor of the decision table crossed with every other (DEMAND ROL-3): 1,769,472 cases for each policy.

What must hold is said here in another way than the table says it, case by case from what went in.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from windtunnel.rollout import table
from windtunnel.rollout.plan import Plan
from windtunnel.rollout.table import ROW, ROWS, Facts, Progress, Steps, judge
from windtunnel.spec.rollout import Gate, Limits, Rollout, Step

NOW = 1000.0
LOST = 5.0
STEPS = [
    Step(weight=10, hold="60s", min_requests=50, at_least="30s", at_most="120s", max_requests=500),
    Step(weight=50, hold="60s", min_requests=50, at_least="30s", at_most="120s", max_requests=500),
]
BOTH = [False, True]
FACTORS = {
    "aborted": BOTH, "harm": BOTH, "limit": BOTH, "silent": BOTH, "safe": BOTH, "shown": BOTH, "sound": BOTH,
    "paused": BOTH, "frozen": BOTH, "open": BOTH, "stranded": BOTH, "order": [0, 1, 2],
    "trouble": [table.NO_TROUBLE, ROW["source-down"], ROW["entering"]],
    "elapsed": [10.0, 40.0, 70.0, 130.0], "requests": [0.0, 20.0, 100.0, 600.0], "champion": [0.0, 200.0],
    "step": [0, 1, 2],
}  # fmt: skip


def plan(policy: str) -> Plan:
    rollout = Rollout(
        steps=STEPS, gates=[Gate(metric="errors", margin=0.01)], limits=Limits(error_rate=0.05),
        bake=timedelta(seconds=60), on_inconclusive=policy, patience="60s",
    )  # fmt: skip
    made = Plan.from_spec(rollout, False)
    # The bake step is given the times of the others, so that one grid fits all.
    last = replace(made.steps[1], weight=100)
    return replace(made, steps=(*made.steps[:2], last))


@pytest.fixture(scope="module")
def cases() -> dict[str, np.ndarray]:
    grid = np.meshgrid(*FACTORS.values(), indexing="ij", sparse=False)
    return {name: axis.ravel() for name, axis in zip(FACTORS, grid, strict=True)}


def judged(made: Plan, c: dict[str, np.ndarray]) -> table.Judgement:
    n = len(c["step"])
    lost = np.full(n, LOST)
    entered = NOW - c["elapsed"] - lost
    before = Progress(
        step=c["step"].astype(np.int64), entered=entered, lost=lost, since=np.full(n, np.nan),
        last_look=np.full(n, NOW - 10), requests=c["requests"], champion=c["champion"],
    )  # fmt: skip
    facts = Facts(
        aborted=c["aborted"], harm=c["harm"], limit=c["limit"], trouble=c["trouble"], there=True, sound=c["sound"],
        silent=c["silent"], safe=c["safe"], shown=c["shown"], ordered_promote=c["order"] == 2,
        ordered_skip=c["order"] == 1, paused=c["paused"], frozen=c["frozen"], open=c["open"],
        stranded=c["stranded"],
    )  # fmt: skip
    return judge(made, Steps.of(made), before, facts, NOW)


@pytest.mark.parametrize("policy", ["hold", "extend", "roll_back"])
def test_every_case(policy, cases) -> None:
    c = cases
    said = judged(plan(policy), c)
    row, action, outcome = said.row, said.action, said.outcome
    harm = c["harm"] | c["limit"]
    trouble = c["trouble"] != table.NO_TROUBLE
    alone, last_compared = c["step"] == 2, c["step"] == 1
    passes, goes = outcome == table.PASS, (action == table.ADVANCE) | (action == table.PROMOTE)
    ordered = (c["order"] > 0) & c["sound"] & ~c["frozen"]

    def never(what: np.ndarray) -> None:
        assert not what.any(), {name: axis[what][:3].tolist() for name, axis in c.items()}

    # Harm that is shown ends it, whatever else is the case; and nothing else is called FAIL.
    never((harm | c["aborted"]) & (action != table.ROLL_BACK))
    never((outcome == table.FAIL) != (harm & ~c["aborted"]))
    # Nothing passes on numbers that cannot be trusted, too early, on too little, or while people say no.
    never(passes & (trouble | c["paused"] | c["frozen"] | ~c["open"] | c["aborted"] | harm))
    never(passes & ((c["requests"] < 50) | (c["elapsed"] < 30)))
    never(passes & (c["elapsed"] < 60) & ~c["shown"])
    never(passes & ~alone & ((c["champion"] == 0) | c["silent"]))
    never(passes & c["silent"])
    # What is not shown to be safe is not promoted, unless a person says so (ROL-4).
    never(passes & last_compared & ~c["safe"])
    # Only a pass or a person moves it on; a person never past a freeze or to a version that is not sound.
    never(goes & ~passes & ~ordered)
    never(goes & c["frozen"])
    never((action == table.PROMOTE) & (c["step"] < 2) & (c["order"] != 2))
    never(ordered & ~harm & ~c["aborted"] & ~goes)
    # A pause holds: no patience runs out, nothing passes.
    never(c["paused"] & ~ordered & ~harm & ~c["aborted"] & (action != table.HOLD))
    # Without a way back nothing passes, and nobody is sent there for want of numbers; harm that is shown still ends it.
    never(c["stranded"] & passes)
    never(c["stranded"] & ~harm & ~c["aborted"] & (action == table.ROLL_BACK))
    never((row == ROW["no-way-back"]) & (~c["stranded"] | (action != table.HOLD) | (outcome != table.INCONCLUSIVE)))
    # A freeze and the hours of the week only hold back what would pass.
    waits = (row == ROW["frozen"]) | (row == ROW["outside-hours"])
    never(waits & (action != table.HOLD))
    # What lacks something is not waited for beyond the step's longest time or largest sample.
    lacks = np.isin(row, [ROW[name] for name in table.LACKS])
    never(lacks & c["stranded"])
    never(lacks & ((c["elapsed"] >= 120) | (c["requests"] >= 500)) & (action != table.ROLL_BACK))
    if policy == "roll_back":
        borne = trouble & (row == c["trouble"]) & (row != ROW["entering"]) & ~c["stranded"]
        never((lacks | borne) & (action != table.ROLL_BACK))
    else:
        never(lacks & (c["elapsed"] < 120) & (c["requests"] < 500) & (action != table.HOLD))
    # A rollback's outcome is FAIL with harm, else INCONCLUSIVE, never PASS.
    never((action == table.ROLL_BACK) & passes)
    # Progress moves with the action and not otherwise.
    never((action == table.ADVANCE) != (said.progress.step == c["step"] + 1))
    never((action == table.ADVANCE) & ~np.isnan(said.progress.entered))
    never((action == table.ADVANCE) & (said.progress.lost != 0))
    never((said.progress.lost > LOST) & (row != ROW["paused"]) & ~(trouble & (policy == "extend")))
    assert set(row) >= {
        ROW[r] for r in (*table.LACKS, "watching", "no-way-back", "frozen", "outside-hours", "early", "pass-last")
    }


def test_every_row_has_an_action_and_an_outcome() -> None:
    assert len(set(ROWS)) == len(ROWS)
    assert [ROWS[ROW[name]] for name in table.TROUBLES] == list(table.TROUBLES)


@pytest.mark.parametrize(("policy", "lost"), [("hold", 0.0), ("extend", 10.0), ("roll_back", 0.0)])
def test_trouble_gives_time_back_only_where_the_plan_extends(policy, lost, cases) -> None:
    chosen = {name: axis[:1] for name, axis in cases.items()} | {
        "trouble": np.array([ROW["source-down"]]), "sound": np.array([True]), "open": np.array([True]),
    }  # fmt: skip
    assert judged(plan(policy), chosen).progress.lost.tolist() == [LOST + lost]
