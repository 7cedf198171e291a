"""The Kubernetes API, or Prometheus, is away for minutes, from any request of a release on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

from airborne import MODEL, Flight, hooked
from kubeapi import Fault
from seldonsky import ClusterSky, agree

#: How it is away. ``lost``: the first request is carried out, its answer and all that follows are cut; ``hang``: no
#: request is answered, each ends with its time-out; ``prometheus``: the API is there, traffic has no numbers.
How = Literal["503", "401", "cut", "lost", "hang", "prometheus"]
#: What one request may take, of production's own client.
TIMEOUT_S = 15.0


class Outage:
    """One, of one world. ``fly`` begins it and goes on until all is quiet.

    Args:
        at: number of the request that it begins with; ``deploy``: it begins when the triggerer waits for a version;
            None: there is none.

    Attributes:
        asked: requests so far.
        first: what it began with; None while it has not begun.
        back_at: when it ended.
        before: the champion before the release; None where it is the model's first.
        exposed_s: of how many seconds after the outage the candidate had traffic, where it had some when it ended.
    """

    def __init__(
        self, sky: ClusterSky, *, at: int | Literal["deploy"] | None, how: How = "503", seconds: float = 180.0
    ) -> None:
        self.sky, self.at, self.how, self.seconds = sky, at, how, seconds
        self.before: str | None = sky.registry.champions.get(MODEL)
        self.asked = 0
        self.first: str | None = None
        self.back_at: float | None = None
        self.exposed_s = 0.0
        self._exposed = False
        self._until = float("inf")
        self._resting = False

    def fly(self, dag: Any) -> Flight:
        """A release, which this outage befalls; and then as long as it takes until nothing is wrong any more."""
        sky = self.sky
        flight = Flight(sky, dag, tick_s=4.0)
        advance = sky.world.advance

        def later(seconds: float) -> None:
            if self._exposed and self._meets_candidate():
                self.exposed_s += seconds
            advance(seconds)
            self._end_if_due()

        def nap(seconds: float) -> None:
            """A worker that waits before it asks again is not the only one: the guard does its rounds."""
            if self._resting:
                later(seconds)
                return
            told, sky.world.on_edge, self._resting = sky.world.on_edge, None, True
            try:
                flight.wait(seconds)
            finally:
                sky.world.on_edge, self._resting = told, False

        def deploying(trigger: Any) -> dict[str, Any]:
            """``DeployTrigger.run`` by this world's clock; its first event."""
            if self.at == "deploy" and self.first is None:
                self._begin("deploy")

            async def now(call: Any) -> Any:
                return call()

            async def sleep(seconds: float) -> None:
                nap(seconds)

            async def event() -> Any:
                return await anext(trigger.run())

            trigger.backend = lambda: sky.triggerer.backend
            ours = {"asyncio": SimpleNamespace(sleep=sleep), "time": SimpleNamespace(time=sky.now), "_in_thread": now}
            with patch.multiple("windtunnel_airflow.triggers", **ours):
                return dict(asyncio.run(event()).payload)

        rounds = flight.wait

        def wait(seconds: float) -> None:
            before, self._resting = self._resting, True
            try:
                rounds(seconds)
            finally:
                self._resting = before

        flight.wait = wait  # type: ignore[method-assign]
        sky.world.advance = later  # type: ignore[method-assign]
        sky.nap, sky.on_request, flight.deploying = nap, self._request, deploying
        clock = SimpleNamespace(sleep=nap, monotonic=lambda: sky.world.real)
        with hooked(lambda: sky), patch("windtunnel_airflow.operators.undo.time", clock):
            flight.fly(4 * 3600.0)
            for _ in range(60):
                flight.wait(10.0)
                if self.over and not self._wrong():
                    break
            self.at = None if self.first is None else self.at  # who looks now meets no outage
            for _ in range(2):  # on Core 2 a Server goes after its Model
                sky.guard.tend()
        return flight

    @property
    def over(self) -> bool:
        """It has been, or there was none to be."""
        return self.at is None or self.back_at is not None or self.first is None

    def _wrong(self) -> list[str]:
        """``agree``, by requests that do not count."""
        told, self.sky.on_request = self.sky.on_request, lambda _, timeout: timeout
        try:
            return agree(self.sky)
        finally:
            self.sky.on_request = told

    def _request(self, name: str, timeout: tuple[float, float]) -> tuple[float, float]:
        self.asked += 1
        if self.asked == self.at:
            self._begin(name)
        if self.sky.cluster.away == "hang":
            self.sky.world.advance(TIMEOUT_S)
        return (timeout[0], 0.03) if self.sky.cluster.away == "hang" else timeout

    def _begin(self, name: str) -> None:
        self.first, self._until = name, self.sky.world.real + self.seconds
        if self.how == "prometheus":
            self.sky.seldon.blind = True
        elif self.how == "lost":
            self.sky.cluster.faults.append(Fault(match=".", done=True))
            self.sky.cluster.away = "cut"
        else:
            self.sky.cluster.away = int(self.how) if self.how.isdigit() else self.how

    def _end_if_due(self) -> None:
        if self.sky.world.real < self._until:
            return
        self.sky.cluster.away, self.sky.seldon.blind = "", False
        self.back_at, self._until = self.sky.world.real, float("inf")
        self._exposed = self._meets_candidate()

    def _meets_candidate(self) -> bool:
        return bool(self.sky.weights().keys() - {self.before})


def wrong(sky: ClusterSky, flight: Flight, outage: Outage, *, harmful: bool) -> list[str]:
    """What must not be, after all."""
    found = agree(sky)
    champion, before = sky.registry.champions.get(MODEL), outage.before
    candidate = "2" if before else "1"
    if champion not in ((before,) if harmful else (before, candidate)):
        found.append(f"champion {champion}")
    if harmful and outage.exposed_s > 30.0:
        found.append(f"a harmful candidate kept its traffic for {outage.exposed_s:g} s after the API was back")
    if not outage.over:
        found.append("the outage did not end")
    outcome = flight.run.states["outcome"]
    if (outcome == "success") != (champion == candidate):
        found.append(f"outcome {outcome}, champion {champion}")
    for task, state in flight.run.states.items():
        if state == "failed" and not flight.run.why.get(task):
            found.append(f"{task} does not say why it failed")
    if champion == before and (left := deployed(sky) - {before}):
        found.append(f"versions {sorted(left)} are still deployed")
    return found


def deployed(sky: ClusterSky) -> set[str]:
    """Versions that have anything in the cluster that runs."""
    predictors = [one for one in sky.live()["spec"].get("predictors") or [] if one.get("replicas", 1)]
    parts = [one for plural in ("models", "servers") if plural in sky.cluster.kinds for one in sky.cluster.all(plural)]
    return {str(one["name"]).removeprefix("v") for one in predictors} | {
        str(one["metadata"]["labels"]["windtunnel.io/version"]) for one in parts
    }
