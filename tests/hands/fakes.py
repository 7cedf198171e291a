"""In memory: the place where traffic flows, the governed registry, the look log and the intents; every call counted.

The serving fake is ``LocalBackend`` without disk, router and processes: the same steps in the same order over the very
same transitions (``serving.desired``), and it passes the same conformance suite. The registry fake keeps the rules of
``windtunnel_mlflow.service``; ``test_registry_fake.py`` holds both against each other.

Each effect on the world stands between two *edges*: before it, and after it. ``World.edge`` is told of each. A test may
let the caller die there (nothing done; or done, and the answer lost), the simulator may let others run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from windtunnel.errors import (
    FencedError,
    IntegrityError,
    NotFoundError,
    NotReadyError,
    RefusedError,
    ServingError,
    UnavailableError,
)
from windtunnel.evidence import Verdict
from windtunnel.registry.records import Explanation, PostedVerdict, RolloutRecord, VersionRecord
from windtunnel.rollout import Evidence
from windtunnel.serving import desired
from windtunnel.serving.backend import ArmStatus, ArmTraffic, Capability, Observed, Release, Traffic
from windtunnel.serving.desired import Server, State
from windtunnel.serving.release import intent
from windtunnel.serving.release.lease import Clock
from windtunnel.serving.routing import ModelRoute
from windtunnel.serving.target import rollback_target
from windtunnel.spec.policy import Policy
from windtunnel.stats.histogram import Histogram, bucket
from windtunnel_mlflow.law.policy import Facts, Judged, missing

OPEN = ("running", "promoting")
ENDED = ("promoted", "rolled_back", "withdrawn")
MOVES = {
    "running": {"running", "promoting", "rolled_back", "withdrawn"},
    "promoting": {"promoting", "running", "rolled_back", "withdrawn"},
}
#: Requests a second to a model, and how long each takes.
RATE, MILLISECONDS = 100.0, 5.0


class World:
    """Time, and the edges of everything that happens in it.

    Attributes:
        wall: seconds since the epoch, by a clock that may be set; ``real`` by one that may not.
        edges: what was passed so far, when ``keep`` is on.
        on_edge: called at each edge with its name; may raise, may let others run.
        on_sleep: called to let time go by.
    """

    def __init__(self, at: float = 1_000_000.0) -> None:
        self.wall = at
        self.real = 0.0
        self.keep = False
        self.edges: list[str] = []
        self.on_edge: Callable[[str], None] | None = None
        self.on_sleep: Callable[[float], None] = self.advance

    def edge(self, name: str) -> None:
        if self.keep:
            self.edges.append(name)
        if self.on_edge is not None:
            self.on_edge(name)

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """One effect: an edge before, an edge after it."""
        self.edge(name)
        yield
        self.edge(name + "!")

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.real += seconds

    def clock(self) -> Clock:
        return Clock(self.wall, self.real)


# -- traffic


@dataclass
class Store:
    """What lies in the store of sealed models: what a version's bytes are, and whether its server comes up."""

    digests: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    errors: dict[str, float] = field(default_factory=dict)  # share of requests that fail, by version


