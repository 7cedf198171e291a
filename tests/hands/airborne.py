"""A small Airflow for one release: the real DAG, the real operators and the real gate, over the fakes.

What is Airflow's own is here in a few lines: trigger rules, skipping, tries, deferring, asset events. What is
Windtunnel's is Windtunnel's code. A worker or a triggerer may die at any edge; what it was running is tried again as
Airflow would.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred
from fakes import FakeIntents, FakeLooks, FakeRegistry, FakeServing, Store, World, gather

from windtunnel.errors import FencedError, WindtunnelError, may_pass
from windtunnel.home import Home
from windtunnel.rollout import Plan, disagreements
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.release.guard import Guard
from windtunnel_airflow import gatekeeping
from windtunnel_airflow.base import Windtunnel
from windtunnel_airflow.operators.release import RouteOperator
from windtunnel_airflow.retry import delay, judge
from windtunnel_airflow.sensors import GateSensor, PolicySensor

MODEL = "small"
DONE = ("success", "failed", "skipped", "upstream_failed")
BAD = ("failed", "upstream_failed")
STEPS = [{"weight": 10, "hold": "10s", "min_requests": 5}, {"weight": 50, "hold": "10s", "min_requests": 5}]
LEASE_S = 60.0


class Died(BaseException):
    """The process is gone; nothing in it may catch this."""


def description(*, sticky: str | None = None, **rollout: Any) -> Any:
    from windtunnel import Model

    given = {
        "steps": STEPS, "gates": [{"metric": "errors", "margin": 0.02}], "prove": "no_harm", "first_watch": "10s",
        "look_every": "5s", "lease": f"{LEASE_S:g}s", **rollout,
    }  # fmt: skip
    return Model.model_validate(
        {
            "name": MODEL, "owner": "tests",
            "data": {"source": "rows.csv", "time": "t", "target": "y", "features": ["a", "b"]},
            "training": {"entry_point": "wt_small:train"},
            "evaluation": {"metrics": [{"name": "rmse", "maximum": 1.0}], "benchmark": None},
            "rollout": given,
            "serving": {"sticky": sticky},
        }
    )  # fmt: skip


def release_dag(**rollout: Any) -> Any:
    from windtunnel_airflow.factory import release_dag as make

    return make(description(**rollout))


@dataclass
class Run:
    """One DAG run: what Airflow's database has of it."""

    dag: Any
    run_id: str
    conf: dict[str, Any] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    later: dict[str, float] = field(default_factory=dict)
    xcom: dict[str, Any] = field(default_factory=dict)
    watches: dict[str, dict[str, Any]] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return all(self.states.get(task.task_id) in DONE for task in self.dag.tasks)

    def ready(self, now: float) -> list[str]:
        """Tasks whose time has come; what can never come is skipped or failed on the way (trigger rules)."""
        changed = True
        found: list[str] = []
        while changed:
            changed, found = False, []
            for task in self.dag.tasks:
                name = task.task_id
                if self.states.get(name) in (None, "retry"):
                    said = "run" if self.states.get(name) == "retry" else self._rule(task)
                    if said == "run" and now >= self.later.get(name, 0.0):
                        found.append(name)
                    elif said in DONE:
                        self.states[name] = said
                        changed = True
        return found

    def _rule(self, task: Any) -> str:
        before = [self.states.get(name) for name in task.upstream_task_ids]
        rule = str(getattr(task.trigger_rule, "value", task.trigger_rule))
        bad, all_done = any(state in BAD for state in before), all(state in DONE for state in before)
        if rule == "one_failed":
            return "run" if bad else "skipped" if all_done else "wait"
        if rule == "all_done":
            return "run" if all_done else "wait"
        assert rule == "all_success", rule
        if bad:
            return "upstream_failed"
        if any(state == "skipped" for state in before):
            return "skipped"
        return "run" if all(state == "success" for state in before) else "wait"


class _Outlets(dict[Any, Any]):
    def __missing__(self, key: Any) -> Any:
        self[key] = SimpleNamespace(extra={}, added=[])
        self[key].add = lambda asset, extra=None: self[key].added.append((asset.uri, dict(extra or {})))
        return self[key]


