"""Whole rollouts, decided by the very brain (``decide_batch``): how often they err, and how long they take (ROL-4)."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from bench.shares import share, wilson
from bench.table import Table
from windtunnel.rehearsal.peers import PROMOTED, ROLLED_BACK
from windtunnel.rehearsal.runs import OURS, Ends, Job, jobs, run_chunk
from windtunnel.rehearsal.scenarios import Harm, Scenario, world
from windtunnel.rollout.plan import Plan
from windtunnel.spec.rollout import Rollout

RATES = (2, 20, 200)
#: Traffic and the base rates swing over the day, each run starting at another hour, and the base rate walks.
DRIFTING = Scenario(day_traffic=0.5, day_errors=0.5, drift=0.3)
#: (candidate, harm, what may happen at most: rolled back as harmful, promoted).
CANDIDATES = {
    "equal": (Harm(), "rolled back", 0.05),
    "errors beyond the margin (+0.5 points)": (Harm(errors_plus=0.005), "promoted", 0.2),
    "latency beyond the margin (share above p95 5 % -> 10 %)": (Harm(latency=1.204), "promoted", 0.2),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One plan, one candidate, one traffic."""

    candidate: str
    rate: float
    drifts: bool


def plan() -> Plan:
    """The default canary."""
    return Plan.from_spec(Rollout(), first=False)


def chunks(case: Case, runs: int, seed: int = 20_261_121) -> list[Job]:
    harm = CANDIDATES[case.candidate][0]
    scenario = (DRIFTING if case.drifts else Scenario()).model_copy(update={"harm": harm})
    flown = plan()
    return jobs(flown, {"scenario": world(flown, scenario, case.rate)}, runs, seed)


def fly(cases: list[Case], runs: int, processes: int) -> dict[Case, Ends]:
    """How the runs of each case ended."""
    waiting = [(case, job) for case in cases for job in chunks(case, runs)]
    todo = [job for _, job in waiting]
    if processes == 1:
        done = [run_chunk(job) for job in todo]
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            done = list(pool.map(run_chunk, todo))
    parts: dict[Case, list[Ends]] = {case: [] for case in cases}
    for (case, _), ends in zip(waiting, done, strict=True):
        parts[case].append(ends[OURS])
    return {case: Ends.join(found) for case, found in parts.items()}


def run(quick: bool = False) -> Table:
    runs = 100 if quick else 10_000
    cases = [Case(who, rate, drifts) for who in CANDIDATES for rate in RATES for drifts in (False, True)]
    done = fly(cases, runs, 1 if quick else (os.cpu_count() or 1))
    table = Table(
        f"Whole rollouts by the default canary, {runs:,} each",
        ("candidate", "requests/s", "base rates", "rolled back as harmful", "promoted", "no verdict", "median minutes"),
    )
    worst: dict[str, tuple[float, str, int]] = {}
    for case in cases:
        ends = done[case]
        back, kept = int((ends.how == ROLLED_BACK).sum()), int((ends.how == PROMOTED).sum())
        table.add(
            case.candidate, str(case.rate), "drifting" if case.drifts else "steady", share(back, runs, 2),
            share(kept, runs, 2), share(runs - back - kept, runs, 2), f"{float(np.median(ends.minutes)):.0f}",
        )  # fmt: skip
        what = CANDIDATES[case.candidate][1]
        hits = back if what == "rolled back" else kept
        label = f"{case.rate} requests/s, {'drifting' if case.drifts else 'steady'}: {share(hits, runs, 2)}"
        worst[case.candidate] = max(worst.get(case.candidate, (-1.0, "", 0)), (hits / runs, label, hits))
    for who, (_, what, bound) in CANDIDATES.items():
        _, label, hits = worst[who]
        table.demand(
            f"a candidate {who} is {what} in at most {100 * bound:.0f} % of rollouts (ROL-4)",
            f"worst at {label}",
            wilson(hits, runs)[0] <= bound,
        )
    table.note = (
        "Default canary: 5 % for 10 minutes, 25 % for 30, 50 % for 60, 75 % for 30; gates on errors (harm: any more "
        "than the champion's; shown before promotion: at most 0.5 points more) and latency (5 points of the "
        "requests slower than the champion's p95), limit of 5 % errors, a look every 10 s; alpha 5 % shared by "
        "gates and limit, beta 20 %. The champion fails 0.8 % of the requests. Harmful candidates sit exactly at "
        "the margin, the hardest place. Drifting: traffic and base rate swing by half over a day, the base rate "
        "walks by 0.3 (of its logarithm) in an hour. 'No verdict': rolled back because too little was known in the "
        "time there is."
    )
    return table