class FakeServing:
    """``ServingBackend`` in memory. One lives as long as the world; what calls it comes and goes.

    Attributes:
        states: the desired state of each model, as ``desired.json`` has it.
        routes: of each model, as the router has them.
        up: servers that run, with the digest that they verified.
        writes: how often a state, a route or a server was changed.
        on_route: told of every change of routes.
    """

    capabilities: frozenset[Capability] = frozenset({"mirror", "audience", "segments", "several", "sticky"})

    def __init__(self, world: World, store: Store) -> None:
        self.world = world
        self.store = store
        self.states: dict[str, State] = {}
        self.routes: dict[str, ModelRoute] = {}
        self.up: dict[tuple[str, str], str] = {}
        self.down = False  # the router does not answer
        self.writes = 0
        self.turns: dict[str, object] = {}
        self.caller: Callable[[], object] = object
        self.on_route: Callable[[str], None] | None = None
        self._counts: dict[str, dict[tuple[str, ...], list[float]]] = {}
        self._since: dict[str, float] = {}

    # -- the contract

    def refusals(self, release: Release) -> list[str]:
        return []

    def apply(self, release: Release) -> Observed:
        desired.accept(self._state(release.model), release)
        with self._turn(release.model, release.token):
            with self.world.call("serving.accept"):
                before = self._state(release.model)
                self._write(desired.accept(before, release))
            try:
                self._converge(release.model, release.token)
            except FencedError:
                raise
            except (IntegrityError, NotReadyError, ServingError, UnavailableError) as error:
                self._give_up(before, release, error.message)
                raise
        return self._observed(release.model)

    def observe(self, model: str) -> Observed:
        with self.world.call("serving.observe"):
            self._answers()
            return self._observed(model)

    def renew(self, model: str, token: int, until: float) -> None:
        with self.world.call("serving.renew"):
            self._write(desired.renew(self._state(model), token, until))

    def abort(self, model: str, reason: str, by: str, *, token: int | None = None) -> Observed:
        with self.world.call("serving.abort"):
            aborted = desired.abort(self._state(model), reason, by, self.world.wall, token)
            if aborted.aborted:
                self._write(aborted)
                self._route(model)
        return self._observed(model)

    def check_target(self, model: str) -> list[str]:
        with self.world.call("serving.check_target"):
            self._answers()
            version = rollback_target(self._state(model))
            if version is None:
                return [f"{model} has no version to go back to"]
            return [] if (model, version) in self.up else [f"{model} version {version}: its server is not ready"]

    def drop(self, model: str, versions: Sequence[str], reason: str, *, token: int) -> Observed:
        with self.world.call("serving.drop"):
            left = desired.drop(self._state(model), versions, reason, self.world.wall, token)
            if left.dropped:
                self._write(left)
                self._route(model)
        return self._observed(model)

    def traffic(self, model: str) -> Traffic:
        with self.world.call("serving.traffic"):
            self._answers()
            if model not in self.states:
                raise UnavailableError(f"nobody counted requests of {model}")
            self._flow(model)
            parts: dict[str, Any] = {"arms": {}, "audience": {}, "shadow": {}, "segments": {}}
            for (part, *segment, version), (requests, errors) in self._counts.get(model, {}).items():
                n = int(requests)
                latency = Histogram.from_dict({str(bucket(MILLISECONDS)): n} if n else {})
                where = parts[part].setdefault(segment[0], {}) if segment else parts[part]
                where[version] = ArmTraffic(n, min(n, round(errors)), 0, latency)
            return Traffic(model, "one", self.world.wall, **parts)

    def desired(self, model: str) -> Release | None:
        release = self._state(model).release
        return release if release.arms() else None

    def lagging(self, model: str) -> bool:
        return desired.lagging(self._state(model))

    def sweep(self, now: float) -> list[str]:
        gone = []
        for model in sorted(self.states):
            if model in self.turns:
                continue
            versions = desired.due(self.states[model], now)
            if versions:
                with self.world.call("serving.sweep"):
                    self._write(desired.forget(self.states[model], versions))
            known = set(self.states[model].servers)
            for name, version in [key for key in self.up if key[0] == model and key[1] not in known]:
                del self.up[name, version]
                self.writes += 1
                gone.append(f"{name}.v{version}")
        return gone

    # -- what users meet

    def weights(self, model: str) -> dict[str, int]:
        """Percent by version, as the router has it."""
        slots = self.routes[model].slots if model in self.routes else ()
        return {version: slots.count(version) for version in dict.fromkeys(slots)}

    def reached(self, model: str) -> set[str]:
        """Versions that some request, also a tester's or a copied one, can reach."""
        route = self.routes.get(model)
        if route is None:
            return set()
        beside = [route.audience[2]] if route.audience and route.slots else []
        return {*route.slots, *beside, *([route.mirror[0]] if route.mirror and route.slots else [])}

    def ask(self, model: str, headers: Mapping[str, str]) -> str | None:
        """One request: which version answers."""
        route = self.routes.get(model)
        if route is None or not route.slots:
            return None
        if route.audience and headers.get(route.audience[0]) == route.audience[1]:
            self._count(model, ("audience", route.audience[2]), 1)
            return route.audience[2]
        asked = sum(counts[0] for key, counts in self._counts.get(model, {}).items() if key[0] == "arms")
        version = route.slots[int(asked) * 37 % len(route.slots)]
        self._count(model, ("arms", version), 1)
        if route.segment_header and route.segment_header in headers:
            named = headers[route.segment_header]
            segment = named if named in self._state(model).release.segments else "other"
            self._count(model, ("segments", segment, version), 1)
        if route.mirror:
            self._count(model, ("shadow", route.mirror[0]), route.mirror[1] / 100)
        return version

    # -- steps

    def _converge(self, model: str, token: int) -> None:
        start = self._state(model)
        for arm in start.needed():
            self._fence(model, token, start)
            known = self._state(model).servers.get(arm.version)
            must = known is None or known.digest != arm.digest or not known.proven
            must = must or arm.weight > start.weights.get(arm.version, 0)
            if known is not None and known.digest != arm.digest and arm.version in start.slots:
                raise IntegrityError(f"{model} version {arm.version} serves with digest {known.digest}")
            if self.up.get((model, arm.version)) != arm.digest or known is None or known.digest != arm.digest:
                try:
                    self._start(model, arm, known, token, start)
                except (IntegrityError, NotReadyError):
                    if must:
                        raise
        with self.world.call("serving.route"):
            self._answers()
            self._fence(model, token, start)
            self._write(desired.routed(replace(self._state(model), failed=None), self.world.wall))
            self._route(model)

    def _start(self, model: str, arm: Any, known: Server | None, token: int, begun: State) -> None:
        with self.world.call(f"serving.start v{arm.version}"):
            self._fence(model, token, begun)
            if self.store.digests.get(arm.version) != arm.digest:
                raise IntegrityError(f"{model} version {arm.version} is not {arm.digest}")
            state = self._state(model)
            same = known is not None and known.digest == arm.digest
            server = Server(arm.digest, arm.source, 1000, served=bool(same and known and known.served))
            if state.servers.get(arm.version) != server:
                self._write(desired.deployed(state, arm.version, server))
            if arm.version in self.store.broken:
                raise NotReadyError(f"{model} version {arm.version} cannot be loaded")
        with self.world.call(f"serving.ready v{arm.version}"):
            self._fence(model, token, begun)
            state = self._state(model)
            self.up[model, arm.version] = arm.digest
            if arm.version in state.servers:
                self._write(desired.deployed(state, arm.version, replace(state.servers[arm.version], proven=True)))

    def _give_up(self, before: State, release: Release, why: str) -> None:
        state = self._state(release.model)
        if state.release != release or state.aborted:
            return
        old = replace(before.release, token=release.token)
        kept = replace(state, release=old, aborted=before.aborted, failed=why)
        lost = set(kept.servers) - {arm.version for arm in old.arms()} - set(kept.slots) - set(kept.warm)
        self._write(replace(kept, warm={**kept.warm, **dict.fromkeys(lost, self.world.wall)}))
        self.turns.pop(release.model, None)
        self.sweep(self.world.wall)

    def _fence(self, model: str, token: int, start: State) -> None:
        state = self._state(model)
        if state.release.token != token:
            raise FencedError(f"{model}: token {token} no longer holds the rollout, {state.release.token} does")
        if state.aborted is not None and state.aborted != start.aborted:
            raise FencedError(f"{model}: the rollout was aborted by {state.aborted['by']}: {state.aborted['reason']}")

    @contextmanager
    def _turn(self, model: str, token: int) -> Iterator[None]:
        """One ``apply`` of a model at a time; who dies gives it back, as a lock does that ends with its process."""
        me, waited = self.caller(), 0.0
        while model in self.turns:
            if token < self._state(model).release.token:
                raise FencedError(f"{model}: token {token} no longer holds the rollout")
            if waited > 30.0:
                raise ServingError(f"{model}: another release has been applying for more than 30 s")
            self.world.on_sleep(1.0)
            waited += 1.0
        self.turns[model] = me
        try:
            yield
        finally:
            if self.turns.get(model) is me:
                del self.turns[model]

    def _answers(self) -> None:
        if self.down:
            raise UnavailableError("the router does not answer")

    def _state(self, model: str) -> State:
        return self.states.get(model) or State(Release(model, None))

    def _write(self, state: State) -> None:
        if self.states.get(state.model) != state:
            self.states[state.model] = state
            self.writes += 1

    def _route(self, model: str) -> None:
        self._flow(model)
        route = desired.model_route(self._state(model))
        if self.routes.get(model) != route:
            self.routes[model] = route
            self.writes += 1
            if self.on_route is not None:
                self.on_route(model)

    def _flow(self, model: str) -> None:
        """Count the requests since the last time."""
        spent = self.world.real - self._since.get(model, self.world.real)
        self._since[model] = self.world.real
        route = self.routes.get(model)
        if route is None or not spent:
            return
        for version, weight in self.weights(model).items():
            self._count(model, ("arms", version), RATE * spent * weight / 100)
        if route.mirror and route.slots:
            self._count(model, ("shadow", route.mirror[0]), RATE * spent * route.mirror[1] / 100)

    def _count(self, model: str, key: tuple[str, ...], more: float) -> None:
        counts = self._counts.setdefault(model, {}).setdefault(key, [0.0, 0.0])
        counts[0] += more
        counts[1] += more * self.store.errors.get(key[-1], 0.0)

    def _observed(self, model: str) -> Observed:
        state, weights = self._state(model), self.weights(model)
        route = self.routes.get(model) or ModelRoute(model)
        versions = dict.fromkeys([*(arm.version for arm in state.release.arms()), *state.servers])
        return Observed(
            model=model,
            arms={version: self._status(state, version, weights.get(version, 0)) for version in versions},
            token=state.release.token,
            rollout_id=state.release.rollout_id,
            aborted=str(state.aborted["reason"]) if state.aborted else None,
            lease_until=state.release.lease_until,
            mirror=route.mirror[1] if route.mirror else 0,
            audience=route.audience[:2] if route.audience else None,
        )

    def _status(self, state: State, version: str, weight: int) -> ArmStatus:
        if version not in state.servers:
            return ArmStatus(version, weight, False, "absent")
        ready = (state.model, version) in self.up
        needed = any(arm.version == version for arm in state.needed())
        return ArmStatus(version, weight, ready, ("ready" if needed else "warm") if ready else "loading")


