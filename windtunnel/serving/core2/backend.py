"""``Core2Backend``: the contract of ``windtunnel.serving.backend`` by Seldon Core 2.

One Experiment per model carries what is wanted, whose token it is, the lease and an abort, and is the route itself: so
each change of them is one server-side apply that the API takes only while the object is what it was when it was read.
A Model and a Server per version follow from it. ``apply`` writes the Experiment, makes what follows, waits until each
version that will get more traffic has answered a real inference, writes the weights, and counts who answers.
``abort`` is one write; the candidates' Models go after it.

What is the same as for Core 1 is inherited from there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from windtunnel.errors import FencedError, UnavailableError, WindtunnelError
from windtunnel.kube.client import Client
from windtunnel.names import check_model_name
from windtunnel.serving import desired
from windtunnel.serving.backend import Arm, ArmStatus, Capability, Observed, Release
from windtunnel.serving.checks import check
from windtunnel.serving.core2 import manifest, status
from windtunnel.serving.core2.experiments import Experiments
from windtunnel.serving.core2.kinds import EXPERIMENT, MODEL, SERVER
from windtunnel.serving.core2.parts import Parts
from windtunnel.serving.core2.readiness import Readiness
from windtunnel.serving.core2.settings import Core2
from windtunnel.serving.desired import State
from windtunnel.serving.seldon import steps
from windtunnel.serving.seldon.backend import SeldonBackend
from windtunnel.serving.seldon.feed import Feed
from windtunnel.serving.seldon.gateway import Gateway
from windtunnel.serving.seldon.objects import Fence
from windtunnel.serving.target import rollback_target

if TYPE_CHECKING:
    from windtunnel.serving.prometheus import PrometheusTraffic


class Core2Backend(SeldonBackend):
    """``ServingBackend`` of one namespace of one cluster; its arguments are those of ``SeldonBackend``."""

    capabilities: frozenset[Capability] = manifest.CAPABILITIES

    def __init__(
        self,
        seldon: Core2,
        client: Client | None = None,
        *,
        read_mlmodel: Callable[[str, Arm], bytes] | None = None,
        traffic: PrometheusTraffic | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(seldon, client, read_mlmodel=read_mlmodel, traffic=traffic, clock=clock, monotonic=monotonic)
        self._core2, self.capabilities = seldon, manifest.capabilities(seldon)
        experiments = Experiments(seldon, self.client, monotonic)
        self._objects = experiments
        self._parts = Parts(seldon, self.client)
        self._answers = Readiness(seldon, self.client, experiments, self._parts, monotonic)
        self._gateway = Gateway(seldon, self.client, experiments, monotonic, manifest.route)

    # -- the contract

    def apply(self, release: Release) -> Observed:
        """See ``ServingBackend.apply``."""
        check(release)
        manifest.check(release, self._core2)
        model = release.model
        before = self._objects.state(model, self._objects.read(model))
        desired.accept(before, release)
        steps.check_same(before, release)
        fence = Fence(release.token)

        def begin(state: State) -> State:
            wanted = steps.deployed(desired.accept(state, release))
            return wanted if steps.waited_for(wanted) else self._routed(wanted)

        state = self._objects.change(model, begin, recent=True)
        try:
            self._follow(state)
            waiting = steps.waited_for(state)
            for arm in waiting:
                self._answers.wait(model, arm, state.servers[arm.version], fence)

            def route(now: State) -> State:
                fence.check(now)
                versions = {arm.version for arm in waiting}
                proven = {v: replace(s, proven=True) for v, s in now.servers.items() if v in versions}
                return self._routed(replace(now, servers=now.servers | proven))

            state = self._objects.change(model, route, recent=True)
            self._gateway.wait(state, before, fence)
        except FencedError:
            raise
        except WindtunnelError as error:
            self._give_up(before, release, error)
            self._tidy(model)
            raise
        self._tidy(model)
        return self.observe(model)

    def observe(self, model: str) -> Observed:
        """See ``ServingBackend.observe``. Two requests to the API; none while ``following``."""
        live = self._objects.look(model)
        return self._observed(model, live, self._objects.state(model, live))

    def abort(self, model: str, reason: str, by: str, *, token: int | None = None) -> Observed:
        """See ``ServingBackend.abort``. The Experiment without candidates is one request where nobody wrote since the
        last look, else one more to look; their Models are removed after it, now or by the next ``sweep``."""

        def take_back(state: State) -> State:
            aborted = desired.abort(state, reason, by, self._clock(), token)
            return state if aborted is state else steps.without(aborted, _candidates(state))

        return self._take(model, take_back)

    def drop(self, model: str, versions: Sequence[str], reason: str, *, token: int) -> Observed:
        """See ``ServingBackend.drop``. As ``abort``."""

        def take_out(state: State) -> State:
            left = desired.drop(state, versions, reason, self._clock(), token)
            return state if left is state else steps.without(left, list(left.dropped))

        return self._take(model, take_out)

    def check_target(self, model: str) -> list[str]:
        """See ``ServingBackend.check_target``.

        The version's pods verified its content before they served, and verify it again whenever it is loaded; here it
        is asked whether its Model is available, and for one inference under its own name.
        """
        state = self._objects.state(model, self._objects.read(check_model_name(model)))
        version = rollback_target(state)
        if version is None:
            return [f"{model} has no version to go back to: no champion beside a candidate, and no former one is warm"]
        name, server = f"{model} version {version}", state.servers.get(version)
        live = self._parts.models(model).get(version)
        if server is None or live is None:
            return [f"{name} is not deployed"]
        if not status.available(live, server):
            found = self._answers.trouble(model, version, live)
            why = found.message if found else status.told(live)
            return [f"{name}: its Model is not available{f': {why}' if why else ''}"]
        try:
            self._answers.infer(model, version, server)
        except WindtunnelError as error:
            return [error.message]
        return []

    # -- for the guard, and whoever looks after the house

    @contextlib.contextmanager
    def following(self, timeout_s: float = 30.0) -> Iterator[None]:
        """Meanwhile a list and a watch of each kind feed ``observe``, ``desired``, ``lagging`` and ``sweep`` of all
        models here.

        Raises:
            UnavailableError: a list did not come in time.
        """
        feeds = {kind: Feed(self.client, kind) for kind in (EXPERIMENT, MODEL, SERVER)}
        try:
            late = [kind.plural for kind, feed in feeds.items() if not feed.wait(timeout_s)]
            if late:
                raise UnavailableError(
                    f"{', '.join(late)} in namespace {self.client.namespace} could not be listed in {timeout_s:g} s",
                    hint=f"may these credentials list and watch {', '.join(late)}?",
                )
            self._objects.feed = feeds[EXPERIMENT]
            self._parts.feeds = feeds
            yield
        finally:
            self._objects.feed = None
            self._parts.feeds = {}
            for feed in feeds.values():
                feed.close()

    def sweep(self, now: float | None = None) -> list[str]:
        """Remove the versions whose time has come, and what a process that died has left; returns ``MODEL.vVERSION`` of
        the former. A model's last version stays in the record."""
        gone = super().sweep(now)
        for model in self.models():
            state = self._objects.state(model, self._objects.look(model))
            if state.servers:
                self._parts.tidy(state, partial(self._now, model))
        return gone

    # -- steps

    def _follow(self, state: State) -> None:
        """Make the Models and Servers that follow from the Experiment as it was written."""
        owner = self._objects.last(state.model)
        if owner is not None:
            self._parts.ensure(state, owner)

    def _take(self, model: str, transition: Callable[[State], State]) -> Observed:
        """Take versions out, if there is anything to take; once the gateway follows, their Models go."""
        taken: list[bool] = []

        def watched(state: State) -> State:
            left = transition(state)
            taken[:] = [left is not state]
            return left

        state = self._objects.change(model, watched, recent=True)
        self._gateway.soon(state)
        if any(taken):
            self._tidy(model)
        return self._observed(model, self._objects.last(model), state)

    def _tidy(self, model: str) -> None:
        # What cannot be removed now is by the next sweep or release: nobody's requests reach it.
        with contextlib.suppress(WindtunnelError):
            state = self._objects.state(model, self._objects.last(model))
            if state.servers:
                self._parts.tidy(state, partial(self._now, model))

    def _now(self, model: str) -> State:
        return self._objects.state(model, self._objects.read(model))

    def _unblocked(self, state: State) -> State:
        """Routes of an Experiment do not wait for versions that are not in it."""
        return state

    # -- reading back

    def _observed(self, model: str, live: dict[str, Any] | None, state: State) -> Observed:
        weights = manifest.weights(live) if live else {}
        versions = dict.fromkeys([*(arm.version for arm in state.release.arms()), *state.servers])
        models = self._parts.look(model, versions) if live and versions else {}
        return Observed(
            model=model,
            arms={v: self._arm(state, models.get(v), v, weights.get(v, 0)) for v in versions},
            token=state.release.token,
            rollout_id=state.release.rollout_id,
            aborted=str(state.aborted["reason"]) if state.aborted else None,
            lease_until=state.release.lease_until,
            mirror=manifest.mirrored(live) if live else 0,
        )

    def _arm(self, state: State, live: Mapping[str, Any] | None, version: str, weight: int) -> ArmStatus:
        server = state.servers.get(version)
        if server is None or live is None:
            return ArmStatus(version, weight, False, "absent")
        if not status.available(live, server):
            return ArmStatus(version, weight, False, "loading", status.told(live))
        needed = any(arm.version == version for arm in state.needed())
        return ArmStatus(version, weight, server.proven, "ready" if needed else "warm")

    def _source(self, model: str) -> PrometheusTraffic:
        with self._lock:
            if self._traffic is None:
                if self.seldon.prometheus is None:
                    raise UnavailableError(
                        f"there are no traffic numbers of model {model!r}: no Prometheus is set",
                        hint="set prometheus to the URL of the one that scrapes the agents of Seldon's Servers",
                    )
                from windtunnel.serving.prometheus import PrometheusTraffic
                from windtunnel.serving.promnames import SELDON_CORE2

                self._traffic = PrometheusTraffic(self.seldon.prometheus, SELDON_CORE2)
            return self._traffic


def _candidates(state: State) -> list[str]:
    return [arm.version for arm in state.release.candidates]