class Sky:
    """The world of one test: fakes, guard, and the hook that leads the operators to them."""

    def __init__(self, *, lease: float = LEASE_S) -> None:
        self.world = World()
        self.store = Store()
        self.serving = FakeServing(self.world, self.store)
        self.registry = FakeRegistry(self.world)
        self.looks_ = FakeLooks(self.world)
        self.intents_ = FakeIntents(self.world)
        self.guard = self.new_guard()
        #: (version, percent) that a version other than the registry's champion ever had.
        self.exposed: set[tuple[str, int]] = set()
        self.serving.on_route = self._note
        self.home = Home.find("/nonexistent")

    # -- the hook's side

    object_store = None

    def backend(self) -> FakeServing:
        return self.serving

    def looks(self, model: str) -> FakeLooks:
        return self.looks_

    def intents(self) -> FakeIntents:
        return self.intents_

    def now(self) -> float:
        return self.world.wall

    def version_url(self, model: str, version: str) -> str:
        return f"{model}/{version}"

    def gather(self, watch: Any, backend: Any, state: Any) -> Any:
        return gather(backend, watch, state)

    def _note(self, model: str) -> None:
        champion = self.registry.champions.get(model)
        self.exposed |= {one for one in self.serving.weights(model).items() if one[0] != champion}

    # -- what there is

    def register(self, version: str, *, errors: float = 0.0, broken: bool = False) -> None:
        self.store.digests[version] = f"sha256:{version}"
        self.store.errors[version] = errors
        if broken:
            self.store.broken.add(version)
        self.registry.register(MODEL, version, f"sha256:{version}")
        self.registry.judge(MODEL, version, "data-check", "evaluation")

    def crown(self, version: str) -> None:
        """Champion in registry and traffic since long ago."""
        self.registry.crown(MODEL, version)
        champion = Arm(version, f"sha256:{version}", f"models:/{MODEL}/{version}", 100)
        self.serving.apply(Release(MODEL, champion))

    def new_guard(self) -> Guard:
        guard = _Guard(
            Home.find("/nonexistent"), self.serving, lambda: self.registry, clock=self.world.clock,
            intents=self.intents_, looks=lambda model: self.looks_,
        )  # fmt: skip
        guard.serving = self.serving
        return guard


class _Guard(Guard):
    """Without the heartbeat's file."""

    serving: FakeServing

    def _models(self) -> list[str]:
        return sorted(self.serving.states)

    def _beat(self) -> None:
        pass

    def _ship(self) -> None:
        pass


@contextmanager
def hooked(find: Callable[[], Sky]) -> Iterator[None]:
    """Operators and sensors meet the world that ``find`` gives, not an Airflow connection."""
    before = Windtunnel.__dict__["hook"]
    Windtunnel.hook = property(lambda self: find())  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Windtunnel.hook = before  # type: ignore[method-assign]


@dataclass(frozen=True)
class Done:
    """How a try of a task ended."""

    state: str  # success, failed, skipped, retry, deferred, waiting
    value: Any = None
    reason: str = ""
    events: tuple[tuple[str, dict[str, Any]], ...] = ()
    branch: str | None = None


def at_once(trigger: Any) -> dict[str, Any]:
    """The event of a deployment that nobody had to wait for: what the triggerer looks at changes nothing."""
    return {"status": "over", "began": trigger.began}