# -- registry


@dataclass
class _Version:
    record: VersionRecord
    data: str = "sha256:data"


class FakeRegistry:
    """The registry's rules in memory, seen through the client's methods.

    Attributes:
        commits: (model, version) of each promotion that was committed.
        champions: (model, version, until) in order.
    """

    def __init__(self, world: World, policy: Policy | None = None) -> None:
        self.world = world
        self.policy_ = policy or Policy()
        self.down = False
        self.versions_: dict[tuple[str, str], VersionRecord] = {}
        self.rollouts_: list[RolloutRecord] = []
        self.posted: dict[str, PostedVerdict] = {}
        self.champions: dict[str, str | None] = {}
        self.commits: list[tuple[str, str]] = []
        self.on_change: Callable[[str], None] | None = None

    # -- for a test

    def register(self, model: str, version: str, digest: str, *, status: str = "READY") -> VersionRecord:
        record = VersionRecord(
            model=model, version=version, semver=f"1.{version}.0", status=status, state="candidate", source="runs:/r/m",
            created_at=self.world.wall, digest=digest, run_id=f"run{version}", correlation_id=f"{version:0>32}",
            cause="test", recipe={"data": "sha256:data"},
        )  # fmt: skip
        self.versions_[model, version] = record
        return record

    def judge(self, model: str, version: str, *kinds: str) -> None:
        from windtunnel.evidence import Kind, Outcome

        for kind in kinds:
            subject = "sha256:data" if kind == "data-check" else self.versions_[model, version].digest
            self._keep(Verdict(model, Kind(kind), Outcome.PASS, "as said", str(subject), version))

    def crown(self, model: str, version: str) -> None:
        """As if it had been released long ago."""
        self.champions[model] = version
        self._set(model, version, "champion")

    # -- reading

    def version(self, model: str, version: str | int) -> VersionRecord:
        with self._call("version"):
            return self._version(model, str(version))

    def champion(self, model: str) -> VersionRecord | None:
        with self._call("champion"):
            found = self.champions.get(model)
            return None if found is None else self._version(model, found)

    def pending(self, model: str) -> VersionRecord | None:
        with self._call("pending"):
            running = self._running(model)
            if running is not None:
                return self._version(model, running.version)
            least = int(self.champions.get(model) or 0)
            ready = [
                record
                for (name, version), record in self.versions_.items()
                if name == model and record.ready and record.state == "candidate" and int(version) > least
            ]
            return max(ready, key=lambda record: int(record.version), default=None)

    def rollout(self, rollout_id: str) -> RolloutRecord:
        with self._call("rollout"):
            return self._rollout(rollout_id)

    def rollouts(self, model: str, *, limit: int = 100) -> list[RolloutRecord]:
        with self._call("rollouts"):
            mine = [one for one in self.rollouts_ if one.model == model]
            return sorted(mine, key=lambda one: -one.token)[:limit]

    def explain(self, model: str, version: str | int, to: str = "champion") -> Explanation:
        with self._call("explain"):
            running = self._running(model)
            inside = running is not None and str(version) in (running.version, *running.beside)
            lacking = missing(self.policy_, self._facts(model, str(version), inside))
            return Explanation(not lacking, tuple(lacking), {})

    def policy(self, model: str) -> dict[str, Any]:
        with self._call("policy"):
            return self.policy_.model_dump(mode="json")

    def verdicts(
        self,
        model: str,
        *,
        subject: str | None = None,
        kind: str | None = None,
        version: str | int | None = None,
        limit: int = 100,
    ) -> list[PostedVerdict]:
        with self._call("verdicts"):
            found = [
                posted
                for posted in self.posted.values()
                if posted.verdict.model == model
                and subject in (None, posted.verdict.subject)
                and kind in (None, str(posted.verdict.kind))
                and version in (None, posted.verdict.version)
            ]
            return sorted(found, key=lambda posted: -posted.seq)[:limit]

    def orders_of(self, rollout_id: str) -> tuple[list[Any], list[str]]:
        with self._call("orders_of"):
            return [], []

    # -- writing

    def post_verdict(self, verdict: Verdict) -> str:
        with self._call("post_verdict"):
            return self._keep(verdict)

    def open_rollout(
        self, model: str, version: str | int, *, plan: dict[str, Any], holder: str, correlation_id: str | None
    ) -> RolloutRecord:
        version = str(version)
        with self._call("open_rollout"):
            found = self._version(model, version)
            token = max((one.token for one in self.rollouts_ if one.model == model), default=0) + 1
            running = self._running(model)
            if running is not None:
                if running.version != version or list(running.beside) != list(plan.get("beside") or ()):
                    raise RefusedError(f"a rollout of version {running.version} is open", code="WT_ROLLOUT_RUNNING")
                if running.holder == holder:
                    return running
                return self._change(running, holder=holder, token=token)
            before = [one for one in self.rollouts_ if (one.model, one.version, one.holder) == (model, version, holder)]
            if before:
                return max(before, key=lambda one: one.token)
            if not found.ready:
                raise RefusedError(f"version {version} is {found.status}, not READY", code="WT_NOT_READY")
            if self.champions.get(model) == version:
                raise RefusedError(f"version {version} is the champion already", code="WT_CHAMPION")
            watched = self._first_watched(model)
            if watched is not None:
                raise RefusedError(f"version {watched.version} is still being watched", code="WT_FIRST_WATCH")
            now = self.world.wall
            opened = RolloutRecord(
                id=f"r{len(self.rollouts_) + 1}", model=model, version=version, champion=self.champions.get(model),
                token=token, holder=holder, state="running", opened_at=now, updated_at=now, plan=plan,
                correlation_id=correlation_id,
            )  # fmt: skip
            self.rollouts_.append(opened)
            for one in (version, *opened.beside):
                self._set(model, one, "releasing")
            return opened

    def update_rollout(
        self,
        rollout_id: str,
        token: int,
        *,
        state: str | None = None,
        step: int | None = None,
        weight: float | None = None,
        reason: str | None = None,
    ) -> RolloutRecord:
        with self._call("update_rollout"):
            current = self._rollout(rollout_id)
            self._fence(current, token)
            if current.ended:
                if current.watching and state == current.state == "promoted":
                    return self._change(current, watching=False)
                if state in (None, current.state):
                    return current
                raise RefusedError(f"the rollout has ended ({current.state})", code="WT_ENDED")
            if state is not None and state not in MOVES[current.state]:
                raise RefusedError(f"a rollout that is {current.state} cannot become {state}", code="WT_STATE")
            given = {"state": state, "step": step, "weight": weight, "reason": reason}
            changed = self._change(current, **{name: value for name, value in given.items() if value is not None})
            if state in ("rolled_back", "withdrawn"):
                for one in (current.version, *current.beside):
                    self._set(current.model, one, state)
            return changed

    def promote(
        self, rollout_id: str, token: int, expected_champion: str | int | None, *, version: str | None = None
    ) -> VersionRecord:
        expected = None if expected_champion is None else str(expected_champion)
        with self._call("promote"):
            current = self._rollout(rollout_id)
            model, named = current.model, (current.version, *current.beside)
            champion = self.champions.get(model)
            if version is None and current.beside:
                raise RefusedError(f"versions {named} are released together: name one", code="WT_REQUEST")
            version = version or current.version
            if version not in named:
                raise RefusedError(f"version {version} is none of {named}", code="WT_REQUEST")
            if current.state == "promoted" and champion == version:
                return self._version(model, version)
            self._expect(model, champion, expected)
            self._fence(current, token)
            if current.ended:
                raise RefusedError(f"the rollout has ended ({current.state})", code="WT_ENDED")
            lacking = missing(self.policy_, self._facts(model, version, True))
            if lacking:
                raise RefusedError(
                    f"version {version} may not become champion", code="WT_POLICY", missing=tuple(lacking)
                )
            if champion is not None:
                self._set(model, champion, "archived")
            for one in named:
                self._set(model, one, "champion" if one == version else "rolled_back")
            self._change(current, state="promoted", watching=bool(current.plan.get("first")))
            self.champions[model] = version
            self.commits.append((model, version))
            self._changed(model)
            return self._version(model, version)

    def withdraw(self, model: str, version: str | int, reason: str) -> VersionRecord:
        version = str(version)
        with self._call("withdraw"):
            if self._version(model, version).state == "withdrawn":
                return self._version(model, version)
            running = self._running(model) or self._first_watched(model)
            if self.champions.get(model) == version:
                self.champions[model] = None
            if running is not None and running.version == version:
                self._change(running, state="withdrawn", reason=reason, weight=0, watching=False)
            self._set(model, version, "withdrawn")
            self._changed(model)
            return self._version(model, version)

    # -- rules

    def _expect(self, model: str, champion: str | None, expected: str | None) -> None:
        if champion is not None and champion != expected:
            raise RefusedError(
                f"the champion of {model!r} is version {champion} now, not {expected}", code="WT_CONFLICT"
            )
        if champion is None and expected is not None:
            raise RefusedError(f"{model!r} has no champion now; expected version {expected}", code="WT_CONFLICT")

    def _fence(self, current: RolloutRecord, token: int) -> None:
        if token != current.token:
            raise FencedError(f"token {token} is not the present token {current.token}: {current.holder} holds it now")

    def _facts(self, model: str, version: str, inside: bool) -> Facts:
        record = self._version(model, version)
        judged = tuple(
            Judged(p.seq, p.id, str(p.verdict.kind), str(p.verdict.outcome), p.verdict.subject, False, p.verdict.reason)
            for p in self.posted.values()
            if p.verdict.model == model and p.verdict.subject in (record.digest, record.recipe["data"])
        )
        return Facts(
            record.status, record.digest, record.recipe["data"], _number(self.champions.get(model)), inside, judged
        )

    def _keep(self, verdict: Verdict) -> str:
        identifier = verdict.id
        if identifier not in self.posted:
            kept = replace(verdict, actor="service", created_at=self.world.wall)
            self.posted[identifier] = PostedVerdict(identifier, False, len(self.posted) + 1, kept)
        return identifier

    def _version(self, model: str, version: str) -> VersionRecord:
        found = self.versions_.get((model, version))
        if found is None:
            raise NotFoundError(f"model {model!r} has no version {version}")
        return found

    def _rollout(self, rollout_id: str) -> RolloutRecord:
        for one in self.rollouts_:
            if one.id == rollout_id:
                return one
        raise NotFoundError(f"there is no rollout {rollout_id!r}")

    def _running(self, model: str) -> RolloutRecord | None:
        return next((one for one in self.rollouts_ if one.model == model and not one.ended), None)

    def _first_watched(self, model: str) -> RolloutRecord | None:
        champion = self.champions.get(model)
        mine = [one for one in self.rollouts_ if one.model == model and one.watching and one.version == champion]
        return mine[-1] if mine else None

    def _set(self, model: str, version: str, state: str) -> None:
        self.versions_[model, version] = replace(self.versions_[model, version], state=state)

    def _change(self, current: RolloutRecord, **values: Any) -> RolloutRecord:
        ended = {"ended_at": self.world.wall} if values.get("state") in ENDED else {}
        changed = replace(current, **values, **ended, updated_at=self.world.wall)
        self.rollouts_[self.rollouts_.index(current)] = changed
        return changed

    def _changed(self, model: str) -> None:
        if self.on_change is not None:
            self.on_change(model)

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        self.world.edge(f"registry.{name}")
        if self.down:
            raise UnavailableError(f"the registry did not answer {name}")
        yield
        self.world.edge(f"registry.{name}!")
        if self.down:
            raise UnavailableError(f"the registry did not answer {name} in time")


