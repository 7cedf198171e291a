"""The Experiment that says what is wanted of a model, read, decided upon and written onto what was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from windtunnel.kube.client import Client
from windtunnel.serving.core2 import manifest
from windtunnel.serving.core2.kinds import EXPERIMENT
from windtunnel.serving.core2.settings import Core2
from windtunnel.serving.desired import State
from windtunnel.serving.seldon.objects import Objects


class Experiments(Objects):
    """The Experiments of one namespace, and what was last seen of each."""

    kind = EXPERIMENT
    absent = "install Seldon Core 2, or name another cluster"

    def __init__(self, seldon: Core2, client: Client, monotonic: Callable[[], float], deploys: bool = True) -> None:
        super().__init__(seldon, client, monotonic, deploys)
        self._core2 = seldon

    def _made(
        self, state: State, live: dict[str, Any] | None, journal: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        return manifest.experiment(state, self._core2, live, self._client.namespace, journal, keep=not self._deploys)

    def _written(self, live: dict[str, Any], wanted: State) -> bool:
        copies = self._made(wanted, live)["spec"].get("mirror")
        return super()._written(live, wanted) and (live.get("spec") or {}).get("mirror") == copies