def attempt(
    run: Run,
    name: str,
    event: Mapping[str, Any] | None = None,
    deploying: Callable[[Any], dict[str, Any]] = at_once,
) -> Done:
    """One try of a task, by its operator's own code.

    Args:
        deploying: waits as the triggerer for what ``DeployTrigger`` says, and gives its event.
    """
    task = copy.copy(run.dag.get_task(name))
    tried = run.tries.get(name, 0) + 1
    given = run.xcom.get("claim")
    if hasattr(task, "claim"):
        task.claim = json.dumps(given)
    if name == "claim":
        task.version = run.conf.get("version", "")
        task.beside = run.conf.get("beside", [])
    if name == "outcome":
        task.promoted = [run.xcom.get("promote"), run.xcom.get("first.promote")]
        task.undone = [run.xcom.get("rollback"), run.xcom.get("first.withdraw")]
        task.watched = run.xcom.get("first.watch")
    outlets = _Outlets()
    ti = SimpleNamespace(
        dag_id=run.dag.dag_id, run_id=run.run_id, task_id=name, map_index=-1, try_number=tried,
        get_task_states=lambda **_: {run.run_id: dict(run.states)},
    )  # fmt: skip
    context = {"ti": ti, "outlet_events": outlets, "params": {}}
    try:
        if isinstance(task, RouteOperator):
            return Done("success", branch=task.choose_branch(context))
        if isinstance(task, PolicySensor):
            return Done("success") if task.poke(context) else Done("waiting")
        if isinstance(task, GateSensor) and event is not None:
            value = task.execute_complete(context, dict(event))
        else:
            try:
                value = type(task).execute.__wrapped__(task, context)  # type: ignore[attr-defined]
            except TaskDeferred as deferred:
                if deferred.method_name != "deployed":
                    raise
                # Another process goes on from what was begun.
                value = task.deployed(context, deploying(deferred.trigger))
    except TaskDeferred as deferred:
        return Done("deferred", value=deferred.trigger.watch)
    except AirflowSkipException as error:
        return Done("skipped", reason=str(error))
    except AirflowFailException as error:
        return Done("failed", reason=str(error))
    except Exception as error:
        final = judge(error)[0].name == "FAIL" or tried > task.retries
        return Done("failed" if final else "retry", reason=f"{type(error).__name__}: {error}")
    emitted: list[tuple[str, dict[str, Any]]] = []
    for outlet in task.outlets or []:
        if isinstance(outlet, Asset):
            emitted.append((outlet.uri, dict(outlets[outlet].extra)))
        else:
            emitted += outlets[outlet].added
    return Done("success", value=value, events=tuple(emitted))


def look(sky: Sky, watch: Mapping[str, Any]) -> dict[str, Any] | None:
    """One look of a trigger; its event, or None while there is none, or while nothing answers that may do so later. As
    ``GateTrigger.run``, but for its patience."""
    read = gatekeeping.Watch.from_dict(watch)
    try:
        answer = gatekeeping.look(read, sky.serving, sky.looks_, sky.now(), gather=sky.gather)
    except FencedError as error:
        return {"status": "fenced", "message": error.message}
    except Exception as error:
        if may_pass(error):
            return None
        return {"status": "error", "message": str(error), "transient": not isinstance(error, WindtunnelError)}
    return {"status": "answer", "answer": answer.to_dict()} if answer.over else None


def record(run: Run, name: str, done: Done, now: float) -> None:
    """What Airflow writes down when a try has ended."""
    run.why[name] = done.reason
    if done.state == "waiting":
        run.later[name] = now + 10
        return
    if done.state == "deferred":
        run.states[name], run.watches[name] = "deferred", done.value
        return
    run.watches.pop(name, None)
    if done.state == "retry":
        again(run, name, now)
        return
    run.states[name] = done.state
    if done.value is not None:
        run.xcom[name] = done.value
    run.events += done.events
    if done.branch is not None:
        for other in run.dag.get_task(name).downstream_task_ids:
            is_path = run.dag.get_task(other).trigger_rule == run.dag.get_task(name).trigger_rule
            if other != done.branch and is_path:
                run.states[other] = "skipped"


def again(run: Run, name: str, now: float) -> None:
    """A try that failed for a while, or whose worker died: the next one, if there is one left."""
    run.tries[name] = run.tries.get(name, 0) + 1
    task = run.dag.get_task(name)
    if run.tries[name] > task.retries:
        run.states[name] = "failed"
        return
    policy = task.retry_policy
    run.states[name] = "retry"
    run.later[name] = now + delay(run.tries[name], policy.first, policy.last).total_seconds()