def _number(version: str | None) -> int | None:
    return None if version is None else int(version)


# -- beside the traffic


class FakeLooks:
    """The look log of one model, in memory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.looks: list[dict[str, Any]] = []

    def append(self, look: dict[str, Any], *, after: Mapping[str, Any] | None) -> bool:
        with self.world.call("looks.append"):
            mine = self.read(look["rollout_id"])
            if (mine[-1] if mine else None) is not after:
                return False
            self.looks.append(look)
            return True

    def read(self, rollout_id: str) -> list[dict[str, Any]]:
        return [look for look in self.looks if look["rollout_id"] == rollout_id]

    tail = read


class FakeIntents:
    """The promoting intents, in memory, by the rules of ``serving.intent``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.found: dict[str, intent.Intent] = {}

    def begin(self, model: str, *, rollout_id: str, token: int, candidate: str, champion: str | None) -> intent.Intent:
        with self.world.call("intent.begin"):
            wanted = intent.Intent(model, rollout_id, token, candidate, champion, intent.PROMOTING, self.world.wall)
            self.found[model] = intent.merged(self.found.get(model), wanted)
            return self.found[model]

    def read(self, model: str) -> intent.Intent | None:
        return self.found.get(model)

    def clear(self, model: str, token: int | None = None) -> None:
        with self.world.call("intent.clear"):
            if intent.ours(self.found.get(model), token):
                del self.found[model]


def gather(serving: FakeServing, watch: Any, state: Any) -> Evidence:
    """What ``serving.lookout.gather`` finds where there is neither a copy on the disk nor a prediction log."""
    observed = serving.observe(watch.model)
    if observed.token > watch.token:
        raise FencedError(
            f"rollout {watch.rollout_id} is held with token {observed.token}, this gate has {watch.token}"
        )
    traffic = serving.traffic(watch.model)
    if observed.mirror:
        traffic = replace(traffic, arms={**traffic.arms, **traffic.shadow})
    arm = observed.arms.get(watch.version)
    server = serving.states[watch.model].servers.get(watch.version) if watch.model in serving.states else None
    return Evidence(
        traffic=traffic,
        observed_mirror=observed.mirror,
        observed_weight=arm.weight if arm else 0,
        ready=arm.ready if arm else False,
        aborted=observed.aborted,
        digest_ok=None if server is None else server.digest == watch.digest,
    )
