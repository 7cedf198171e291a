"""Whether a version has answered for itself on Core 2: its Model, then one real inference under its own name."""

from __future__ import annotations

from collections.abc import Callable

from windtunnel.kube.answers import Answer
from windtunnel.kube.client import Client
from windtunnel.serving.core2 import manifest, status
from windtunnel.serving.core2.experiments import Experiments
from windtunnel.serving.core2.parts import Parts
from windtunnel.serving.core2.settings import Core2
from windtunnel.serving.desired import Server, State
from windtunnel.serving.routing import PROBE_HEADER
from windtunnel.serving.seldon import readiness
from windtunnel.serving.seldon.readiness import Live, Way
from windtunnel.serving.seldon.status import Trouble


class Readiness(readiness.Readiness):
    """As for Core 1; a Model speaks for its version, and the mesh is asked for it by its name."""

    part = "Model is"

    def __init__(
        self, seldon: Core2, client: Client, objects: Experiments, parts: Parts, monotonic: Callable[[], float]
    ) -> None:
        super().__init__(seldon, client, objects, monotonic)
        self._core2, self._parts = seldon, parts

    def speaker(self, model: str, version: str, owner: Live | None) -> Live | None:
        return self._parts.models(model).get(version)

    def available(self, live: Live | None, model: str, version: str, server: Server) -> bool:
        return status.available(live, server)

    def gone(self, live: Live, model: str, version: str, weight: int) -> bool:
        """Only where it has everything: else the scheduler gives its share to those before it."""
        return weight == 100 and not status.replicas(live)

    def told(self, live: Live | None) -> str:
        return status.told(live)

    def against(self, live: Live | None) -> Trouble | None:
        return status.trouble(live)

    def missing(self, state: State, owner: Live) -> None:
        """What was there was still going when it was to be made."""
        self._parts.ensure(state, owner)

    def way(self, model: str, version: str) -> Way:
        """To the version's Model by the mesh, past the Experiment."""
        name, direct = manifest.name_of(model, version), self._seldon.direct
        service, _, port = self._core2.mesh.partition(":")
        url = direct.format(namespace=self._client.namespace, model="") if direct is not None else None
        return Way(f"the mesh's {name}", service, port, url, {PROBE_HEADER: "1", manifest.HEADER: name})

    def unknown(self, answer: Answer) -> bool:
        """The mesh answers 404 also where it has no route of that name yet."""
        return answer.status == 404
