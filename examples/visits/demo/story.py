"""The story: four chapters of one model's life, each proven by what the systems say of themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from windtunnel import files, names
from windtunnel.errors import WindtunnelError
from windtunnel_examples.visits import traffic
from windtunnel_examples.visits.demo.airflow_api import AirflowApi, DagRun
from windtunnel_examples.visits.demo.facts import MODEL, Facts
from windtunnel_examples.visits.demo.show import Telling

TRAIN, RELEASE, WATCH = (names.dag_id(MODEL, stage) for stage in ("train", "release", "watch"))
FIRST_RECIPE = {"max_iter": 30, "learning_rate": 0.1, "max_leaf_nodes": 4}
RATE = 25.0
BUSY_RATE = 40.0
NEW_SHARE = 0.95
POLL_S = 1.5

T = TypeVar("T")


class NotProven(WindtunnelError):
    """A step of the story did not happen as told."""


@dataclass
class Step:
    """One chapter and the evidence for it."""

    title: str
    ok: bool = False
    seconds: float = 0.0
    proof: list[str] = field(default_factory=list)


def require(truth: bool, what: str, step: Step) -> None:
    """Keep ``what`` as proof, or end the story.

    Raises:
        NotProven: it is not so.
    """
    if not truth:
        raise NotProven(f"expected: {what}")
    step.proof.append(what)


class Story:
    """Flies the model and reads back what happened."""

    #: How long anything, and a run's end, is waited for. Far more than either takes: a slow or busy machine is no
    #: reason to give up.
    patience_s = 900.0
    run_limit_s = 900.0

    def __init__(self, api: AirflowApi, facts: Facts, tell: Telling, harm: str) -> None:
        self.api, self.facts, self.tell, self.harm = api, facts, tell, harm
        self.steps: list[Step] = []
        self.time: dict[str, float] = {}
        self.recipes: dict[str, str] = {}
        self.careless: str | None = None
        self.began = time.time()

    # -- the chapters

    def fly(self) -> None:
        """All chapters in order; stops at the first that is not proven."""
        self.first_version()
        self.better_recipe()
        self.harmful_version()
        self.new_members()

    def first_version(self) -> None:
        with self._chapter("A first version, trained on free-plan members, is released") as step:
            self._flow(traffic.Control(rate=RATE))
            train = self._train("first", "first recipe", {"params": FIRST_RECIPE})
            self._released(train, step)
            champion = self.facts.champion()
            require(champion is not None and champion.semver == "1.0.0", "MLflow's alias champion is 1.0.0", step)

    def better_recipe(self) -> None:
        with self._chapter("A better recipe goes 5, 25, 50, 75, 100 % and becomes champion") as step:
            old = self._champion()
            train = self._train("better", "better recipe", {})
            run = self._released(train, step)
            done = {t["task_id"] for t in self.api.tasks(RELEASE, run.run_id) if t["state"] == "success"}
            gates = sorted(t for t in done if t.endswith(".gate") and t.startswith("step_"))
            require(len(gates) == 4, f"Airflow shows four gates passed: {', '.join(gates)}", step)
            new = self._champion()
            require(new.semver == "1.1.0", "MLflow's alias champion is 1.1.0", step)
            stage = self.facts.mlflow("model-versions/get", name=MODEL, version=old.version)["model_version"]
            require(stage["current_stage"] == "Archived", f"MLflow has {old.semver} in stage Archived", step)
            counted = self.facts.envoy_requests(new.version)
            require(counted > 0, f"Envoy sent {counted} requests to 1.1.0", step)

    def harmful_version(self) -> None:
        with self._chapter(f"A harmful version ({self.harm}) passes offline, and its gate stops it") as step:
            good = self._champion()
            train = self._train("harmful", f"careless recipe ({self.harm})", {"params": {"remember_peers": self.harm}})
            version = self.careless = self._version_of(train)
            run = self._release_of(train)
            require(run.state == "failed", f"{RELEASE} ended failed", step)
            states = {t["task_id"]: t["state"] for t in self.api.tasks(RELEASE, run.run_id)}
            stopped = [task for task, state in states.items() if task.endswith(".gate") and state == "failed"]
            require(bool(stopped), f"Airflow shows the gate that stopped it: {', '.join(stopped)}", step)
            require(states.get("rollback") == "success", "Airflow shows task rollback succeeded", step)
            record = self.facts.registry.version(MODEL, version)
            require(record.state == "rolled_back", f"the registry has {record.semver} as rolled_back", step)
            evaluated = self._outcome(version, "evaluation")
            require(evaluated == "PASS", f"its offline evaluation was {evaluated}", step)
            require(self._champion().version == good.version, f"{good.semver} is still champion", step)
            require(version not in self.facts.ever_champion(), f"{record.semver} was never champion", step)
            arm = self.facts.traffic().arms.get(version)
            require(arm is not None and arm.requests > 0, f"{arm.requests if arm else 0} users met it", step)
            before = self.facts.envoy_requests(version)
            served = self.facts.traffic().arms[good.version].requests
            time.sleep(3)
            require(self.facts.envoy_requests(version) == before, "Envoy sends it nothing any more", step)
            now = self.facts.traffic().arms[good.version].requests
            require(now > served, f"{good.semver} goes on answering ({now - served} answers in 3 s)", step)

    def new_members(self) -> None:
        with self._chapter(
            "Cost-sharing members arrive: drift is found, the model retrains, the better one flies"
        ) as step:
            old = self._champion()
            arrival = time.time()
            self._flow(traffic.Control(rate=BUSY_RATE, cost_sharing=NEW_SHARE, record=True))
            self.tell.say(f"members of the cost-sharing plans make up {NEW_SHARE:.0%} of the requests now")
            with self._timed("waiting for drift"):
                drift = self._wait("the drift verdict", lambda: self._verdict("drift", "FAIL", arrival))
            self.tell.say(f"verdict: {drift.reason}", "✓")
            require(
                bool(drift.report_uri), f"verdict drift FAIL: {drift.reason}; Evidently report {drift.report_uri}", step
            )
            with self._timed("waiting for the labels' proof"):
                loss = self._wait("the performance verdict", lambda: self._verdict("performance", "FAIL", arrival))
            self.tell.say(f"verdict: {loss.reason}", "✓")
            require(True, f"verdict performance FAIL: {loss.reason}", step)
            train = self._wait("the retraining", lambda: self._run_caused_by(TRAIN, "drift", arrival))
            require(train.run_type == "asset_triggered", f"Airflow started {TRAIN} by the asset event", step)
            # Fewer requests a second from here, so that the new version meets only members it was not trained on.
            self._flow(traffic.Control(rate=RATE, cost_sharing=NEW_SHARE, record=True))
            with self._timed("training"):
                train = self._follow(train)
            require(train.state == "success", f"{TRAIN} ended success", step)
            self.recipes[self._version_of(train)] = "better recipe, newest rows"
            self._released(train, step)
            new = self._champion()
            require(new.semver == "1.1.1", "MLflow's alias champion is 1.1.1", step)
            predictions = self._wait("drift of the predictions", lambda: self._prediction_drift(arrival))
            require(True, f"the predictions drifted too: {predictions}", step)
            self._wait("labels for the new champion", lambda: self._rows_of(new.version, arrival) >= 1_000)
            live = self.facts.loss_on(arrival, time.time(), cost_sharing=True)
            (was, n_old), (is_, n_new) = live[old.version], live[new.version]
            require(
                is_ < was,
                f"live mean absolute error on cost-sharing members fell from {was:.2f} ({n_old} rows) "
                f"to {is_:.2f} ({n_new} rows)",
                step,
            )

    # -- what chapters are made of

    @contextmanager
    def _chapter(self, title: str) -> Iterator[Step]:
        step = Step(title)
        self.steps.append(step)
        self.tell.chapter(title)
        began = time.monotonic()
        try:
            yield step
            step.ok = True
            self.tell.say(f"proven: {step.proof[-1]}", "✓")
        except Exception as error:
            step.proof.append(f"NOT PROVEN: {error}")
            self.tell.say(str(error), "✗")
            raise
        finally:
            self.tell.quiet()
            step.seconds = time.monotonic() - began

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.time[part] = self.time.get(part, 0.0) + time.monotonic() - began

    def _flow(self, told: traffic.Control) -> None:
        files.write_json(traffic.control_file(self.facts.home), vars(told), parents=True)

    def _train(self, name: str, recipe: str, conf: dict[str, Any]) -> DagRun:
        run_id = f"demo-{name}-{int(self.began)}"
        self.tell.say(f"{TRAIN} triggered by hand: {recipe}")
        self.api.trigger(TRAIN, conf | {"reason": recipe}, run_id)
        with self._timed("training"):
            run = self._follow(self._wait(run_id, lambda: self._run(TRAIN, run_id)))
        if run.state != "success":
            raise NotProven(f"{TRAIN} {run_id} ended {run.state}: {self._failed_tasks(run)}")
        version = self._version_of(run)
        self.recipes[version] = recipe
        record = self.facts.registry.version(MODEL, version)
        self.tell.say(f"registered and sealed as {record.semver} ({record.digest[:19]}...)", "✓")
        return run

    def _release_of(self, train: DagRun) -> DagRun:
        """The release run that this training's asset event started, followed to its end."""
        found = self._wait("the release", lambda: self._run_caused_by_run(RELEASE, train.run_id))
        with self._timed("releasing"):
            return self._follow(found)

    def _released(self, train: DagRun, step: Step) -> DagRun:
        """The release of this training's version, which has to have ended well.

        Raises:
            NotProven: it did not; with what its gates said, or which task failed.
        """
        run = self._release_of(train)
        if run.state != "success":
            record = self.facts.registry.version(MODEL, self._version_of(train))
            said = self.facts.registry.verdicts(MODEL, subject=record.digest, kind="rollout")
            why = said[0].verdict.reason if said else f"failed: {self._failed_tasks(run)}"
            raise NotProven(f"expected: {RELEASE} of {record.semver} ended success; it ended {run.state}: {why}")
        require(True, f"{RELEASE} ended success", step)
        return run

    def _follow(self, run: DagRun) -> DagRun:
        """Tell each task as it ends, until the run is over."""
        told: dict[str, str] = {}
        end = time.monotonic() + self.run_limit_s
        while True:
            current = self._run(run.dag_id, run.run_id) or run
            for task in self.api.tasks(run.dag_id, run.run_id):
                state = task["state"] or ""
                if state in ("success", "failed") and told.get(task["task_id"]) != state:
                    told[task["task_id"]] = state
                    took = f"{task['duration']:.0f} s" if task.get("duration") else ""
                    self.tell.say(f"{run.dag_id} {task['task_id']} {state} {took}", "·" if state == "success" else "✗")
            if current.over:
                return current
            if time.monotonic() > end:
                raise NotProven(f"{run.dag_id} {run.run_id} is still {current.state} after {self.run_limit_s:.0f} s")
            waiting = [
                t["task_id"] for t in self.api.tasks(run.dag_id, run.run_id) if t["state"] in ("running", "deferred")
            ]
            self.tell.waiting(f"{run.dag_id}: {', '.join(waiting) or current.state}")
            time.sleep(POLL_S)

    def _wait(self, what: str, look: Callable[[], T | None]) -> T:
        """Until ``look`` finds something.

        Raises:
            NotProven: it did not within ``patience_s``.
        """
        end = time.monotonic() + self.patience_s
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > end:
                raise NotProven(f"{what} did not come within {self.patience_s:.0f} s")
            self.tell.waiting(f"waiting for {what}")
            time.sleep(POLL_S)

    def _run(self, dag_id: str, run_id: str) -> DagRun | None:
        return next((run for run in self.api.runs(dag_id) if run.run_id == run_id), None)

    def _run_caused_by_run(self, dag_id: str, cause: str) -> DagRun | None:
        for run in self.api.runs(dag_id, limit=10):
            if run.run_type == "asset_triggered":
                sources = {event["source_run_id"] for event in self.api.upstream_events(dag_id, run.run_id)}
                if cause in sources:
                    return run
        return None

    def _run_caused_by(self, dag_id: str, kind: str, after: float) -> DagRun | None:
        uri = names.asset_uri(MODEL, kind)
        for run in self.api.runs(dag_id, limit=10):
            if run.run_type == "asset_triggered":
                events = self.api.upstream_events(dag_id, run.run_id)
                if any(event["uri"] == uri and _epoch(event["timestamp"]) >= after for event in events):
                    return run
        return None

    def _failed_tasks(self, run: DagRun) -> str:
        tasks = self.api.tasks(run.dag_id, run.run_id)
        return ", ".join(t["task_id"] for t in tasks if t["state"] == "failed") or "no task failed"

    def _version_of(self, train: DagRun) -> str:
        """The version a training run registered, as the registry tells it."""
        for record in self.facts.registry.versions(MODEL):
            if record.recipe.get("dag_run_id") == train.run_id:
                return record.version
        raise NotProven(f"the registry has no version from {train.run_id}")

    def _champion(self) -> Any:
        champion = self.facts.champion()
        if champion is None:
            raise NotProven("MLflow knows no champion")
        return champion

    def _verdict(self, kind: str, outcome: str, after: float) -> Any:
        for posted in self.facts.registry.verdicts(MODEL, kind=kind):
            verdict = posted.verdict
            if str(verdict.outcome) == outcome and (verdict.created_at or 0) >= after:
                return verdict
        return None

    def _prediction_drift(self, after: float) -> str | None:
        """The newest drift verdict that names the predictions."""
        for posted in self.facts.registry.verdicts(MODEL, kind="drift"):
            found = posted.verdict
            if (found.created_at or 0) >= after and "prediction" in found.numbers.get("kinds", ()):
                return found.reason
        return None

    def _outcome(self, version: str, kind: str) -> str:
        record = self.facts.registry.version(MODEL, version)
        found = self.facts.registry.verdicts(MODEL, subject=record.digest, kind=kind)
        return str(found[0].verdict.outcome) if found else "-"

    def _rows_of(self, version: str, start: float) -> int:
        return self.facts.loss_on(start, time.time(), cost_sharing=True).get(version, (0.0, 0))[1]

    # -- the end

    def told(self) -> dict[str, Any]:
        """Everything, for the tables and for machines."""
        counts = self.facts.logged_predictions(self.began - 60, time.time() + 60)
        versions, harmful = [], None
        for record in sorted(self.facts.registry.versions(MODEL), key=lambda r: int(r.version)):
            versions.append(
                {
                    "version": record.version,
                    "semver": record.semver,
                    "recipe": self.recipes.get(record.version, ""),
                    "state": record.state,
                    "digest": record.digest,
                    "evaluation": self._outcome(record.version, "evaluation"),
                    "rollout": self._outcome(record.version, "rollout"),
                    "answers": counts.get(record.version, 0),
                }
            )
            if record.state == "rolled_back" and record.version == self.careless:
                arms = self.facts.traffic().arms
                arm = arms.get(record.version)
                harmful = {
                    "kind": self.harm,
                    "version": record.semver,
                    "requests": arm.requests if arm else 0,
                    "failed": arm.errors if arm else 0,
                    "all_requests": sum(a.requests for a in arms.values()),
                }
        return {
            "ok": len(self.steps) == 4 and all(step.ok for step in self.steps),
            "harm": self.harm,
            "steps": [vars(step) for step in self.steps],
            "versions": versions,
            "harmful": harmful,
            "time": self.time,
        }


def _epoch(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
