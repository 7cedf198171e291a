"""Whether a version has answered for itself: its pods, then one real inference by its own Service."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from windtunnel.errors import ClusterError, IntegrityError, NotReadyError, UnavailableError
from windtunnel.kube.answers import Answer
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import POD
from windtunnel.serving.backend import Arm
from windtunnel.serving.desired import Server
from windtunnel.serving.seldon import manifest, record, split, status
from windtunnel.serving.seldon.objects import Fence, Objects
from windtunnel.serving.seldon.settings import Seldon
from windtunnel.serving.servers import tensors


class Readiness:
    """Asks versions of one namespace.

    Args:
        monotonic: seconds, of a clock that nobody sets.
    """

    def __init__(self, seldon: Seldon, client: Client, objects: Objects, monotonic: Callable[[], float]) -> None:
        self._seldon, self._client, self._objects, self._monotonic = seldon, client, objects, monotonic

    def wait(self, model: str, arm: Arm, server: Server, fence: Fence) -> None:
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
            live = self._objects.read(model)
            fence.check(self._objects.state(model, live))
            if live is not None and status.available(live, model, arm.version, server):
                try:
                    return self.infer(model, arm.version, server)
                except UnavailableError as error:  # its routes may still be on their way
                    why = error.message
            else:
                found = self.trouble(model, arm.version)
                if found and found.integrity:
                    raise IntegrityError(f"{name}: {found.message}")
                if found and found.final:
                    raise NotReadyError(f"{name} cannot be loaded: {found.message}")
                why = (found.message if found else status.told(live or {})) or why
            if self._monotonic() > deadline:
                raise NotReadyError(
                    f"{name} was not ready within {limit:g} s: {why}", hint="raise serving.ready_within"
                )
            time.sleep(self._seldon.poll_s)

    def trouble(self, model: str, version: str) -> status.Trouble | None:
        try:
            pods = self._client.list(POD, labels=f"{record.MODEL}={model},{record.VERSION}={version}")
        except ClusterError as error:  # then only the operator's word is left
            return status.Trouble(error.message, final=False)
        return status.trouble(pods.get("items") or [])

    def infer(self, model: str, version: str, server: Server) -> None:
        """One real inference by this version's own Service, past the gateway; without warm-up rows it is asked whether
        it is ready.

        Raises:
            UnavailableError: it did not answer.
            NotReadyError: the answer is not a prediction of this version.
        """
        service, timeout = manifest.service_name(model, version), server.serving.timeout.total_seconds()
        rows = server.settings.get("warmup") or []
        path = f"/v2/models/{model}/{'infer' if rows else 'ready'}"
        body = {"inputs": tensors([rows[0]])} if rows else None
        answer = self._ask(service, "POST" if rows else "GET", path, body, timeout)
        if answer.status in (502, 503, 504) or (answer.status == 404 and answer.told):
            raise UnavailableError(f"{model} version {version} does not answer by service {service}: {answer.message}")
        if answer.status != 200:
            raise NotReadyError(f"{model} version {version} answered {answer.status} to an inference: {answer.message}")
        said = answer.body.get("model_version") if isinstance(answer.body, dict) else None
        if rows and said != version:
            raise NotReadyError(f"service {service} answers for version {said}, not {version}")

    def _ask(self, service: str, method: str, path: str, body: Any, timeout_s: float) -> Answer:
        ours = split.PROBE
        if self._seldon.direct is None:
            return self._client.through(service, "http", method, path, body, headers=ours, timeout_s=timeout_s)
        import httpx

        url = self._seldon.direct.format(service=service, namespace=self._client.namespace) + path
        try:
            with httpx.Client(timeout=timeout_s, trust_env=False) as client:
                said = client.request(method, url, json=body, headers=ours)
        except httpx.HTTPError as error:
            raise UnavailableError(f"service {service} does not answer at {url}: {error!r}") from error
        return Answer.of(said.status_code, said.content, said.headers)
