"""A seeded world in which everything that can go wrong with a release does: schedulers, workers, triggers, guard,
registry, router and people as processes that interleave at every call they make of each other.

Operators, gate, guard and settling are the real code; a *process* is a greenlet, so that it can be killed, paused for
minutes and let go on (a stale holder), or overtaken, at any edge. Time is made up. What must hold is checked whenever
traffic or registry change, and at the end, when all is quiet.

    python tests/hands/simulator.py [FIRST [COUNT [GUARDS]]]
"""

from __future__ import annotations

import heapq
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import greenlet
from airborne import LEASE_S, MODEL, Died, Done, Run, Sky, again, attempt, hooked, look, record, whole
from brain import scripted

from windtunnel.errors import UnavailableError
from windtunnel.spec.policy import Policy

#: Seconds until Airflow notices that a worker or a triggerer is gone.
HEARTBEAT_S = 30.0
TICK_S = 5.0
#: Beyond the lease: the guard's own pauses, its grace for the registry's word, and its longest absence here.
SLACK_S = 100.0
CHAOS_S = 400.0
QUIET_S = 1500.0


class Violation(AssertionError):
    """Something that must never be, with the story that led to it."""


class _Broken(BaseException):
    """The same, on its way out of a process whose code must not catch it."""


@dataclass(frozen=True)
class Snipe:
    """One fault at a place that matters: whoever comes to ``edge`` for the ``nth`` time.

    Attributes:
        what: ``kill``, ``pause``; ``registry``, ``airflow``: killed, and this goes down with it; ``dark``: both;
            ``clock``: Airflow goes down, and the clock is set back a little later; ``rival``: paused, and another
            holder comes meanwhile.
        seconds: of the pause, or of the registry's absence.
    """

    edge: str
    nth: int
    what: str
    seconds: float


@dataclass(frozen=True)
class Faults:
    """What may happen in one seed; chances per edge, and times of what happens once."""

    kill: float = 0.0
    pause: float = 0.0
    lost: float = 0.0
    weave: float = 0.3
    kills: int = 1_000
    gentle: bool = False
    registry_down: tuple[float, float] | None = None
    router_down: tuple[float, float] | None = None
    airflow_down: tuple[float, float] | None = None
    guard_down: tuple[float, float] | None = None
    jump: tuple[float, float] | None = None
    person: float | None = None
    usurped: float | None = None
    rival: float | None = None
    refuse: float | None = None
    snipe: Snipe | None = None
    steady_guard: bool = False


#: Shots after which Airflow never comes back.
GROUNDED = ("airflow", "dark", "clock")
#: Where a shot may fall, and where it does most harm: between two places.
EDGES = (
    "intent.begin!", "registry.update_rollout", "registry.update_rollout!", "serving.accept!", "serving.route",
    "serving.route!", "registry.promote", "registry.promote!", "serving.abort", "serving.abort!", "intent.clear",
    "intent.clear!", "registry.withdraw", "registry.withdraw!", "looks.append", "looks.append!", "serving.renew",
    "registry.post_verdict", "registry.post_verdict!", "registry.champion!", "registry.rollout!",
)  # fmt: skip

BETWEEN = (
    "intent.begin!", "serving.accept!", "serving.route!", "registry.promote", "registry.promote!", "intent.clear",
    "looks.append!", "registry.post_verdict", "serving.abort",
)  # fmt: skip


