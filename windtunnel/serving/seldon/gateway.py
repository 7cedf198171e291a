"""The gateway in front of a model: who answers there, and whether that is who should."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping

from windtunnel.errors import ServingError, UnavailableError
from windtunnel.kube.client import Client
from windtunnel.serving.desired import State
from windtunnel.serving.local.servers import tensors
from windtunnel.serving.seldon import split, status
from windtunnel.serving.seldon.objects import Fence, Objects
from windtunnel.serving.seldon.settings import Seldon

#: How long ``soon`` waits for the gateway's answers to follow; what was written will be followed anyway.
_ACKNOWLEDGED_S = 2.0
#: Requests of one of its counts.
_FEW = 10


class Gateway:
    """Asks the gateway that ``Seldon.gateway`` names; where there is none, or no row to ask with, nothing is proven.

    Args:
        monotonic: seconds, of a clock that nobody sets.
        route: headers that the gateway tells a model's requests by; none where it does by their path.
    """

    def __init__(
        self,
        seldon: Seldon,
        client: Client,
        objects: Objects,
        monotonic: Callable[[], float],
        route: Callable[[str], Mapping[str, str]] = lambda model: {},
    ) -> None:
        self._seldon, self._client, self._objects, self._monotonic = seldon, client, objects, monotonic
        self._route = route

    def count(self, state: State, requests: int | None = None) -> dict[str, int]:
        """Answers by version to so many requests (``Seldon.split_requests``); under ``""`` those that were no
        predictions.

        Raises:
            ServingError: there is no gateway to ask, or no row to ask with.
            UnavailableError: it does not answer.
        """
        body = _question(state)
        if self._seldon.gateway is None or body is None:
            raise ServingError(
                f"{state.model}: who answers cannot be counted",
                hint="set the gateway's URL, and give the release warm-up rows",
            )
        base = self._seldon.gateway.format(namespace=self._client.namespace, model=state.model)
        timeout = max(server.serving.timeout.total_seconds() for server in state.servers.values())
        number, route = requests or self._seldon.split_requests, self._route(state.model)
        return dict(split.count(base, state.model, body, number, timeout, route))

    def wait(self, state: State, before: State, fence: Fence) -> None:
        """Return when the answers come from the weights of ``state``; at once where these are those of ``before``.

        One connection that is cut says nothing: all is counted again, as long as there is time.

        Raises:
            ServingError: they do not come from them in time.
            UnavailableError: it does not answer in time.
            FencedError: somebody else took over meanwhile.
        """
        if not self._asked(state) or state.weights == before.weights or not state.slots:
            return
        deadline = self._monotonic() + self._seldon.route_within_s
        while True:
            silent: UnavailableError | None = None
            try:
                why = split.differs(self.count(state), state.weights)
            except UnavailableError as error:
                silent, why = error, error.message
            if why is None:
                return
            live = self._objects.read(state.model)
            fence.check(self._objects.state(state.model, live))
            if self._monotonic() > deadline:
                if silent is not None:
                    raise silent
                told = status.told(live or {})
                raise ServingError(
                    f"{state.model}: weights were set and are not served: {why}{f' ({told})' if told else ''}",
                    hint="the operator or the gateway has not followed; traffic is set back to what it was",
                )
            time.sleep(self._seldon.poll_s)

    def soon(self, state: State) -> None:
        """Return when the gateway seems to follow, or after a moment."""
        until = self._monotonic() + _ACKNOWLEDGED_S
        while self._asked(state) and self._monotonic() < until:
            try:
                if split.differs(self.count(state, _FEW), state.weights) is None:
                    return
            except UnavailableError:
                return
            time.sleep(min(self._seldon.poll_s, 0.2))

    def _asked(self, state: State) -> bool:
        return self._seldon.gateway is not None and _question(state) is not None


def _question(state: State) -> bytes | None:
    """A request that each version can answer: the heaviest one's first warm-up row; None where there is none."""
    heaviest = max(state.weights, key=lambda version: state.weights[version], default=None)
    server = state.servers.get(heaviest) if heaviest else None
    rows = (server.settings.get("warmup") or []) if server else []
    return json.dumps({"inputs": tensors([rows[0]])}).encode() if rows else None
