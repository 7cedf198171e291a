"""A rehearsal ready to fly: what, over which traffic, on how many processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from windtunnel.errors import DescriptionError

if TYPE_CHECKING:
    from windtunnel.rehearsal.recorded import Recording
    from windtunnel.rehearsal.runs import Ends, Variant
    from windtunnel.rehearsal.scenarios import Scenario, World
    from windtunnel.rollout.plan import Plan

#: Requests per second unless told.
RATE = 20.0
MAX_RATE = 100_000.0


def cores() -> int:
    """How many this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@contextmanager
def pool(processes: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes that start afresh; None when one is enough."""
    if processes <= 1:
        yield None
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as workers:
        yield workers


@dataclass(frozen=True)
class Flight:
    """A rehearsal ready to fly.

    Attributes:
        rate: requests per second; None: 20, or as recorded.
        runs: of each kind.
        workers: None: in this process.
        sticky: the model's users stay with one version.
    """

    plan: Plan
    scenario: Scenario
    rate: float | None
    recording: Recording | None
    runs: int
    seed: int
    compare: tuple[str, ...]
    workers: ProcessPoolExecutor | None
    sticky: bool = False

    def fly(
        self, plan: Plan | None = None, scenario: Scenario | None = None, *, runs: int | None = None,
        rate: float | None = None, compare: tuple[str, ...] | None = None,
    ) -> dict[str, dict[Variant, Ends]]:  # fmt: skip
        """Gate, kind of run, and how the runs ended; of this plan and scenario unless others are given."""
        from windtunnel.rehearsal.runs import gather, jobs, run_chunk

        flown, wanted = plan or self.plan, scenario or self.scenario
        chunks = jobs(
            flown,
            worlds(flown, wanted, self.rate if rate is None else rate, self.recording),
            self.runs if runs is None else runs,
            self.seed,
            self.compare if compare is None else compare,
        )
        if self.workers is None or len(chunks) == 1:
            return gather([(job, run_chunk(job)) for job in chunks])
        waiting = {self.workers.submit(run_chunk, job): job for job in chunks}
        try:
            return gather([(waiting[done], done.result()) for done in as_completed(waiting)])
        except BaseException:
            self.workers.shutdown(wait=False, cancel_futures=True)
            raise

    @property
    def mean_rate(self) -> float:
        """Requests per second on average."""
        if self.rate is not None:
            return self.rate
        if self.recording is None:
            return RATE
        return self.recording.rate

    def words(self) -> str:
        """The traffic, for a person."""
        found = self.recording
        whose = "" if found is None or found.version is None else f" of version {found.version}"
        rows = "" if found is None else f" drawn from {len(found.time)} recorded ones{whose}"
        return f"{self.mean_rate:.3g} requests/s{rows}"

    def traffic_json(self) -> dict[str, Any]:
        """The traffic, for a machine."""
        rows = None if self.recording is None else len(self.recording.time)
        return {"requests_per_second": self.mean_rate, "recorded_rows": rows}

    def scenario_json(self) -> dict[str, Any]:
        """The scenario's parameters."""
        return self.scenario.model_dump(mode="json")

    def doubts(self) -> list[str]:
        """What a person should know before believing the numbers."""
        if self.plan.first:
            return self._over_limits() + self._first_doubts()
        metrics = {gate.metric for gate in self.plan.gates}
        harm = self.scenario.harm
        blind = [
            (harm.loss != 1 and not metrics & {"quality", "value"}, "losses", "quality"),
            (harm.prediction != 1 and "prediction" not in metrics, "predictions", "prediction"),
            (harm.latency != 1 and "latency" not in metrics, "latency", "latency"),
            (harm.errors != 1 and "errors" not in metrics, "errors", "errors"),
        ]
        found = [
            f"the candidate's {what} get worse, and the plan has no {gate} gate to see it"
            for is_blind, what, gate in blind
            if is_blind
        ]
        none_failed = self.recording is not None and not self.recording.failed.any()
        if none_failed and harm.errors != 1 and harm.errors_plus == 0:
            found.append(
                "no recorded request failed, so no factor makes more fail: use a scenario FILE with errors_plus"
            )
        if self.plan.windows and self.scenario.start is None:
            found.append("the plan's hours are left out: say with --start when the release starts")
        if self.sticky and self.scenario.users is None:
            found.append("the model's users stay with one version: say with --users how many there are at once")
        found += self._over_limits()
        if self.plan.on_inconclusive == "hold" and self.scenario.silence is not None and self.scenario.silence.lasts:
            found.append("a silence shorter than the plan's patience is waited for")
        return found

    def _over_limits(self) -> list[str]:
        """Limits that a version as good as the champion breaks too."""
        usual = worlds(self.plan, self.scenario.harmless, self.rate, self.recording)["scenario"]
        found, errors, p95 = list[str](), self.plan.error_rate, self.plan.p95_ms
        if errors is not None and usual.errors > errors:
            found.append(f"{usual.errors:.2%} of a good version's requests fail too: it breaks the limit {errors:.2%}")
        slow = float(usual.tails_a[usual.latency_of["limit_p95_ms"]]) if p95 is not None else 0.0
        if slow > 0.05:
            found.append(
                f"{slow:.1%} of a good version's requests take longer than {p95:g} ms too: it breaks the limit"
            )
        return found

    def _first_doubts(self) -> list[str]:
        """A first release is judged by its absolute limits alone."""
        harm, found = self.scenario.harm, list[str]()
        limit = self.plan.error_rate
        usual = self.scenario.errors if self.recording is None else float(self.recording.failed.mean())
        bad = usual * harm.errors + harm.errors_plus
        if (harm.errors != 1 or harm.errors_plus) and (limit is None or bad <= limit):
            told = "has none" if limit is None else f"allows {limit:.2%}"
            found.append(f"{bad:.2%} of the candidate's requests fail, and the limit {told}: nothing stops it")
        if harm.latency != 1 and self.plan.p95_ms is None:
            found.append("the candidate is slower, and the plan has no limits.p95_ms to see it")
        if (harm.loss, harm.prediction) != (1, 1):
            found.append("losses and predictions are not looked at in a first release: there is no champion to compare")
        return found


def worlds(plan: Plan, scenario: Scenario, rate: float | None, recording: Recording | None) -> dict[Variant, World]:
    """The scenario's world, and beside a harmful one the same with nothing wrong."""
    from windtunnel.rehearsal import recorded, scenarios

    def make(of: Scenario) -> World:
        if recording is not None:
            return recorded.world(plan, of, recording, rate)
        return scenarios.world(plan, of, RATE if rate is None else rate)

    found: dict[Variant, World] = {"scenario": make(scenario)}
    if scenario.harmful:
        found["harmless"] = make(scenario.harmless)
    return found


def check_rate(rate: float | None) -> None:
    """Refuse a rate nothing can be made of.

    Raises:
        DescriptionError: it is not above 0, or beyond what arrays of counts can hold.
    """
    if rate is not None and not 0 < rate <= MAX_RATE:
        raise DescriptionError(
            f"expected requests per second above 0 and at most {MAX_RATE:g}, found {rate:g}", hint="--rate 20"
        )


def enough_for(runs: int, scenario: Scenario, target: object | None) -> int:
    """Processes that find something to do."""
    from windtunnel.rehearsal.runs import CHUNK

    chunks = -(-runs // CHUNK) * (2 if scenario.harmful else 1)
    return max(2, chunks) if target is not None else chunks