def draw(rng: random.Random) -> Faults:
    """The faults of one seed: mostly a few kinds at once."""
    edge, nth = rng.choice(EDGES), rng.choice((1, 1, 2, 3))
    if rng.random() < 0.15:
        return Faults(gentle=True, weave=0.3, snipe=Snipe(edge, rng.choice((1, 2, 3, 4, 5)), "kill", 0.0))

    if rng.random() < 0.25:
        # One fault where a release is between two places, and a guard that is always there.
        edge, what = rng.choice(BETWEEN), rng.choice(("airflow", "airflow", "dark", "clock", "pause", "kill"))
        nth = rng.choice((4, 5)) if edge in ("serving.accept!", "serving.route!") else 1
        return Faults(snipe=Snipe(edge, nth, what, 200.0), steady_guard=True)

    def maybe(chance: float, make: Callable[[], Any]) -> Any:
        return make() if rng.random() < chance else None

    def span(longest: float) -> tuple[float, float]:
        begin = rng.uniform(0, 120)
        return begin, begin + rng.uniform(1, longest)

    return Faults(
        kill=rng.choice((0.0, 0.01, 0.03)),
        pause=rng.choice((0.0, 0.0, 0.01, 0.03)),
        lost=rng.choice((0.0, 0.0, 0.03, 0.1)),
        weave=rng.choice((0.1, 0.5)),
        registry_down=maybe(0.25, lambda: span(300)),
        router_down=maybe(0.1, lambda: span(60)),
        airflow_down=maybe(0.25, lambda: (lambda s: (s[0], 1e9) if rng.random() < 0.3 else s)(span(300))),
        guard_down=maybe(0.15, lambda: span(30)),
        jump=maybe(0.15, lambda: (rng.uniform(0, 120), rng.choice((-36_000.0, -60.0, 60.0, 36_000.0)))),
        person=maybe(0.15, lambda: rng.uniform(5, 90)),
        usurped=maybe(0.08, lambda: rng.uniform(5, 90)),
        rival=maybe(0.2, lambda: rng.uniform(5, 120)),
        refuse=maybe(0.08, lambda: rng.uniform(5, 60)),
        snipe=maybe(
            0.7,
            lambda: Snipe(
                edge,
                nth,
                rng.choice(("kill", "pause", "pause", "registry", "airflow", "clock", "rival")),
                rng.choice((40.0, 90.0, 200.0)),
            ),
        ),
        steady_guard=rng.random() < 0.5,
    )


class Process:
    """One process of the world."""

    def __init__(self, name: str, body: Callable[[Process], object], *, run: Run | None = None, task: str = "") -> None:
        self.name = name
        self.run = run
        self.task = task
        self.killed = False
        self.after_death: Callable[[], None] | None = None
        self.thread = greenlet.greenlet(lambda: body(self))

    @property
    def token(self) -> int | None:
        claim = self.run.xcom.get("claim") if self.run is not None else None
        return None if claim is None else int(claim["token"])


