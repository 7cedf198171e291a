"""``SeldonBackend``: the contract of ``windtunnel.serving.backend`` by one SeldonDeployment per model.

What is wanted, whose token it is, the lease and an abort stand in the object's annotations, and change with it in one
server-side apply that the API takes only while the object is what it was when it was read. So two holders can never
mix their writes, and killing ``apply`` anywhere leaves an object that says what was wanted.

``apply`` has two writes at most: the versions, with the traffic as it is; then, when each version that will get more
traffic has answered a real inference, the traffic. With a gateway to ask, the answers behind it are counted until they
come from these weights. ``abort`` is one write: the candidates' predictors are gone, the champion has everything.

Everything it needs is the API, and the gateway; no home, no registry, no Airflow.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from windtunnel.errors import (
    AbsentError,
    ConflictError,
    FencedError,
    IntegrityError,
    NotReadyError,
    ServingError,
    UnavailableError,
    WindtunnelError,
)
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import POD, SELDON_DEPLOYMENT
from windtunnel.names import check_model_name
from windtunnel.serving import desired
from windtunnel.serving.backend import Arm, ArmStatus, Capability, Observed, Release, Traffic
from windtunnel.serving.checks import check
from windtunnel.serving.desired import Server, State
from windtunnel.serving.routing import PROBE_HEADER
from windtunnel.serving.seldon import manifest, record, split, status
from windtunnel.serving.seldon.settings import Seldon
from windtunnel.serving.servers import tensors
from windtunnel.serving.target import rollback_target

if TYPE_CHECKING:
    from windtunnel.serving.prometheus import PrometheusTraffic

#: How often a change is decided anew because somebody else, the operator's status mostly, wrote in between.
_CONFLICTS = 12
#: An object read less than this ago is fresh enough to tell copied requests from others.
_FRESH_S = 5.0

#: How long ``abort`` waits for the gateway's answers to follow; what it wrote will be followed anyway.
_ABORT_ACKNOWLEDGED_S = 2.0

Transition = Callable[[State], State]


@dataclass(frozen=True, slots=True)
class _Seen:
    """An object as it was read: None when there is none."""

    live: dict[str, Any] | None
    at: float


class SeldonBackend:
    """``ServingBackend`` of one namespace of one cluster.

    Args:
        client: of the cluster; made from ``seldon.access`` unless told.
        read_mlmodel: ``MLmodel`` of a version, to compare signatures (``refusals``); by default from the registry of
            this process's home.
        traffic: where counters come from; made from ``seldon.prometheus`` unless told.
        clock, monotonic: seconds, since the epoch and of a clock that nobody sets.
    """

    capabilities: frozenset[Capability] = manifest.CAPABILITIES

    def __init__(
        self,
        seldon: Seldon,
        client: Client | None = None,
        *,
        read_mlmodel: Callable[[str, Arm], bytes] | None = None,
        traffic: PrometheusTraffic | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seldon = seldon
        self.client = client or Client(seldon.access)
        self._read_mlmodel, self._traffic = read_mlmodel, traffic
        self._clock, self._monotonic = clock, monotonic
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()

    # -- the contract

    def refusals(self, release: Release) -> list[str]:
        """See ``ServingBackend.refusals``."""
        from windtunnel.serving.mismatch import release_refusals

        return release_refusals(None, release, self._read_mlmodel)

    def apply(self, release: Release) -> Observed:
        """See ``ServingBackend.apply``."""
        check(release)
        manifest.check(release)
        before = self._state(release.model, self._read(release.model))
        desired.accept(before, release)
        self._check_same(before, release)
        fence = _Fence(release.token)

        def begin(state: State) -> State:
            wanted = _deployed(desired.accept(state, release))
            return wanted if _waited_for(wanted) else self._routed(wanted)

        state = self._change(release.model, begin)
        try:
            waiting = _waited_for(state)
            for arm in waiting:
                self._await_ready(release.model, arm, state.servers[arm.version], fence)

            def route(now: State) -> State:
                fence.check(now)
                proven = {
                    v: replace(s, proven=True) for v, s in now.servers.items() if v in {a.version for a in waiting}
                }
                return self._routed(replace(now, servers=now.servers | proven))

            state = self._change(release.model, route)
            self._await_split(state, before, fence)
        except FencedError:
            raise
        except WindtunnelError as error:
            self._give_up(before, release, error)
            raise
        return self.observe(release.model)

    def observe(self, model: str) -> Observed:
        """See ``ServingBackend.observe``. One request to the API."""
        live = self._read(check_model_name(model))
        return self._observed(model, live, self._state(model, live))

    def renew(self, model: str, token: int, until: float) -> None:
        """See ``ServingBackend.renew``. One request where nobody wrote since the last look."""
        self._change(model, lambda state: desired.renew(state, token, until), recent=True)

    def abort(self, model: str, reason: str, by: str, *, token: int | None = None) -> Observed:
        """See ``ServingBackend.abort``. One request where nobody wrote since the last look, else one more to look.

        The candidates' predictors are removed, not only set to 0: behind Istio the operator changes no route while any
        predictor's pods are not available, and a candidate that crashes is what aborts are for.
        """

        def take_back(state: State) -> State:
            aborted = desired.abort(state, reason, by, self._clock(), token)
            if aborted is state:
                return state
            return _without(aborted, [arm.version for arm in state.release.candidates])

        return self._soon(self._change(model, take_back, recent=True))

    def drop(self, model: str, versions: Sequence[str], reason: str, *, token: int) -> Observed:
        """See ``ServingBackend.drop``. As ``abort``."""

        def take_out(state: State) -> State:
            left = desired.drop(state, versions, reason, self._clock(), token)
            return state if left is state else _without(left, list(left.dropped))

        return self._soon(self._change(model, take_out, recent=True))

    def check_target(self, model: str) -> list[str]:
        """See ``ServingBackend.check_target``.

        The version's pods verified its content before they served, and verify it again whenever its server starts; here
        it is asked whether they are available, and for one inference.
        """
        live = self._read(check_model_name(model))
        state = self._state(model, live)
        version = rollback_target(state)
        if version is None:
            return [f"{model} has no version to go back to: no champion beside a candidate, and no former one is warm"]
        name, server = f"{model} version {version}", state.servers.get(version)
        if server is None or live is None:
            return [f"{name} is not deployed"]
        if not status.available(live, model, version, server):
            found = self._trouble(model, version)
            return [f"{name}: its pods are not available{f': {found.message}' if found else ''}"]
        try:
            self._infer(model, version, server)
        except WindtunnelError as error:
            return [error.message]
        return []

    def traffic(self, model: str) -> Traffic:
        """See ``ServingBackend.traffic``. While requests are copied to the candidate, its counts are ``shadow``; where
        copies begin or end a new epoch begins, for Seldon counts both under one name."""
        source = self._source(model)
        live = self._recent(model)
        state = self._state(model, live)
        gone = {*state.dropped, *(arm.version for arm in state.release.candidates if state.aborted)}
        found = source.traffic(model, without=gone)
        copied = [arm.version for arm in state.release.candidates] if state.release.mirror else []
        return replace(
            found,
            epoch=f"{found.epoch}/{state.release.rollout_id or ''}/{'copies' if copied else 'arms'}",
            arms={version: arm for version, arm in found.arms.items() if version not in copied},
            shadow={version: arm for version, arm in found.arms.items() if version in copied},
        )

    # -- for the guard, and whoever looks after the house

    def desired(self, model: str) -> Release | None:
        """The release that was last accepted (after an abort: with its candidates at 0); None when there was none."""
        release = self._state(model, self._read(check_model_name(model))).release
        return release if release.arms() else None

    def lagging(self, model: str) -> bool:
        """Whether traffic was told otherwise than is wanted: an ``apply`` is under way, or died."""
        return desired.lagging(self._state(model, self._read(check_model_name(model))))

    def models(self) -> list[str]:
        """All models that have an object of ours in the namespace. One request."""
        listed = self.client.list(SELDON_DEPLOYMENT, labels=record.MODEL)
        for one in listed.get("items") or []:
            self._keep(str(one["metadata"]["name"]), one)
        return sorted(str(one["metadata"]["name"]) for one in listed.get("items") or [])

    def sweep(self, now: float | None = None) -> list[str]:
        """Remove the predictors whose time has come; returns ``MODEL.vVERSION`` of each. The last one of a model stays,
        without replicas: the object carries the fencing token."""
        at, gone = self._clock() if now is None else now, []
        for model in self.models():
            state = self._state(model, self._seen[model].live)
            due = desired.due(state, at)
            if not due or len(due) >= len(state.servers):
                continue
            self._change(model, lambda state: _without(state, desired.due(state, at)), recent=True)
            gone += [f"{model}.v{version}" for version in due]
        return gone

    def counted(self, model: str) -> dict[str, int]:
        """Answers by version behind the gateway, counted now (``Seldon.split_requests`` requests); under ``""`` those
        that were no predictions.

        Raises:
            ServingError: there is no gateway to ask, or no row to ask with.
            UnavailableError: it does not answer.
        """
        state = self._state(model, self._read(check_model_name(model)))
        body = _question(state)
        if self.seldon.gateway is None or body is None:
            raise ServingError(
                f"{model}: who answers cannot be counted",
                hint="set the gateway's URL, and give the release warm-up rows",
            )
        return dict(self._count(state, body))

    # -- changes

    def _change(self, model: str, transition: Transition, *, recent: bool = False) -> State:
        """Decide and write, anew whenever somebody else wrote in between; the state that stands then.

        Args:
            recent: decide by what was read last, if anything was. The API refuses the write when that is no longer so;
                what leads to no write at all, or to a refusal, is decided again by a new look.
        """
        look = recent and model in self._seen
        for attempt in range(_CONFLICTS):
            live = self._seen[model].live if look else self._read(model)
            state = self._state(model, live)
            try:
                wanted = transition(state)
            except WindtunnelError:
                if look:
                    look = False
                    continue
                raise
            if wanted is state or not wanted.servers:
                if look and wanted is state:
                    look = False
                    continue
                return wanted
            if live is not None and self._written(live, wanted):
                if look:
                    look = False
                    continue
                return wanted
            try:
                self._write(model, live, wanted)
                return wanted
            except ConflictError:
                look = False
                time.sleep(random.uniform(0, 0.05) * attempt)
        raise UnavailableError(
            f"{model}: its SeldonDeployment was changed by others {_CONFLICTS} times while it was to be written",
            hint="who writes to it all the time? 'kubectl get sdep -o yaml --show-managed-fields' tells",
        )

    def _written(self, live: dict[str, Any], wanted: State) -> bool:
        """Whether the object says all of this already."""
        ours = manifest.deployment(wanted, self.seldon, live, self.client.namespace)
        metadata, mine = live["metadata"], ours["metadata"]
        return (
            all((metadata.get("annotations") or {}).get(name) == text for name, text in mine["annotations"].items())
            and all((metadata.get("labels") or {}).get(name) == text for name, text in mine["labels"].items())
            and (live.get("spec") or {}).get("predictors") == ours["spec"]["predictors"]
            and (live.get("spec") or {}).get("protocol") == ours["spec"]["protocol"]
        )

    def _write(self, model: str, live: dict[str, Any] | None, state: State) -> None:
        ours = manifest.deployment(state, self.seldon, live, self.client.namespace)
        if live is None:
            made = self.client.create(SELDON_DEPLOYMENT, ours)
        else:
            made = self.client.apply(SELDON_DEPLOYMENT, ours)
        self._keep(model, made)

    def _read(self, model: str) -> dict[str, Any] | None:
        try:
            live = self.client.get(SELDON_DEPLOYMENT, model)
        except AbsentError as error:
            raise ServingError(
                f"{model}: this cluster serves no SeldonDeployments ({error.message})",
                hint="install Seldon Core 1, or name another cluster",
            ) from error
        self._keep(model, live)
        return live

    def _keep(self, model: str, live: dict[str, Any] | None) -> None:
        with self._lock:
            self._seen[model] = _Seen(live, self._monotonic())

    def _recent(self, model: str) -> dict[str, Any] | None:
        seen = self._seen.get(model)
        if seen is not None and self._monotonic() - seen.at < _FRESH_S:
            return seen.live
        return self._read(check_model_name(model))

    def _state(self, model: str, live: dict[str, Any] | None) -> State:
        """The state on the object; that of a model never deployed where there is none.

        Raises:
            ServingError: the object is somebody else's, or is being deleted.
        """
        if live is None:
            return State(Release(check_model_name(model), None))
        if live["metadata"].get("deletionTimestamp"):
            raise ServingError(
                f"{model}: its SeldonDeployment is being deleted", hint="wait until it is gone, then release it again"
            )
        state = record.state_of(live)
        if state is None:
            raise ServingError(
                f"{model}: there is a SeldonDeployment of that name which is not Windtunnel's",
                hint="delete it, or give the model another name; nothing was changed",
            )
        return state

    # -- steps of apply

    def _check_same(self, state: State, release: Release) -> None:
        for arm in release.arms():
            known = state.servers.get(arm.version)
            if known and known.digest != arm.digest and arm.version in state.slots:
                raise IntegrityError(
                    f"{release.model} version {arm.version} serves with digest {known.digest}, asked is {arm.digest}",
                    hint="a version never changes: register the other content as a version of its own",
                )

    def _routed(self, state: State) -> State:
        return desired.routed(replace(state, failed=None), self._clock())

    def _await_ready(self, model: str, arm: Arm, server: Server, fence: _Fence) -> None:
        """Return when the version has answered a real inference.

        Raises:
            IntegrityError: its first step found other bytes than the sealed ones.
            NotReadyError: it did not answer within ``Serving.ready_within``, or cannot.
            FencedError: somebody else took over meanwhile.
        """
        limit = server.serving.ready_within.total_seconds()
        deadline, name = self._monotonic() + limit, f"{model} version {arm.version}"
        why = "its pods are not available yet"
        while True:
            live = self._read(model)
            fence.check(self._state(model, live))
            if live is not None and status.available(live, model, arm.version, server):
                try:
                    return self._infer(model, arm.version, server)
                except UnavailableError as error:  # its routes may still be on their way
                    why = error.message
            else:
                found = self._trouble(model, arm.version)
                if found and found.integrity:
                    raise IntegrityError(f"{name}: {found.message}")
                if found and found.final:
                    raise NotReadyError(f"{name} cannot be loaded: {found.message}")
                why = (found.message if found else status.told(live or {})) or why
            if self._monotonic() > deadline:
                raise NotReadyError(
                    f"{name} was not ready within {limit:g} s: {why}", hint="raise serving.ready_within"
                )
            time.sleep(self.seldon.poll_s)

    def _trouble(self, model: str, version: str) -> status.Trouble | None:
        pods = self.client.list(POD, labels=f"{record.MODEL}={model},{record.VERSION}={version}")
        return status.trouble(pods.get("items") or [])

    def _infer(self, model: str, version: str, server: Server) -> None:
        """One real inference by this version's own Service, past the gateway; without warm-up rows it is asked whether
        it is ready.

        Raises:
            UnavailableError: it did not answer.
            NotReadyError: the answer is not a prediction of this version.
        """
        service, timeout = manifest.service_name(model, version), server.serving.timeout.total_seconds()
        rows = server.settings.get("warmup") or []
        path = f"/v2/models/{model}"
        if not rows:
            answer = self.client.through(service, "http", "GET", f"{path}/ready", timeout_s=timeout)
        else:
            body = {"inputs": tensors([rows[0]])}
            ours = {PROBE_HEADER: "1"}  # nobody's prediction
            answer = self.client.through(
                service, "http", "POST", f"{path}/infer", body, headers=ours, timeout_s=timeout
            )
        if answer.status in (502, 503, 504) or (answer.status == 404 and answer.told):
            raise UnavailableError(f"{model} version {version} does not answer by service {service}: {answer.message}")
        if answer.status != 200:
            raise NotReadyError(f"{model} version {version} answered {answer.status} to an inference: {answer.message}")
        said = answer.body.get("model_version") if isinstance(answer.body, dict) else None
        if rows and said != version:
            raise NotReadyError(f"service {service} answers for version {said}, not {version}")

    def _await_split(self, state: State, before: State, fence: _Fence) -> None:
        """Return when the answers behind the gateway come from the weights; at once where they cannot be counted.

        Raises:
            ServingError: they do not come from them in time.
        """
        body = _question(state)
        if self.seldon.gateway is None or body is None or state.weights == before.weights or not state.slots:
            return
        deadline = self._monotonic() + self.seldon.route_within_s
        while True:
            counts = self._count(state, body)
            why = split.differs(counts, state.weights)
            if why is None:
                return
            fence.check(self._state(state.model, self._read(state.model)))
            if self._monotonic() > deadline:
                told = status.told(self._seen[state.model].live or {})
                raise ServingError(
                    f"{state.model}: weights were set and are not served: {why}{f' ({told})' if told else ''}",
                    hint="the operator or the gateway has not followed; traffic is set back to what it was",
                )
            time.sleep(self.seldon.poll_s)

    def _soon(self, state: State) -> Observed:
        """What the object says, once the gateway follows, or after a while: the rollback is sent by then."""
        body, until = _question(state), self._monotonic() + _ABORT_ACKNOWLEDGED_S
        while self.seldon.gateway is not None and body is not None and self._monotonic() < until:
            try:
                if split.differs(self._count(state, body, 10), state.weights) is None:
                    break
            except UnavailableError:
                break
            time.sleep(min(self.seldon.poll_s, 0.2))
        return self._observed(state.model, self._seen[state.model].live, state)

    def _count(self, state: State, body: bytes, requests: int | None = None) -> dict[str, int]:
        assert self.seldon.gateway is not None
        base = self.seldon.gateway.format(namespace=self.client.namespace, model=state.model)
        timeout = max(s.serving.timeout.total_seconds() for s in state.servers.values())
        return dict(split.count(base, state.model, body, requests or self.seldon.split_requests, timeout))

    def _give_up(self, before: State, release: Release, error: WindtunnelError) -> None:
        """The release could not be reached: what was wanted before is wanted again; the token stays spent."""

        def back(state: State) -> State:
            if _identity(state.release) != _identity(release) or state.aborted:
                return state
            old = replace(before.release, token=release.token)
            kept = replace(state, release=old, aborted=before.aborted, failed=str(error.message), slots=before.slots)
            kept = replace(kept, route=before.route, warm=before.warm, dropped=before.dropped)
            return _without(kept, [version for version in kept.servers if version not in before.servers])

        with contextlib.suppress(WindtunnelError):
            self._change(release.model, back)

    # -- reading back

    def _observed(self, model: str, live: dict[str, Any] | None, state: State) -> Observed:
        weights = manifest.weights(live) if live else {}
        versions = dict.fromkeys([*(arm.version for arm in state.release.arms()), *state.servers])
        return Observed(
            model=model,
            arms={version: self._status(state, live, version, weights.get(version, 0)) for version in versions},
            token=state.release.token,
            rollout_id=state.release.rollout_id,
            aborted=str(state.aborted["reason"]) if state.aborted else None,
            lease_until=state.release.lease_until,
            mirror=manifest.mirrored(live) if live else 0,
        )

    def _status(self, state: State, live: dict[str, Any] | None, version: str, weight: int) -> ArmStatus:
        server = state.servers.get(version)
        if server is None or live is None:
            return ArmStatus(version, weight, False, "absent")
        if not status.available(live, state.model, version, server):
            return ArmStatus(version, weight, False, "loading", status.told(live))
        needed = any(arm.version == version for arm in state.needed())
        return ArmStatus(version, weight, server.proven, "ready" if needed else "warm")

    def _source(self, model: str) -> PrometheusTraffic:
        with self._lock:
            if self._traffic is None:
                if self.seldon.prometheus is None:
                    raise UnavailableError(
                        f"there are no traffic numbers of model {model!r}: no Prometheus is set",
                        hint="set prometheus to the URL of the one that scrapes Seldon's executors",
                    )
                from windtunnel.serving.prometheus import PrometheusTraffic

                self._traffic = PrometheusTraffic(self.seldon.prometheus)
            return self._traffic


class _Fence:
    """Whether the holder who began with ``token`` may still go on."""

    def __init__(self, token: int) -> None:
        self._token = token

    def check(self, state: State) -> None:
        """Raise FencedError when another holder wrote, or somebody aborted, since we began."""
        if state.release.token != self._token:
            raise FencedError(
                f"{state.model}: token {self._token} no longer holds the rollout, {state.release.token} does",
                hint="this rollout was taken over: stop writing",
            )
        if state.aborted is not None:
            raise FencedError(
                f"{state.model}: the rollout was aborted by {state.aborted['by']}: {state.aborted['reason']}",
                hint="its candidates get no traffic; a new rollout (with a new token) may begin",
            )


def _deployed(state: State) -> State:
    """Each version that is needed has a predictor; one that is up keeps its settings."""
    servers = dict(state.servers)
    for arm in state.needed():
        if arm.version in state.dropped:
            continue  # taken out of this rollout: its predictor is gone, and stays so
        known, settings = servers.get(arm.version), state.release.settings.get(arm.version)
        same = known if known and known.digest == arm.digest else None
        if same and (same.proven or settings is None):
            settings = same.settings
        servers[arm.version] = Server(
            arm.digest, arm.source, 0, bool(same and same.proven), bool(same and same.served), settings or {}
        )
    return replace(state, servers=servers)


def _waited_for(state: State) -> list[Arm]:
    """Arms that must have answered before traffic moves: those that never did, or get more traffic than they have.

    A champion that serves already is not waited for when it takes back what a candidate had.
    """
    if manifest.asleep(replace(state, slots=())):
        return []
    found = []
    for arm in state.needed():
        server = state.servers.get(arm.version)
        if server is None:
            continue
        now = state.weights.get(arm.version, 0)
        more = arm.weight > now and not (server.served and now > 0)
        copies = state.release.mirror and "mirror" not in state.route and arm in state.release.candidates
        if not server.proven or more or copies:
            found.append(arm)
    return found


def _without(state: State, versions: Sequence[str]) -> State:
    """Those predictors removed; but never the last, which an object must have."""
    if not set(state.servers) - set(versions):
        return state
    return desired.forget(state, list(versions))


def _identity(release: Release) -> tuple[Any, ...]:
    """What tells one write of a release from another; settings stand elsewhere, a lease may be renewed meanwhile."""
    return release.token, release.rollout_id, release.stage, release.champion, release.candidates, release.mirror


def _question(state: State) -> bytes | None:
    """A request that each version can answer: the heaviest one's first warm-up row; None where there is none."""
    heaviest = max(state.weights, key=lambda version: state.weights[version], default=None)
    server = state.servers.get(heaviest) if heaviest else None
    rows = (server.settings.get("warmup") or []) if server else []
    return json.dumps({"inputs": tensors([rows[0]])}).encode() if rows else None