class Flight:
    """A release from claim to outcome, one thing at a time.

    Args:
        die_at: number of the edge (0-based, over workers and triggerer) at which whoever is there dies.
        away: seconds until Airflow notices and goes on; meanwhile the guard does its rounds.
        guarded: the guard is up.
        tick_s: seconds between two of its rounds.
    """

    def __init__(
        self,
        sky: Sky,
        dag: Any,
        *,
        die_at: int | None = None,
        away: float = 5.0,
        guarded: bool = True,
        tick_s: float = 1.0,
    ) -> None:
        self.sky = sky
        self.run = Run(dag, "run-1")
        self.die_at = die_at
        self.away = away
        self.guarded = guarded
        self.passed: list[str] = []
        self.died: str | None = None
        self.tick_s = tick_s
        #: See ``attempt``.
        self.deploying = at_once
        self._tended = 0

    def fly(self, limit_s: float = 3600.0) -> Run:
        end = self.sky.world.real + limit_s
        while not self.run.over:
            assert self.sky.world.real < end, self.run.states
            ready = self.run.ready(self.sky.now())
            if ready:
                self._task(ready[0])
            elif self.run.watches:
                self._looks()
            else:
                self.wait(1.0)
        return self.run

    def quiet(self, seconds: float = 400.0) -> None:
        """Let time go by until all that was begun has been settled."""
        self.wait(seconds)

    def wait(self, seconds: float) -> None:
        """Time goes by; the guard does its rounds."""
        while seconds > 0:
            step = min(self.tick_s, seconds)
            self.sky.world.advance(step)
            seconds -= step
            if self.guarded:
                self.sky.guard.watch()
                self._tended += 1
                if self._tended % 2 == 0:
                    self.sky.guard.tend()

    def _task(self, name: str, event: Mapping[str, Any] | None = None) -> None:
        try:
            with self._mortal():
                done = attempt(self.run, name, event, self.deploying)
        except Died:
            self.wait(self.away)
            self.run.watches.pop(name, None)
            again(self.run, name, self.sky.now())
            return
        record(self.run, name, done, self.sky.now())

    def _looks(self) -> None:
        for name, watch in list(self.run.watches.items()):
            try:
                with self._mortal():
                    event = look(self.sky, watch)
            except Died:
                self.wait(self.away)  # another triggerer takes the trigger over
                continue
            if event is not None:
                self._task(name, event)
            else:
                self.wait(float(watch["plan"]["look_every_s"]))

    @contextmanager
    def _mortal(self) -> Iterator[None]:
        def on_edge(name: str) -> None:
            self.passed.append(name)
            if self.die_at is not None and len(self.passed) == self.die_at + 1:
                self.died = name
                raise Died

        self.sky.world.on_edge = on_edge
        try:
            yield
        finally:
            self.sky.world.on_edge = None


def end_of(sky: Sky, run: Run) -> dict[str, Any]:
    """Where a release has ended, as far as it must be the same however often it was killed."""
    registry, serving = sky.registry, sky.serving
    kinds = sorted(
        (str(p.verdict.kind), str(p.verdict.outcome), p.verdict.version)
        for p in registry.posted.values()
        if str(p.verdict.kind) in ("gate", "rollout")
    )
    return {
        "champion": registry.champions.get(MODEL),
        "weights": serving.weights(MODEL),
        "intent": sky.intents_.found.get(MODEL),
        "rollouts": [(one.version, one.state) for one in registry.rollouts_],
        "versions": {version: record.state for (_, version), record in registry.versions_.items()},
        "commits": registry.commits,
        "verdicts": kinds,
        "events": sorted({uri for uri, _ in run.events}),
        "announced": sorted(uri for uri, _ in run.events),
        "outcome": run.states["outcome"],
        "loaded": sorted(version for _, version in serving.up),
    }


def whole(sky: Sky) -> list[str]:
    """What is wrong with the look log: decisions that do not follow from their evidence, an end that is missing."""
    wrong = []
    for rollout in sky.registry.rollouts_:
        looks = sky.looks_.read(rollout.id)
        if not looks:
            continue
        if bad := disagreements(Plan.from_dict(looks[0].get("plan") or rollout.plan), looks):
            wrong.append(f"{rollout.id}: looks {bad} of {len(looks)} do not follow")
        last = looks[-1]["decision"]["action"]
        # A first release is promoted before it is watched.
        if rollout.ended and last in ("hold", "advance") and (rollout.champion or rollout.state != "promoted"):
            wrong.append(f"{rollout.id} is {rollout.state}, its last look says {last}")
        if rollout.state == "promoted" and last != "promote" and rollout.champion is not None:
            wrong.append(f"{rollout.id} is promoted, its last look says {last}")
    return wrong
