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
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from windtunnel.errors import WindtunnelError
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import Kind
from windtunnel.serving.backend import Arm, Capability, Observed, Release
from windtunnel.serving.core2 import manifest
from windtunnel.serving.core2.experiments import Experiments
from windtunnel.serving.core2.kinds import EXPERIMENT, MODEL, SERVER
from windtunnel.serving.core2.parts import Parts
from windtunnel.serving.core2.readiness import Readiness
from windtunnel.serving.core2.settings import Core2
from windtunnel.serving.desired import State
from windtunnel.serving.seldon.backend import SeldonBackend
from windtunnel.serving.seldon.feed import Feed
from windtunnel.serving.seldon.gateway import Gateway
from windtunnel.serving.seldon.objects import Transition
from windtunnel.serving.seldon.readiness import Live

if TYPE_CHECKING:
    from windtunnel.serving.traffic.prometheus import PrometheusTraffic


class Core2Backend(SeldonBackend):
    """``ServingBackend`` of one namespace of one cluster; its arguments are those of ``SeldonBackend``."""

    capabilities: frozenset[Capability] = manifest.CAPABILITIES
    _scraped = "the agents of Seldon's Servers"
    _kinds = (EXPERIMENT, MODEL, SERVER)

    def __init__(
        self,
        seldon: Core2,
        client: Client | None = None,
        *,
        read_mlmodel: Callable[[str, Arm], bytes] | None = None,
        traffic: PrometheusTraffic | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        deploys: bool = True,
    ) -> None:
        super().__init__(
            seldon,
            client,
            read_mlmodel=read_mlmodel,
            traffic=traffic,
            clock=clock,
            monotonic=monotonic,
            deploys=deploys,
        )
        self._core2, self.capabilities = seldon, manifest.capabilities(seldon)
        experiments = Experiments(seldon, self.client, monotonic, deploys)
        self._objects = experiments
        self._parts = Parts(seldon, self.client, deploys)
        self._readiness = Readiness(seldon, self.client, experiments, self._parts, monotonic)
        self._gateway = Gateway(seldon, self.client, experiments, monotonic, manifest.route)

    # -- for the guard, and whoever looks after the house

    def _feed(self, feeds: dict[Kind, Feed]) -> None:
        super()._feed(feeds)
        self._parts.feeds = feeds

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

    def _check(self, release: Release) -> None:
        manifest.check(release, self._core2, deploys=self._deploys)

    def _follow(self, state: State) -> None:
        """Make the Models and Servers that follow from the Experiment as it was written."""
        owner = self._objects.last(state.model)
        if owner is not None:
            self._parts.ensure(state, owner)

    def _take(self, model: str, transition: Transition) -> Observed:
        """Take versions out, if there is anything to take: the Experiment without them is one write. Once the gateway
        follows, their Models go, now or by the next ``sweep``."""
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

    def _divided(self, live: Live) -> tuple[dict[str, int], int]:
        return manifest.weights(live), manifest.mirrored(live)

    def _speakers(self, model: str, live: Live, versions: Mapping[str, Any]) -> Mapping[str, Live]:
        """The Models, by the feed or one request more."""
        return self._parts.look(model, versions)
