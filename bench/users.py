"""Users who stay with one version: what counting their requests as if each went by lot does to alpha (ROL-4).

Both versions are equal, and users differ: some ask more often for what fails. Whole rollouts by the very brain, as in
``plans``; and beside them the same users counted once each, by the code of a value gate.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from bench.gates import STEPS
from bench.shares import share, wilson
from bench.table import Table
from windtunnel.rehearsal.peers import PROMOTED, ROLLED_BACK
from windtunnel.rehearsal.runs import OURS, Ends, Job, jobs, run_chunk
from windtunnel.rehearsal.scenarios import Scenario, world
from windtunnel.rehearsal.users import intraclass
from windtunnel.rollout.plan import Plan
from windtunnel.spec.rollout import Gate, Rollout
from windtunnel.stats.binning import loss_points
from windtunnel.stats.compare import Boundary, TwoSamples

ALPHA = 0.05
ERRORS = 0.008
STAY_S = 600.0
#: Errors from this many points more on are harm; the default counts any more.
MARGIN = 0.005


@dataclass(frozen=True)
class Case:
    """A crowd: how many at once (None: by lot), how different, whether others follow after ten minutes, requests/s."""

    users: int | None
    differ: float
    leave: bool
    rate: float

    @property
    def scenario(self) -> Scenario:
        return Scenario.model_validate(
            {
                "errors": ERRORS,
                "users": self.users,
                "users_differ": self.differ,
                "users_stay": 600 if self.leave else None,
            }
        )

    @property
    def inflation(self) -> float:
        """Design effect: variance of the errors against requests by lot (Kish 1965, section 5.4).

        Traffic is exponentially distributed over the users, so the requests of the user behind a request are twice
        the average.
        """
        if self.users is None:
            return 1.0
        seconds = STAY_S if self.leave else 60.0 * sum(minutes for _, minutes in STEPS)
        return 1 + 2 * self.rate * seconds / self.users * intraclass(ERRORS, self.differ)


CASES = (
    Case(None, 1.0, False, 20),
    Case(100, 1.0, False, 20),
    Case(1000, 1.0, False, 20),
    Case(1000, 3.0, False, 20),
    Case(10_000, 1.0, False, 20),
    Case(10_000, 3.0, False, 20),
    Case(1000, 1.0, False, 200),
    Case(10_000, 1.0, False, 200),
    Case(1000, 1.0, True, 20),
    Case(1000, 3.0, True, 20),
)


def plan(margin: float) -> Plan:
    """The default canary; with a margin errors are harm only beyond it."""
    gates = [Gate(metric="errors", margin=margin, within=0.005), Gate(metric="latency", margin=0.05)]
    return Plan.from_spec(Rollout(gates=gates), first=False)


def fly(wanted: list[tuple[Case, float]], runs: int, processes: int, seed: int = 20_261_121) -> list[Ends]:
    """How the runs of each case and margin ended."""
    todo: list[tuple[int, Job]] = []
    for i, (case, margin) in enumerate(wanted):
        flown = plan(margin)
        made = jobs(flown, {"scenario": world(flown, case.scenario, case.rate)}, runs, seed)
        todo += [(i, job) for job in made]
    if processes == 1:
        done = [run_chunk(job) for _, job in todo]
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            done = list(pool.map(run_chunk, [job for _, job in todo]))
    return [
        Ends.join([ends[OURS] for (j, _), ends in zip(todo, done, strict=True) if j == i]) for i in range(len(wanted))
    ]


def counted_once(case: Case, runs: int, seed: int = 20_261_121) -> int:
    """Runs in which a value gate without a margin, on each user's share of failed requests, calls harm.

    Users come all the time; each counts once, in the arm he met, when his ten minutes are over.
    """
    rng = np.random.default_rng(seed)
    level = ALPHA / 3  # two gates and a limit share alpha
    each = case.rate * STAY_S / (case.users or 1)
    tie = intraclass(ERRORS, case.differ)
    size = 1 / tie - 1
    tests, over = TwoSamples.begin(runs), np.zeros(runs, dtype=bool)
    for percent, minutes in STEPS:
        for _ in range(minutes):
            blocks = []
            for part in (1 - percent / 100, percent / 100):
                come = rng.poisson((case.users or 0) * 60.0 / STAY_S * part, runs)
                whose = np.repeat(np.arange(runs), come)
                asked = 1 + rng.poisson(rng.exponential(max(each - 1, 0.0), len(whose)))
                failed = rng.binomial(asked, rng.beta(ERRORS * size, (1 - ERRORS) * size, len(whose)))
                blocks.append(_cells(whose, failed / asked, runs))
            tests = tests.update(blocks[0], blocks[1], Boundary(1.0, 0.0), points=loss_points(), prior=0.5)
            over |= np.nan_to_num(tests.log_harm, nan=-np.inf) >= math.log(1 / level)
    return int(over.sum())


def _cells(whose: np.ndarray, values: np.ndarray, runs: int) -> np.ndarray:
    """Shape (runs, points): each value spread over its two neighbours."""
    points = loss_points()
    found = np.zeros((runs, len(points)))
    above = np.clip(np.searchsorted(points, values), 1, len(points) - 1)
    low, high = points[above - 1], points[above]
    part = (values - low) / (high - low)
    np.add.at(found, (whose, above), part)
    np.add.at(found, (whose, above - 1), 1 - part)
    return found


def run(quick: bool = False) -> Table:
    runs = 100 if quick else 2_000
    cases = CASES[:3] if quick else CASES
    wanted = [(case, margin) for case in cases for margin in (0.0, MARGIN)]
    done = dict(zip(wanted, fly(wanted, runs, 1 if quick else os.cpu_count() or 1), strict=True))
    table = Table(
        f"Users who stay with one version, {runs:,} rollouts of an equal candidate each",
        ("users at once", "users differ by", "they stay", "requests/s", "variance against by lot",
         "rolled back, any more errors is harm", "promoted", "rolled back, margin 0.5 points", "promoted",
         "rolled back, each user counted once"),
    )  # fmt: skip
    for case in cases:
        cells = []
        for margin in (0.0, MARGIN):
            ends = done[case, margin]
            back, kept = int((ends.how == ROLLED_BACK).sum()), int((ends.how == PROMOTED).sum())
            cells += [share(back, runs), f"{100 * kept / runs:.0f} %"]
        once = share(counted_once(case, runs), runs) if case.leave else "-"
        table.add(
            "by lot" if case.users is None else f"{case.users:,}", "-" if case.users is None else f"{case.differ:g}",
            "-" if case.users is None else "10 min" if case.leave else "to the end", f"{case.rate:g}",
            f"x{case.inflation:.1f}", *cells, once,
        )  # fmt: skip
        if case.users is None:
            hits = int((done[case, 0.0].how == ROLLED_BACK).sum())
            table.demand(
                "requests by lot: an equal candidate is rolled back in at most 5 % (ROL-4)", share(hits, runs),
                wilson(hits, runs)[0] <= ALPHA,
            )  # fmt: skip
    table.note = (
        "Default canary, 0.8 % errors, alpha 5 %. 'Users differ by': coefficient of variation of their own error rates "
        "(beta distributed; 1 is about exponential); their traffic is exponentially distributed. 'Variance against by "
        "lot': design effect of the requests. The promise of alpha is one for what chance sends to a version one by "
        "one. Where users stay, chance decides once per user, and the test takes a difference between two groups of "
        "users for one between two versions: alpha does not hold where few users ask much. 'Each user counted once': "
        "a value gate without a margin on the share of failed requests of each user's first ten minutes, where users "
        "come and go; valid, and of little power, as a user has to stand for all requests."
    )
    return table