class Simulation:
    """One seed.

    Args:
        dags: the release DAG to fly.
        guards: how many guard, each alone. All but the first are slow ones: what they decide may be late by minutes.
    """

    def __init__(self, seed: int, dag: Any, guards: int = 1) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.dag = dag
        self.faults = draw(self.rng)
        self.first = self.rng.random() < 0.3
        self.harmful = self.rng.random() < 0.35
        self.changed = not self.faults.gentle and self.rng.random() < 0.05
        self.sky = Sky()
        self.world = self.sky.world
        self.runs: list[Run] = []
        self.current: Process | None = None
        self.main = greenlet.getcurrent()
        self.story: list[str] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._holders: dict[tuple[str, str], Process] = {}
        self._alive: dict[Process, None] = {}
        self._kills = 0
        self._sniped = 0
        self._back = False
        self._stage: dict[tuple[str, int], int] = {}  # of each holder, the latest that the router has seen
        self._aborted: set[str] = set()
        self._closed: set[str] = set()
        self._had: dict[str, int] = {}
        self._idle: dict[str, dict[str, str]] = {}
        self._calm = False
        self._leased_at = 0.0
        self._highest = 0
        self._airflow = True
        self._guards = True
        self._guarding = [self.sky.guard, *(self.sky.new_guard() for _ in range(guards - 1))]
        self._champion: str | None = None

    # -- the world's loop

    def fly(self) -> None:
        """Live through the seed.

        Raises:
            Violation: something that must never be, with the story that led to it.
        """
        try:
            self._prepare()
            self._until(CHAOS_S)
            self._settle_down()
            end = CHAOS_S + QUIET_S
            while self.world.real < end:
                self._until(min(end, self.world.real + 100.0))
                if self._still and not self._wrong():
                    break
            if wrong := self._wrong():
                raise _Broken("; ".join(wrong))
        except _Broken as broken:
            tail = "\n  ".join(self.story[-90:])
            raise Violation(f"seed {self.seed}: {broken}\n{self.faults}\n  {tail}") from None
        finally:
            self._bury()

    def _prepare(self) -> None:
        sky, candidate = self.sky, "1" if self.first else "2"
        if not self.first:
            sky.register("1")
            sky.crown("1")
        self._champion = sky.registry.champions.get(MODEL)
        sky.register(candidate, errors=0.5 if self.harmful else 0.0)
        sky.register("3")
        sky.register("9")
        self.candidate = candidate
        if self.changed:
            sky.store.digests[candidate] = "sha256:changed"
        sky.serving.on_route = self._routed
        sky.serving.caller = lambda: self.current
        sky.registry.on_change = self._committed
        self.world.on_edge = self._edge
        self.world.on_sleep = self._sleep
        self.start_run("run-1", candidate)
        self._at(0.5, self._airflow_tick)
        for number in range(len(self._guarding)):
            self._guards_round(number, "watch")
            self._guards_round(number, "tend")
        f = self.faults
        for span, switch in (
            (f.registry_down, self._registry_switch), (f.router_down, self._router_switch),
            (f.airflow_down, self._airflow_switch), (f.guard_down, self._guard_switch),
        ):  # fmt: skip
            if span is not None:
                self._at(span[0], lambda switch=switch: switch(False))
                self._at(span[1], lambda switch=switch: switch(True))
        if f.jump is not None:
            self._at(f.jump[0], lambda by=f.jump[1]: self._jump(by))
        if f.person is not None:
            self._at(f.person, lambda: self._spawn("person", self._person))
        if f.usurped is not None:
            self._at(f.usurped, self._usurp)
        if f.rival is not None:
            self._at(f.rival, self._rival)
        if f.refuse is not None:
            self._at(f.refuse, self._refuse)

    def _until(self, end: float) -> None:
        while self._heap and self._heap[0][0] <= end:
            at, _, event = heapq.heappop(self._heap)
            if at > self.world.real:
                self.world.advance(at - self.world.real)
            event()
            self._check_lease()
        if end > self.world.real:
            self.world.advance(end - self.world.real)

    def _at(self, at: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, event))

    def _in(self, seconds: float, event: Callable[[], None]) -> None:
        self._at(self.world.real + seconds, event)

    def tell(self, what: str) -> None:
        self.story.append(f"{self.world.real:7.1f} {self.current.name if self.current else '-':28} {what}")

    # -- processes

    def _spawn(self, name: str, body: Callable[[Process], None], **more: Any) -> Process:
        made = Process(name, body, **more)
        self._alive[made] = None
        self._in(0.0, lambda: self._step(made))
        return made

    def _step(self, process: Process) -> None:
        if process not in self._alive:
            return
        self.current = process
        try:
            delay = process.thread.switch()
        except Died:
            self._die(process)
            return
        finally:
            self.current = None
        if process.thread.dead:
            self._alive.pop(process, None)
        else:
            self._in(delay, lambda: self._step(process))

    def _die(self, process: Process) -> None:
        self._alive.pop(process, None)
        if process.after_death is not None:
            process.after_death()

    def _kill(self, process: Process) -> None:
        if process not in self._alive:
            return
        if process.thread:  # it has begun and not ended
            hook, self.world.on_edge = self.world.on_edge, None
            try:
                process.thread.throw(Died)
            except Died:
                pass
            finally:
                self.world.on_edge = hook
        self._die(process)

    def _bury(self) -> None:
        self.world.on_edge = None
        for process in list(self._alive):
            process.after_death = None
            self._kill(process)

    def _sleep(self, seconds: float) -> None:
        self.main.switch(seconds)

    def _edge(self, name: str) -> None:
        process = self.current
        if process is None:
            return
        self._note(name)
        if self._calm:
            return
        f, guard = self.faults, process.name.startswith("guard")
        quick = process.name.startswith("guard-")
        if quick and f.steady_guard:
            return
        if f.snipe is not None and name == f.snipe.edge and not guard and process.name != "person":
            self._sniped += 1
            if self._sniped == f.snipe.nth:
                self._shoot(process, f.snipe)
                return
        x = self.rng.random()
        if x < f.kill:
            if self._kills >= f.kills:
                return
            self._kills += 1
            self.tell(f"dies at {name}")
            raise Died
        x -= f.kill
        if x < f.pause and process.name != "person":
            seconds = self.rng.choice((2.0, 8.0)) if quick else self.rng.choice((5.0, 40.0, 90.0, 200.0))
            self._pause(process, seconds, name)
            return
        x -= f.pause
        if x < f.lost and name.startswith("registry."):
            self.tell(f"gets no answer at {name}")
            raise UnavailableError(f"no answer to {name}")
        x -= f.lost
        if x < f.weave:
            self._sleep(self.rng.random() * 0.2)

    def _pause(self, process: Process, seconds: float, name: str) -> None:
        self.tell(f"is paused for {seconds:g} s at {name}")
        if process.after_death is not None and seconds > HEARTBEAT_S:
            self._in(HEARTBEAT_S, process.after_death)
        self._sleep(seconds)

    def _shoot(self, process: Process, snipe: Snipe) -> None:
        if snipe.what == "rival":
            self._in(1.0, self._rival)
        if snipe.what in ("pause", "rival"):
            self._pause(process, snipe.seconds, snipe.edge)
            return
        self.tell(f"dies at {snipe.edge} ({snipe.what})")
        if snipe.what in ("registry", "dark"):
            self._registry_switch(False)
            self._in(2 * snipe.seconds, lambda: self._registry_switch(True))
        if snipe.what in GROUNDED:
            self._in(0.0, lambda: self._airflow_switch(False))
        if snipe.what == "clock":
            self._in(7.0, lambda: self._jump(-36_000.0))
        raise Died

    def _note(self, name: str) -> None:
        if name.endswith("!") and not name.startswith(
            ("registry.champion", "registry.rollout!", "serving.observe", "serving.traffic")
        ):
            self.tell(name[:-1])
        if name in ("serving.renew!", "serving.accept!", "serving.abort!") and MODEL in self.sky.serving.states:
            state = self.sky.serving.states[MODEL]
            if name != "serving.abort!" and state.release.lease_until is not None:
                self._leased_at = self.world.real
                if state.aborted:
                    raise _Broken("a rollout that was aborted has a lease again")
            if state.aborted:
                self._aborted.add(str(state.aborted["rollout_id"]))
            self._highest = max(self._highest, state.release.token)
            token = self.current.token if self.current is not None else None
            if name == "serving.renew!" and token is not None and token < self._highest:
                raise _Broken(f"a holder with token {token} renewed the lease of token {self._highest}")
        if name in ("registry.update_rollout!", "registry.withdraw!"):
            self._closed |= {one.id for one in self.sky.registry.rollouts_ if one.state in ("rolled_back", "withdrawn")}

    # -- Airflow

    def start_run(self, run_id: str, version: str) -> None:
        self.runs.append(Run(self.dag, run_id, {"version": version}))

    def _airflow_tick(self) -> None:
        if self._airflow:
            for run in self.runs:
                # Nothing has changed since nothing was ready: nothing is.
                if self._idle.get(run.run_id) != run.states or self.world.real >= min(run.later.values(), default=1e9):
                    ready = run.ready(self.world.real)
                    for name in ready:
                        run.later.pop(name, None)
                        self._work(run, name)
                    if not ready:
                        self._idle[run.run_id] = dict(run.states)
        self._in(10.0 if self._calm else 2.0, self._airflow_tick)

    def _work(self, run: Run, name: str, event: dict[str, Any] | None = None) -> None:
        run.states[name] = "running"

        def body(process: Process) -> None:
            done = attempt(run, name, event)
            if self._holders.get((run.run_id, name)) is not process:
                return  # Airflow asks nobody who was declared dead
            self.tell(f"{done.state} {done.reason[:100]}")
            self._undone(name, done)
            record(run, name, done, self.world.real)
            if done.state == "waiting":
                run.states.pop(name, None)
            if done.state == "deferred":
                self._trigger(run, name)

        def gone() -> None:
            if self._holders.get((run.run_id, name)) is process and run.states.get(name) == "running":
                self._holders.pop((run.run_id, name))
                again(run, name, self.world.real)

        process = self._spawn(f"{run.run_id}:{name}", body, run=run, task=name)
        process.after_death = lambda: self._in(0.0 if self._calm else HEARTBEAT_S, gone)
        self._holders[run.run_id, name] = process

    def _undone(self, name: str, done: Done) -> None:
        """Whoever says that a version has no traffic any more has seen to it."""
        says = done.state == "success" and name in ("rollback", "first.withdraw")
        if not says and not (done.state == "failed" and done.reason.startswith("the registry refuses")):
            return
        weights, champion = self.sky.serving.weights(MODEL), self.sky.registry.champions.get(MODEL)
        claim = self.current.run.xcom.get("claim") if self.current is not None and self.current.run else None
        version = claim["version"] if claim else None
        exposed = self.sky.serving.states[MODEL].release.exposed if MODEL in self.sky.serving.states else False
        mine = self.current is not None and self.current.token == self._highest
        if mine and (exposed or (weights.get(version) and champion != version)):
            raise _Broken(f"{name} has ended, and traffic is {weights}")

    def _trigger(self, run: Run, name: str) -> None:
        watch = run.watches[name]

        def body(process: Process) -> None:
            while run.states.get(name) == "deferred":
                event = look(self.sky, watch)
                if event is not None:
                    if run.states.get(name) == "deferred" and self._airflow:
                        self._work(run, name, event)
                    return
                self._sleep(float(watch["plan"]["look_every_s"]))

        def gone() -> None:
            if (
                run.states.get(name) == "deferred"
                and self._airflow
                and self._holders.get((run.run_id, name)) is process
            ):
                self._trigger(run, name)

        process = self._spawn(f"{run.run_id}:{name}:trigger", body, run=run, task=name)
        process.after_death = lambda: self._in(0.0 if self._calm else HEARTBEAT_S, gone)
        self._holders[run.run_id, name] = process

    # -- the guard

    def _guards_round(self, number: int, what: str) -> None:
        """One of a guard's threads, ``watch`` or ``tend``; after its death it begins anew, and remembers nothing."""
        name = f"guard{number or ''}-{what}"

        def again() -> None:
            if self._guards and not any(process.name == name for process in self._alive):
                if self._back:  # with a clock that was set back, it can but give each lease its length once more
                    self._leased_at = self.world.real
                self._guarding[number] = self.sky.new_guard()
                self._spawn(name, body)

        def body(process: Process) -> None:
            process.after_death = lambda: self._in(3.0, again)
            while True:
                guard = self._guarding[number]
                if what == "watch":
                    guard.watch()
                else:
                    guard.tend()
                self._sleep(3 * TICK_S if self._idle_guard else TICK_S)

        again()

    # -- what happens once

    def _registry_switch(self, up: bool) -> None:
        self.tell(f"the registry is {'up' if up else 'down'}")
        self.sky.registry.down = not up

    def _router_switch(self, up: bool) -> None:
        self.tell(f"the router is {'up' if up else 'down'}")
        self.sky.serving.down = not up

    def _airflow_switch(self, up: bool) -> None:
        if up == self._airflow:
            return
        self.tell(f"Airflow is {'up' if up else 'down'}")
        self._airflow = up
        if not up:
            for process in [p for p in self._alive if p.run is not None]:
                process.after_death = None
                self._kill(process)
            return
        for run in self.runs:
            for name, state in list(run.states.items()):
                if state == "running":
                    again(run, name, self.world.real)
                elif state == "deferred":
                    self._trigger(run, name)

    def _guard_switch(self, up: bool) -> None:
        self.tell(f"the guard is {'up' if up else 'down'}")
        self._guards = up
        if not up:
            for process in [p for p in self._alive if p.name.startswith("guard")]:
                process.after_death = None
                self._kill(process)
            return
        for number in range(len(self._guarding)):
            self._guards_round(number, "watch")
            self._guards_round(number, "tend")

    def _jump(self, by: float) -> None:
        self.tell(f"the clock jumps by {by:g} s")
        self.world.wall += by
        self._back = self._back or by < 0

    def _person(self, process: Process) -> None:
        self.sky.serving.abort(MODEL, "looks wrong to me", "ada")

    def _usurp(self) -> None:
        """Somebody with the power to do so makes another version champion, in registry and traffic."""
        self.tell("version 9 is made champion by an administrator")
        registry = self.sky.registry
        former = registry.champions.get(MODEL)
        if former is not None:
            registry._set(MODEL, former, "archived")
        registry.crown(MODEL, "9")
        self._champion = "9"

    def _rival(self) -> None:
        """Another DAG run: somebody takes the rollout over, or the next version comes."""
        running = self.sky.registry._running(MODEL)
        if running is None and not all(run.over for run in self.runs):
            self._in(20.0, self._rival)  # one release of a model at a time, as its DAG says
            return
        version = running.version if running is not None else "3"
        name = f"run-{len(self.runs) + 1}"
        self.tell(f"{name} begins, version {version}")
        self.start_run(name, version)

    def _refuse(self) -> None:
        self.tell("policy asks for a scan from now on")
        kinds = ["data-check", "evaluation", "scan"]
        self.sky.registry.policy_ = Policy(first=kinds, champion=[*kinds, "rollout"])

    def _settle_down(self) -> None:
        """No new faults: everything is up, unless Airflow is down for good."""
        self._calm = True
        self.sky.registry.policy_ = Policy()
        self.sky.registry.down = self.sky.serving.down = False
        if not self._guards:
            self._guard_switch(True)
        f = self.faults
        shot = f.snipe is not None and f.snipe.what in GROUNDED and self._sniped >= f.snipe.nth
        if not self._airflow and not shot and f.airflow_down is not None and f.airflow_down[1] < 1e9:
            self._airflow_switch(True)

    # -- what must hold

    def _routed(self, model: str) -> None:
        serving = self.sky.serving
        weights = serving.weights(model)
        self.tell(f"traffic {weights} {sorted(serving.reached(model))}")
        if sum(weights.values()) not in (0, 100):
            raise _Broken(f"weights {weights} sum to {sum(weights.values())}")
        for version in serving.reached(model):
            if serving.up.get((model, version)) != f"sha256:{version}" or (
                self.sky.store.digests[version] != f"sha256:{version}"
            ):
                raise _Broken(f"users meet version {version}, which is not what was verified")
        token = self.current.token if self.current is not None else None
        self._highest = max(self._highest, serving.states[model].release.token)
        if token is not None and token < self._highest:
            raise _Broken(f"a holder with token {token} changed the traffic of token {self._highest}")
        release, champion = serving.states[model].release, self.sky.registry.champions.get(model)
        if release.rollout_id is not None:
            if release.stage < self._stage.get((release.rollout_id, release.token), 0):
                raise _Broken(f"traffic went back to stage {release.stage} of {release.rollout_id}")
            self._stage[release.rollout_id, release.token] = release.stage
            met = serving.reached(model) & {arm.version for arm in release.candidates}
            if release.rollout_id in self._aborted and met - {champion}:
                raise _Broken(f"{met} of {release.rollout_id} get traffic after an abort")
        f = self.faults
        asked = f.steady_guard and f.lost == 0 and f.registry_down is None and f.router_down is None
        asked = (
            asked
            and (f.snipe is None or f.snipe.what not in ("registry", "dark"))
            and f.usurped is None
            and f.person is None
        )
        lost = champion is not None and self._had.get(champion) == 100 and weights.get(champion, 0) < 100
        # A holder that stands still in the middle of an apply keeps everybody else's away, also the guard's.
        if asked and lost and not self.first and not release.exposed and model not in serving.turns:
            raise _Broken(f"champion {champion} lost its traffic though the registry could be asked")
        self._had = weights
        self.sky._note(model)

    def _committed(self, model: str) -> None:
        registry = self.sky.registry
        states = [version for (_, version), one in registry.versions_.items() if one.state == "champion"]
        if len(states) > 1:
            raise _Broken(f"two champions: {states}")
        champion = registry.champions.get(model)
        if champion is not None and champion != self._champion:
            rollout = max((one for one in registry.rollouts_ if one.version == champion), key=lambda one: one.token)
            if rollout.champion != self._champion:
                raise _Broken(
                    f"version {champion} was compared with {rollout.champion} and took the place of {self._champion}"
                )
            if rollout.id in self._closed:
                raise _Broken(f"rollout {rollout.id} was closed, and promoted after that")
            token = self.current.token if self.current is not None else None
            if token is not None and token != rollout.token:
                raise _Broken(f"token {token} promoted version {champion}, which {rollout.token} holds")
        self._champion = champion
        self.tell(f"champion {champion}")

    def _check_lease(self) -> None:
        serving = self.sky.serving
        state = serving.states.get(MODEL)
        if state is None or not state.release.exposed:
            return
        champion = self.sky.registry.champions.get(MODEL)
        alone = serving.reached(MODEL) - {champion} - {self._champion_of_traffic()}
        if alone and self.world.real - self._leased_at > LEASE_S + SLACK_S:
            raise _Broken(f"{alone} exposed for {self.world.real - self._leased_at:.0f} s with nobody to watch")

    def _champion_of_traffic(self) -> str | None:
        champion = self.sky.serving.states[MODEL].release.champion
        return champion.version if champion is not None else None

    @property
    def _still(self) -> bool:
        """Nobody is left who could change anything but the guard."""
        return all(process.name.startswith("guard") for process in self._alive)

    @property
    def _idle_guard(self) -> bool:
        """There is nothing that could not wait for the guard."""
        state = self.sky.serving.states.get(MODEL)
        exposed = state is not None and state.release.exposed
        return self._calm and self._still and not exposed and not self.sky.intents_.found

    def _wrong(self) -> list[str]:
        """What is wrong now that all is quiet."""
        sky, registry, serving = self.sky, self.sky.registry, self.sky.serving
        champion, weights = registry.champions.get(MODEL), serving.weights(MODEL)
        wrong = whole(sky)
        if self.faults.usurped is None and weights != ({champion: 100} if champion else {}):
            wrong.append(f"traffic {weights}, champion {champion}")
        if sky.intents_.found and self.faults.usurped is None:
            wrong.append(f"an intent is left: {sky.intents_.found}")
        over = all(run.over for run in self.runs)
        if self._airflow and not over:
            wrong.append(f"a run does not end: {[run.states for run in self.runs if not run.over]}")
        for one in registry.rollouts_:
            # One that meets nobody, because its release died before, is finished by the next release.
            state = serving.states.get(MODEL)
            flown = (
                state is not None
                and state.release.rollout_id == one.id
                and (state.aborted is not None or state.release.exposed)
            )
            if not one.ended and (self.faults.gentle or flown):
                wrong.append(f"a rollout is open: {one}")
            looks = sky.looks_.read(one.id)
            failed = any(look["decision"]["outcome"] == "FAIL" for look in looks)
            if failed and (weights.get(one.version) or champion == one.version):
                wrong.append(
                    f"version {one.version} failed and has {weights.get(one.version, 0)} %, champion {champion}"
                )
            bad = [
                posted.verdict
                for posted in registry.posted.values()
                if str(posted.verdict.kind) == "rollout" and posted.verdict.version == one.version
                and str(posted.verdict.outcome) != "PASS"
            ]  # fmt: skip
            told_by = [(verdict.dag_run_id, (verdict.window or (0.0, 0.0))[0]) for verdict in bad]
            if len(told_by) != len(set(told_by)):
                wrong.append(f"judged {len(bad)} times: {bad}")
        # A first release that its watch condemned was promoted, too.
        committed = [
            one
            for one in registry.rollouts_
            if one.state == "promoted"
            or (one.state == "withdrawn" and one.champion is None and (one.model, one.version) in registry.commits)
        ]
        if len(registry.commits) > len(committed):
            wrong.append(f"promoted twice: {registry.commits}")
        if champion is not None and over and self._airflow and (MODEL, champion) in registry.commits:
            told = {extra.get("version") for run in self.runs for uri, extra in run.events if uri.endswith("/champion")}
            if champion not in told:
                wrong.append(f"nobody was told that version {champion} is champion: {told}")
        wrong += self._gently(champion)
        loaded = {version for _, version in serving.up} - {champion, "1", "9"}
        former = {version for _, version in registry.commits}
        if loaded - former and over and not self._back:  # a clock that was set back keeps a server for longer
            wrong.append(f"still loaded: {loaded}")
        return wrong

    def _gently(self, champion: str | None) -> list[str]:
        """With no more than one kill and everything up, a release comes to what it would have come to."""
        if not self.faults.gentle:
            return []
        former = None if self.first else "1"
        wanted = former if self.harmful else self.candidate
        outcome = self.runs[0].states.get("outcome")
        right = champion == wanted and outcome == ("failed" if self.harmful else "success")
        return [] if right else [f"champion {champion}, wanted {wanted}; {self.runs[0].states} {self.runs[0].why}"]


