"""Whether a version has answered for itself: the API's word for it first, then one real inference under its own name.

The same for both of Seldon's APIs; which object speaks for a version, and which way leads to it alone, is each API's
own (``core2.readiness``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from windtunnel import tls
from windtunnel.errors import ClusterError, IntegrityError, NotReadyError, UnavailableError
from windtunnel.kube.answers import AGAIN, Answer
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import POD
from windtunnel.serving.backend import Arm
from windtunnel.serving.desired import Server, State
from windtunnel.serving.local.servers import tensors
from windtunnel.serving.seldon import manifest, record, split, status
from windtunnel.serving.seldon.objects import Fence, Objects
from windtunnel.serving.seldon.settings import Seldon

#: An object of the API.
Live = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Way:
    """How to ask one version, and no other.

    Attributes:
        name: what it is called, for messages.
        service, port: by the API's proxy.
        url: instead of that; None: by the proxy.
        headers: that the request needs to get there.
    """

    name: str
    service: str
    port: str
    url: str | None
    headers: Mapping[str, str]


class Readiness:
    """Asks versions of one namespace.

    Args:
        monotonic: seconds, of a clock that nobody sets.
    """

    #: What is not available while a version is not.
    part = "pods are"

    def __init__(self, seldon: Seldon, client: Client, objects: Objects, monotonic: Callable[[], float]) -> None:
        self._seldon, self._client, self._objects, self._monotonic = seldon, client, objects, monotonic

    def wait(self, model: str, arm: Arm, server: Server, fence: Fence, spent_s: float = 0.0) -> None:
        """Return when the version has answered a real inference.

        Args:
            spent_s: seconds that somebody has waited for it already.

        Raises:
            IntegrityError: its first step found other bytes than the sealed ones.
            NotReadyError: it did not answer within ``Serving.ready_within``, or cannot.
            FencedError: somebody else took over meanwhile.
        """
        limit = server.serving.ready_within.total_seconds()
        deadline = self._monotonic() + limit - spent_s
        while True:
            owner = self._objects.read(model)
            state = self._objects.state(model, owner)
            fence.check(state)
            why = self.look(state, owner, arm.version, server)
            if why is None:
                return
            if self._monotonic() > deadline:
                raise NotReadyError(
                    f"{model} version {arm.version} was not ready within {limit:g} s: {why}",
                    hint="raise serving.ready_within",
                )
            time.sleep(self._seldon.poll_s)

    def look(self, state: State, owner: Live | None, version: str, server: Server) -> str | None:
        """Why a version has not answered a real inference yet, by one look; None when it has, just now.

        Raises:
            IntegrityError: its first step found other bytes than the sealed ones.
            NotReadyError: it cannot be loaded, or its answer is none.
        """
        model, name = state.model, f"{state.model} version {version}"
        live = self.speaker(model, version, owner)
        if self.available(live, model, version, server):
            try:
                self.infer(model, version, server)
            except UnavailableError as error:  # its routes may still be on their way
                return error.message
            return None
        if live is None and owner is not None:
            self.missing(state, owner)
        found = self.trouble(model, version, live)
        if found and found.integrity:
            raise IntegrityError(f"{name}: {found.message}")
        if found and found.final:
            raise NotReadyError(f"{name} cannot be loaded: {found.message}")
        return (found.message if found else self.told(live)) or f"its {self.part} not available yet"

    def unavailable(self, model: str, version: str, server: Server, live: Live) -> str | None:
        """Why the version's servers are not there, as a sentence; None when they are."""
        if self.available(live, model, version, server):
            return None
        found = self.trouble(model, version, live)
        why = found.message if found else self.told(live)
        return f"its {self.part} not available{f': {why}' if why else ''}"

    def infer(self, model: str, version: str, server: Server) -> None:
        """One real inference by the version alone, past what divides requests; without warm-up rows it is asked
        whether it is ready.

        Raises:
            UnavailableError: it did not answer.
            NotReadyError: the answer is not a prediction of this version.
        """
        way, timeout = self.way(model, version), server.serving.timeout.total_seconds()
        rows = server.settings.get("warmup") or []
        path = f"/v2/models/{model}/{'infer' if rows else 'ready'}"
        body = {"inputs": tensors([rows[0]])} if rows else None
        answer = self._ask(way, "POST" if rows else "GET", path, body, timeout)
        # What the API itself says for the moment, that it is busy mostly, or has forgotten who we are, is no answer of
        # the version's.
        busy = answer.status in (502, 503, 504) or (answer.told and answer.status in (401, *AGAIN))
        if busy or self.unknown(answer):
            raise UnavailableError(f"{model} version {version} does not answer by {way.name}: {answer.message}")
        if answer.status != 200:
            raise NotReadyError(f"{model} version {version} answered {answer.status} to an inference: {answer.message}")
        said = answer.body.get("model_version") if isinstance(answer.body, dict) else None
        if rows and said != version:
            raise NotReadyError(f"{way.name} answers for version {said}, not {version}")

    # -- what the API's own objects say

    def speaker(self, model: str, version: str, owner: Live | None) -> Live | None:
        """The object that speaks for a version; here the model's own, which ``owner`` is."""
        return owner

    def available(self, live: Live | None, model: str, version: str, server: Server) -> bool:
        """Whether the version has its servers, as that object says."""
        return live is not None and status.available(live, model, version, server)

    def gone(self, live: Live, model: str, version: str, weight: int) -> bool:
        """Whether the version has no server left, so that its ``weight`` of the requests is nobody's. No executor
        counts them: a pod whose model server is away is out of its Service, and the gateway itself answers 503."""
        return status.replicas(live, model, version) == 0

    def told(self, live: Live | None) -> str:
        """What the operator says against that object; empty where it says nothing."""
        return status.told(live or {})

    def trouble(self, model: str, version: str, live: Live | None) -> status.Trouble | None:
        """What the version's pods say against it, else that object; None when they say nothing bad."""
        try:
            pods = self._client.list(POD, labels=f"{record.MODEL}={model},{record.VERSION}={version}")
        except ClusterError as error:  # then only the operator's word is left
            return self.against(live) or status.Trouble(error.message, final=False)
        items = pods.get("items") or []
        return status.trouble(items) or self.against(live) or (None if items else self._nobody(model, version, live))

    def _nobody(self, model: str, version: str, live: Live | None) -> status.Trouble:
        """No pod is there. Why none is made is told to nobody whom we may ask: the API refuses the Deployment's
        (on Core 2 the StatefulSet's) controller, not us and not Seldon's operator."""
        said = self.told(live)
        return status.Trouble(
            f"no pod of it is there{f' ({said})' if said else ''}; where that stays so, a quota, a LimitRange or an "
            f"admission policy may refuse them: 'kubectl -n {self._client.namespace} get events' tells",
            final=False,
        )

    def against(self, live: Live | None) -> status.Trouble | None:
        """What the object says that waiting does not mend; None when it says nothing such."""
        return None

    def missing(self, state: State, owner: Live) -> None:
        """The model is there, and nothing that speaks for the version."""

    def way(self, model: str, version: str) -> Way:
        """To the version's own Service."""
        service, direct = manifest.service_name(model, version), self._seldon.direct
        url = direct.format(service=service, namespace=self._client.namespace) if direct is not None else None
        return Way(f"service {service}", service, "http", url, split.PROBE)

    def unknown(self, answer: Answer) -> bool:
        """Whether nobody is found by that way, yet."""
        return answer.status == 404 and bool(answer.told)

    def _ask(self, way: Way, method: str, path: str, body: Any, timeout_s: float) -> Answer:
        if way.url is None:
            return self._client.through(
                way.service, way.port, method, path, body, headers=way.headers, timeout_s=timeout_s
            )
        import httpx

        url = way.url + path
        try:
            verify = url.startswith("https:") and tls.authorities()
            with httpx.Client(timeout=timeout_s, trust_env=False, verify=verify) as client:
                said = client.request(method, url, json=body, headers=dict(way.headers))
        except httpx.HTTPError as error:
            raise UnavailableError(f"{way.name} does not answer at {url}: {error!r}") from error
        return Answer.of(said.status_code, said.content, said.headers)
