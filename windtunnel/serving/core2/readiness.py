"""Whether a version has answered for itself: its Model, then one real inference under its own name."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from windtunnel.errors import ClusterError, IntegrityError, NotReadyError, UnavailableError
from windtunnel.kube.answers import Answer
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import POD
from windtunnel.serving.backend import Arm
from windtunnel.serving.core2 import manifest, status
from windtunnel.serving.core2.experiments import Experiments
from windtunnel.serving.core2.parts import Parts
from windtunnel.serving.core2.settings import Core2
from windtunnel.serving.desired import Server
from windtunnel.serving.routing import PROBE_HEADER
from windtunnel.serving.seldon import record
from windtunnel.serving.seldon.objects import Fence
from windtunnel.serving.seldon.status import Trouble
from windtunnel.serving.seldon.status import trouble as trouble_of_pods
from windtunnel.serving.servers import tensors


class Readiness:
    """Asks versions of one namespace.

    Args:
        monotonic: seconds, of a clock that nobody sets.
    """

    def __init__(
        self, seldon: Core2, client: Client, objects: Experiments, parts: Parts, monotonic: Callable[[], float]
    ) -> None:
        self._seldon, self._client, self._objects, self._parts = seldon, client, objects, parts
        self._monotonic = monotonic

    def wait(self, model: str, arm: Arm, server: Server, fence: Fence) -> None:
        """Return when the version has answered a real inference.

        Raises:
            IntegrityError: its first step found other bytes than the sealed ones.
            NotReadyError: it did not answer within ``Serving.ready_within``, or cannot.
            FencedError: somebody else took over meanwhile.
        """
        limit = server.serving.ready_within.total_seconds()
        deadline, name = self._monotonic() + limit, f"{model} version {arm.version}"
        why = "its Model is not ready yet"
        while True:
            owner = self._objects.read(model)
            state = self._objects.state(model, owner)
            fence.check(state)
            live = self._parts.models(model).get(arm.version)
            if status.available(live, server):
                try:
                    return self.infer(model, arm.version, server)
                except UnavailableError as error:  # its routes may still be on their way
                    why = error.message
            else:
                if live is None and owner is not None:  # what was there was still going when it was to be made
                    self._parts.ensure(state, owner)
                found = self.trouble(model, arm.version, live)
                if found and found.integrity:
                    raise IntegrityError(f"{name}: {found.message}")
                if found and found.final:
                    raise NotReadyError(f"{name} cannot be loaded: {found.message}")
                why = (found.message if found else status.told(live)) or why
            if self._monotonic() > deadline:
                raise NotReadyError(
                    f"{name} was not ready within {limit:g} s: {why}", hint="raise serving.ready_within"
                )
            time.sleep(self._seldon.poll_s)

    def trouble(self, model: str, version: str, live: dict[str, Any] | None) -> Trouble | None:
        """What the version's pods say against it, else its Model."""
        try:
            pods = self._client.list(POD, labels=f"{record.MODEL}={model},{record.VERSION}={version}")
        except ClusterError as error:  # then only the operator's word is left
            return status.trouble(live) or Trouble(error.message, final=False)
        return trouble_of_pods(pods.get("items") or []) or status.trouble(live)

    def infer(self, model: str, version: str, server: Server) -> None:
        """One real inference under the version's own name, past the Experiment; without warm-up rows it is asked
        whether it is ready.

        Raises:
            UnavailableError: it did not answer.
            NotReadyError: the answer is not a prediction of this version.
        """
        name, timeout = manifest.name_of(model, version), server.serving.timeout.total_seconds()
        rows = server.settings.get("warmup") or []
        path = f"/v2/models/{model}/{'infer' if rows else 'ready'}"
        body = {"inputs": tensors([rows[0]])} if rows else None
        answer = self._ask(name, "POST" if rows else "GET", path, body, timeout)
        if answer.status in (404, 502, 503, 504):  # 404: the mesh knows no route of that name yet
            raise UnavailableError(f"{model} version {version} does not answer as {name}: {answer.message}")
        if answer.status != 200:
            raise NotReadyError(f"{model} version {version} answered {answer.status} to an inference: {answer.message}")
        said = answer.body.get("model_version") if isinstance(answer.body, dict) else None
        if rows and said != version:
            raise NotReadyError(f"the mesh's {name} answers for version {said}, not {version}")

    def _ask(self, name: str, method: str, path: str, body: Any, timeout_s: float) -> Answer:
        headers = {PROBE_HEADER: "1", manifest.HEADER: name}  # nobody's prediction
        if self._seldon.direct is None:
            service, _, port = self._seldon.mesh.partition(":")
            return self._client.through(service, port, method, path, body, headers=headers, timeout_s=timeout_s)
        import httpx

        url = self._seldon.direct.format(namespace=self._client.namespace, model="") + path
        try:
            with httpx.Client(timeout=timeout_s, trust_env=False) as client:
                said = client.request(method, url, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise UnavailableError(f"the mesh does not answer at {url}: {error!r}") from error
        return Answer.of(said.status_code, said.content, said.headers)