def simulate(seed: int, dag: Any, guards: int = 1) -> Simulation:
    """Live through one seed. ``flying`` must be open.

    Raises:
        Violation: something that must never be.
    """
    found = Simulation(seed, dag, guards)
    _SKY[0] = found.sky
    found.fly()
    return found


_SKY: list[Sky] = []


@contextmanager
def flying() -> Iterator[Any]:
    """The release DAG, with operators that meet the world of the seed that flies, the cheap brain, and no log lines."""
    import structlog
    from airborne import release_dag

    dag = release_dag()
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
    logging.disable(logging.CRITICAL)
    _SKY[:] = [Sky()]
    try:
        with hooked(lambda: _SKY[0]), scripted():
            yield dag
    finally:
        structlog.configure(**before)
        logging.disable(logging.NOTSET)


def main() -> None:
    import sys
    import time

    first, count, guards = [*(int(word) for word in sys.argv[1:4]), *(0, 1000, 1)[len(sys.argv) - 1 :]]
    began, found = time.monotonic(), 0
    with flying() as dag:
        for seed in range(first, first + count):
            try:
                simulate(seed, dag, guards)
            except Violation as violation:
                found += 1
                if found <= 3:
                    print(violation)
                else:
                    print(str(violation).splitlines()[0][:300])
    print(f"{count} seeds from {first}: {found} violations, {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    import os

    os.environ.setdefault("AIRFLOW_HOME", "/tmp/windtunnel-simulator")
    main()
