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
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.errors import FencedError, UnavailableError, WindtunnelError, may_pass
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import SELDON_DEPLOYMENT, Kind
from windtunnel.names import check_model_name
from windtunnel.serving import desired
from windtunnel.serving.backend import Arm, ArmStatus, Capability, Observed, Release, Traffic
from windtunnel.serving.checks import check
from windtunnel.serving.desired import State
from windtunnel.serving.seldon import limits, manifest, record, status, steps
from windtunnel.serving.seldon.feed import Feed
from windtunnel.serving.seldon.gateway import Gateway
from windtunnel.serving.seldon.objects import Decision, Fence, Objects, Transition
from windtunnel.serving.seldon.readiness import Live, Readiness
from windtunnel.serving.seldon.settings import Seldon
from windtunnel.serving.target import rollback_target

if TYPE_CHECKING:
    from windtunnel.home import Home
    from windtunnel.serving.traffic.prometheus import PrometheusTraffic


class SeldonBackend:
    """``ServingBackend`` of one namespace of one cluster.

    Args:
        client: of the cluster; made from ``seldon.access`` unless told.
        read_mlmodel: ``MLmodel`` of a version, to compare signatures (``refusals``); by default from the registry of
            this process's home.
        traffic: where counters come from; made from ``seldon.prometheus`` unless told.
        clock, monotonic: seconds, since the epoch and of a clock that nobody sets.
        deploys: these settings are those of whoever releases. False (guards, commands): they may say less, so versions
            that are there stay as they were deployed, whatever is done to their traffic.
    """

    capabilities: frozenset[Capability] = manifest.CAPABILITIES
    #: Whom Prometheus scrapes there.
    _scraped = "Seldon's executors"
    _kinds: tuple[Kind, ...] = (SELDON_DEPLOYMENT,)

    def __init__(
        self,
        seldon: Seldon,
        client: Client | None = None,
        *,
        read_mlmodel: Callable[[str, Arm], bytes] | None = None,
        traffic: PrometheusTraffic | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        deploys: bool = True,
    ) -> None:
        self.seldon = seldon
        self.client = client or Client(seldon.access)
        self._read_mlmodel, self._traffic = read_mlmodel, traffic
        self._clock, self._deploys = clock, deploys
        self._objects = Objects(seldon, self.client, monotonic, deploys)
        self._readiness: Readiness = Readiness(seldon, self.client, self._objects, monotonic)
        self._gateway = Gateway(seldon, self.client, self._objects, monotonic)
        self._lock = threading.Lock()

    # -- the contract

    def refusals(self, release: Release) -> list[str]:
        """See ``ServingBackend.refusals``."""
        from windtunnel.serving.mismatch import release_refusals

        return release_refusals(None, release, self._read_mlmodel)

    def apply(self, release: Release, since: float | None = None) -> Observed:
        """See ``ServingBackend.apply``.

        Args:
            since: when ``begin`` wrote this release (seconds since the epoch): ``Serving.ready_within`` counts from
                then. None: from now.
        """
        before, state = self._begin(release)
        spent = 0.0 if since is None else max(0.0, self._clock() - since)
        fence = Fence(release.token)
        try:
            waiting = steps.waited_for(state)
            for arm in waiting:
                self._readiness.wait(release.model, arm, state.servers[arm.version], fence, spent)

            def route(now: State) -> State:
                fence.check(now)
                proven = {
                    v: replace(s, proven=True) for v, s in now.servers.items() if v in {a.version for a in waiting}
                }
                return self._routed(replace(now, servers=now.servers | proven))

            state = self._objects.change(release.model, route, recent=True)
            self._gateway.wait(state, before, fence)
        except FencedError:
            raise
        except WindtunnelError as error:
            self._give_up(before, release, error)
            self._tidy(release.model)
            raise
        self._tidy(release.model)
        return self.observe(release.model)

    def begin(self, release: Release) -> list[str]:
        """The first part of ``apply``, which waits for nobody: what is asked is written, and versions that are new come
        up without traffic. ``apply`` of the same release goes on from there, in any process.

        Returns:
            Versions that must answer before traffic moves (``unready`` tells when); none: all of it is done already, or
            ``apply`` does the rest without waiting for a version.

        Raises: as ``apply``.
        """
        return [arm.version for arm in steps.waited_for(self._begin(release)[1])]

    def unready(self, model: str, token: int) -> str | None:
        """Why a version that ``begin`` has asked for has not answered a real inference yet; None when all have. One
        look: by the watch while ``following``, and one request for pods while one is not available.

        Raises:
            FencedError: somebody else took over, or aborted.
            IntegrityError, NotReadyError: it never will; ``apply`` says the same, and takes back what was begun.
            UnavailableError: the API does not answer, or refuses who is asking. What was begun it took from the same
                credentials: it may take them again, and whoever waits knows for how long.
        """
        try:
            return self._unready(model, token)
        except WindtunnelError as error:
            if not may_pass(error):
                raise
            raise UnavailableError(error.message, hint=error.hint) from error

    def _unready(self, model: str, token: int) -> str | None:
        owner = self._objects.look(model)
        state = self._objects.state(model, owner)
        if state.release.token < token:
            return "the cluster's watch has not told of the release yet"
        Fence(token).check(state)
        for arm in steps.waited_for(state):
            why = self._readiness.look(state, owner, arm.version, state.servers[arm.version])
            if why is not None:
                return f"version {arm.version}: {why}"
        return None

    def _begin(self, release: Release) -> tuple[State, State]:
        """Write down what is asked; the state before, and as it was written."""
        check(release)
        self._check(release)
        before = self._objects.state(release.model, self._objects.read(release.model))
        limits.check_api(release, before.servers, self.seldon)
        desired.accept(before, release)
        steps.check_same(before, release)

        def begin(state: State) -> State:
            wanted = steps.deployed(desired.accept(state, release))
            return wanted if steps.waited_for(wanted) else self._routed(wanted)

        state = self._objects.change(release.model, begin, recent=True)
        try:
            self._follow(state)
        except FencedError:
            raise
        except WindtunnelError as error:
            self._give_up(before, release, error)
            self._tidy(release.model)
            raise
        return before, state

    def observe(self, model: str) -> Observed:
        """See ``ServingBackend.observe``. One request to the API; none while ``following``."""
        live = self._objects.look(model)
        return self._observed(model, live, self._objects.state(model, live))

    def renew(self, model: str, token: int, until: float) -> None:
        """See ``ServingBackend.renew``. One request where nobody wrote since the last look; none where the look itself,
        written down a moment ago, has renewed the lease (``looked``)."""
        live = self._objects.just_written(model)
        if live is not None:
            now = self._objects.state(model, live)
            if (now.release.token, now.release.lease_until, now.aborted) == (token, until, None):
                return
        self._objects.change(model, lambda state: desired.renew(state, token, until), recent=True)

    def abort(self, model: str, reason: str, by: str, *, token: int | None = None) -> Observed:
        """See ``ServingBackend.abort``. One request where nobody wrote since the last look, else one more to look.

        The candidates' predictors are removed, not only set to 0: behind Istio the operator changes no route while any
        predictor's pods are not available, and a candidate that crashes is what aborts are for. For the same reason
        versions that are kept warm go, too, when their pods are not available.
        """

        def take_back(state: State) -> State:
            aborted = desired.abort(state, reason, by, self._clock(), token)
            if aborted is state:
                return state
            return self._unblocked(steps.without(aborted, [arm.version for arm in state.release.candidates]))

        return self._take(model, take_back)

    def drop(self, model: str, versions: Sequence[str], reason: str, *, token: int) -> Observed:
        """See ``ServingBackend.drop``. As ``abort``."""

        def take_out(state: State) -> State:
            left = desired.drop(state, versions, reason, self._clock(), token)
            return state if left is state else self._unblocked(steps.without(left, list(left.dropped)))

        return self._take(model, take_out)

    def check_target(self, model: str) -> list[str]:
        """See ``ServingBackend.check_target``.

        The version's pods verified its content before they served, and verify it again whenever its server starts; here
        it is asked whether they are available, and for one inference of its own.
        """
        live = self._objects.look(check_model_name(model))
        state = self._objects.state(model, live)
        version = rollback_target(state)
        if version is None:
            return [f"{model} has no version to go back to: no champion beside a candidate, and no former one is warm"]
        name, server = f"{model} version {version}", state.servers.get(version)
        speaker = self._readiness.speaker(model, version, live)
        if server is None or speaker is None:
            return [f"{name} is not deployed"]
        if why := self._readiness.unavailable(model, version, server, speaker):
            return [f"{name}: {why}"]
        try:
            self._readiness.infer(model, version, server)
        except WindtunnelError as error:
            return [error.message]
        return []

    def traffic(self, model: str) -> Traffic:
        """See ``ServingBackend.traffic``. While requests are copied to the candidate, its counts are ``shadow``; where
        copies begin or end a new epoch begins, for Seldon counts both under one name."""
        source = self._source(model)
        live = self._objects.recent(model)
        state = self._objects.state(model, live)
        gone = {*state.dropped, *(arm.version for arm in state.release.candidates if state.aborted)}
        found = source.traffic(model, without=gone)
        copied = [arm.version for arm in state.release.candidates] if state.release.mirror else []
        return replace(
            found,
            epoch=f"{found.epoch}/{state.release.rollout_id or ''}/{'copies' if copied else 'arms'}",
            arms={version: arm for version, arm in found.arms.items() if version not in copied},
            shadow={version: arm for version, arm in found.arms.items() if version in copied},
        )

    # -- what a release must find again, whoever goes on with it

    def journal(self, model: str) -> dict[str, str]:
        """Annotations of the release's looks and intent (``journal``); none while ``following``, else one request."""
        return record.kept(self._objects.look(model))

    def journals(self) -> dict[str, dict[str, str]]:
        """``journal`` of every model here. One request; none while ``following``."""
        return {model: record.kept(live) for model, live in self._objects.everything().items()}

    def keep(self, model: str, decision: Decision) -> None:
        """Change them, and the state with them, in one write. Nothing is kept where no version was ever deployed."""
        self._objects.decide(model, decision, recent=True)

    def looked(self, state: State, look: Mapping[str, Any]) -> State:
        """What a look that is written down does to the traffic in the same write: it renews the lease, or takes the
        candidates back, or the first champion, who holds no lease. The gate's own ``renew`` finds it done; the way back
        finds nobody left to move."""
        release, decision = state.release, look["decision"]
        if (release.rollout_id, release.token) != (look["rollout_id"], look.get("token")) or state.aborted:
            return state
        if decision["action"] in ("roll_back", "withdraw"):
            stopped = desired.abort(state, str(decision["reason"]), "gate", float(look["at"]), release.token)
            if stopped is state:
                return desired.withdraw(state, float(look["at"])) if decision["action"] == "withdraw" else state
            return self._unblocked(steps.without(stopped, [arm.version for arm in release.candidates]))
        if release.lease_until is None or not release.lease_s:
            return state
        return desired.renew(state, release.token, float(look["at"]) + release.lease_s)

    def digest(self, model: str, version: str) -> str | None:
        """Digest that the version's pods have verified their files by before they served; None where it has none."""
        server = self._objects.state(model, self._objects.recent(model)).servers.get(version)
        return server.digest if server is not None and server.proven else None

    def bring_rows(self, home: Home, model: str, since: float) -> None:
        """Fetch what the collector has written of ``model`` in the hours from ``since`` on into ``home.predictions``,
        and the labels beside it into ``home.labels``, where gates and the watch read them; nothing where
        ``Seldon.predictions`` is not set.

        Raises:
            UnavailableError, DataError: as ``windtunnel.serving.collector.bringing.bring``.
        """
        if self.seldon.predictions is not None:
            from windtunnel.serving.collector import bringing
            from windtunnel.serving.predictions import labelstore

            bringing.bring(self.seldon.predictions, home.predictions, model, since)
            labelstore.bring(self.seldon.predictions, home.labels, model)

    # -- for the guard, and whoever looks after the house

    @contextlib.contextmanager
    def following(self, timeout_s: float = 30.0) -> Iterator[None]:
        """Meanwhile a list and a watch of each kind (here one kind) feed ``observe``, ``desired``, ``lagging``,
        ``journal`` and ``sweep`` of all models here.

        Raises:
            UnavailableError: a list did not come in time.
        """
        feeds = {kind: Feed(self.client, kind) for kind in self._kinds}
        try:
            late = [kind.plural for kind, feed in feeds.items() if not feed.wait(timeout_s)]
            if late:
                raise UnavailableError(
                    f"{', '.join(late)} in namespace {self.client.namespace} could not be listed in {timeout_s:g} s",
                    hint=f"may these credentials list and watch {', '.join(late)}?",
                )
            self._feed(feeds)
            yield
        finally:
            self._feed({})
            for feed in feeds.values():
                feed.close()

    def _feed(self, feeds: dict[Kind, Feed]) -> None:
        """Look by these; by requests where there are none."""
        self._objects.feed = feeds.get(self._objects.kind)

    def desired(self, model: str) -> Release | None:
        """The release that was last accepted (after an abort: with its candidates at 0); None when there was none."""
        release = self._objects.state(model, self._objects.look(model)).release
        return release if release.arms() else None

    def asked(self, model: str) -> Release | None:
        """``desired`` by the API's own word, whatever the watch tells. One request."""
        release = self._objects.state(model, self._objects.read(check_model_name(model))).release
        return release if release.arms() else None

    def silence(self) -> float:
        """Seconds that ``desired`` may be behind the API: since the watch heard it last; 0 where it is asked itself."""
        feed = self._objects.feed
        return feed.silence if feed is not None and feed.believed else 0.0

    def foreign(self, model: str) -> bool:
        """Whether another registry than ours releases the model, as was seen last."""
        return self._objects.foreign(model)

    def lagging(self, model: str) -> bool:
        """Whether traffic was told otherwise than is wanted: an ``apply`` is under way, or died."""
        return desired.lagging(self._objects.state(model, self._objects.look(model)))

    def models(self) -> list[str]:
        """All models that have an object of ours in the namespace. One request; none while ``following``."""
        return self._objects.models()

    def sweep(self, now: float | None = None) -> list[str]:
        """Remove the predictors whose time has come; returns ``MODEL.vVERSION`` of each. The last one of a model stays,
        without replicas: the object carries the fencing token."""
        at, gone = self._clock() if now is None else now, []
        for model in self.models():
            state = self._objects.state(model, self._objects.look(model))
            due = desired.due(state, at)
            if not due or len(due) >= len(state.servers):
                continue
            self._objects.change(model, lambda state: steps.without(state, desired.due(state, at)), recent=True)
            gone += [f"{model}.v{version}" for version in due]
        return gone

    def counted(self, model: str) -> dict[str, int]:
        """Answers by version behind the gateway, counted now (``Seldon.split_requests`` requests); under ``""`` those
        that were no predictions.

        Raises:
            ServingError: there is no gateway to ask, or no row to ask with.
            UnavailableError: it does not answer.
        """
        return self._gateway.count(self._objects.state(model, self._objects.read(check_model_name(model))))

    # -- steps of apply

    def _check(self, release: Release) -> None:
        """Refuse what these settings and this API cannot do."""
        manifest.check(release, self.seldon if self._deploys else None)

    def _follow(self, state: State) -> None:
        """Make what follows from the object as it was written: here nothing, the operator does."""

    def _tidy(self, model: str) -> None:
        """Remove what does not follow from it any more: here nothing, the operator does."""

    def _routed(self, state: State) -> State:
        return desired.routed(replace(state, failed=None), self._clock())

    def _give_up(self, before: State, release: Release, error: WindtunnelError) -> None:
        """The release could not be reached: what was wanted before is wanted again; the token stays spent.

        Not a release that was under way, where the champion alone has all traffic by now, as asked: that follows the
        registry, which has committed it, and another try of the same may have reached it. The candidate would come back
        with its lease, and the guard would take the registry's champion to 0 when that ends.
        """
        same = steps.identity(before.release) == steps.identity(release)

        def back(state: State) -> State:
            if steps.identity(state.release) != steps.identity(release) or state.aborted:
                return state
            if not desired.lagging(state):
                if not release.candidates and (same or before.release.exposed):
                    return replace(state, failed=str(error.message))
                if same and release.candidates and not release.exposed:
                    return steps.untried(state, release, str(error.message), self._clock())
            old = replace(before.release, token=release.token)
            kept = replace(state, release=old, aborted=before.aborted, failed=str(error.message), slots=before.slots)
            kept = replace(kept, route=before.route, warm=before.warm, dropped=before.dropped)
            return steps.without(kept, [version for version in kept.servers if version not in before.servers])

        with contextlib.suppress(WindtunnelError):
            self._objects.change(release.model, back)

    def _unblocked(self, state: State) -> State:
        """Without the versions that serve nobody and are not available: no change of routes waits for their pods."""
        live = self._objects.last(state.model) or {}
        arms = {arm.version for arm in state.needed()} | set(state.slots)
        idle = [
            version
            for version, server in state.servers.items()
            if version not in arms and not status.available(live, state.model, version, server)
        ]
        return steps.without(state, idle)

    # -- reading back

    def _take(self, model: str, transition: Transition) -> Observed:
        """Take versions out; what the object says once the gateway follows, or after a moment: it is sent by then."""
        state = self._objects.change(model, transition, recent=True)
        self._gateway.soon(state)
        return self._observed(model, self._objects.last(model), state)

    def _observed(self, model: str, live: Live | None, state: State) -> Observed:
        weights, copied = self._divided(live) if live else ({}, 0)
        versions = dict.fromkeys([*(arm.version for arm in state.release.arms()), *state.servers])
        speakers = self._speakers(model, live, versions) if live and versions else {}
        return Observed(
            model=model,
            arms={v: self._arm(state, speakers.get(v), v, weights.get(v, 0)) for v in versions},
            token=state.release.token,
            rollout_id=state.release.rollout_id,
            aborted=str(state.aborted["reason"]) if state.aborted else None,
            lease_until=state.release.lease_until,
            mirror=copied,
        )

    def _divided(self, live: Live) -> tuple[dict[str, int], int]:
        """Percent by version, and percent copied, as the object says."""
        return manifest.weights(live), manifest.mirrored(live)

    def _speakers(self, model: str, live: Live, versions: Mapping[str, Any]) -> Mapping[str, Live]:
        """By version, the object that speaks for it (``Readiness.speaker``), as it was seen last."""
        return dict.fromkeys(versions, live)

    def _arm(self, state: State, live: Live | None, version: str, weight: int) -> ArmStatus:
        server = state.servers.get(version)
        if server is None or live is None:
            return ArmStatus(version, weight, False, "absent")
        if not self._readiness.available(live, state.model, version, server):
            gone = server.proven and self._readiness.gone(live, state.model, version, weight)
            return ArmStatus(version, weight, False, "down" if gone else "loading", self._readiness.told(live))
        needed = any(arm.version == version for arm in state.needed())
        return ArmStatus(version, weight, server.proven, "ready" if needed else "warm")

    def _source(self, model: str) -> PrometheusTraffic:
        with self._lock:
            if self._traffic is None:
                if self.seldon.prometheus is None:
                    raise UnavailableError(
                        f"there are no traffic numbers of model {model!r}: no Prometheus is set",
                        hint=f"set prometheus to the URL of the one that scrapes {self._scraped}",
                    )
                from windtunnel.serving.traffic.prometheus import PrometheusTraffic

                names = self.seldon.names.only(self.client.namespace, self.seldon.prometheus_labels)
                token = self.seldon.prometheus_token_file
                self._traffic = PrometheusTraffic(
                    self.seldon.prometheus,
                    names,
                    token_file=Path(token) if token else None,
                    verify=self.seldon.prometheus_ca or True,
                    stale_after_s=self.seldon.prometheus_stale_s,
                )
            return self._traffic
