"""A model's SeldonDeployment, read, decided upon and written: each write only onto what was read."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from windtunnel.errors import (
    AbsentError,
    ClusterError,
    ConflictError,
    FencedError,
    ServingError,
    UnavailableError,
    WindtunnelError,
)
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import SELDON_DEPLOYMENT, Kind
from windtunnel.names import check_model_name
from windtunnel.serving.backend import Release
from windtunnel.serving.desired import State
from windtunnel.serving.seldon import contested, manifest, record
from windtunnel.serving.seldon.feed import Feed
from windtunnel.serving.seldon.settings import Seldon

log = logging.getLogger("windtunnel.seldon")

#: How often a change is decided anew because somebody else, the operator's status mostly, wrote in between.
_CONFLICTS = 12
#: An object read less than this ago is fresh enough to tell copied requests from others.
_FRESH_S = 5.0
#: A write of ours less than this ago need not be made again by the same look.
_MOMENT_S = 1.0

Transition = Callable[[State], State]
#: From the state and the journal's annotations to both as they shall be.
Decision = Callable[[State, Mapping[str, str]], tuple[State, Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class _Seen:
    """An object as it was read: None when there is none."""

    live: dict[str, Any] | None
    at: float


class Objects:
    """The objects of one namespace, and what was last seen of each.

    Args:
        monotonic: seconds, of a clock that nobody sets.
        deploys: what is there becomes what the settings say; see ``SeldonBackend``.
    """

    #: The kind of object that says what is wanted of a model, and what to do where the cluster has none such.
    kind: Kind = SELDON_DEPLOYMENT
    absent = "install Seldon Core 1, or name another cluster"

    def __init__(self, seldon: Seldon, client: Client, monotonic: Callable[[], float], deploys: bool = True) -> None:
        self._seldon, self._client, self._monotonic = seldon, client, monotonic
        self._deploys = deploys
        self._seen: dict[str, _Seen] = {}
        self._written_at: dict[str, str] = {}  # by model: version of our last write
        #: By model: which object in which version was read as a state last, and that state. A look reads it five times.
        self._states: dict[str, tuple[tuple[str | None, str | None], State]] = {}
        self.feed: Feed | None = None
        self._lock = threading.Lock()

    def change(self, model: str, transition: Transition, *, recent: bool = False) -> State:
        """Decide and write, anew whenever somebody else wrote in between; the state that stands then.

        Args:
            recent: decide by what was read last, if anything was. The API refuses the write when that is no longer so;
                what leads to no write at all, or to a refusal, is decided again by a new look.
        """
        return self.decide(model, lambda state, journal: (transition(state), journal), recent=recent)

    def decide(self, model: str, decision: Decision, *, recent: bool = False) -> State:
        """``change`` of the state and of the journal's annotations, in one write."""
        look = recent and model in self._seen
        for attempt in range(_CONFLICTS):
            live = self._seen[model].live if look else self.read(model)
            try:
                state, journal = self.state(model, live), record.kept(live)
                wanted, noted = decision(state, journal)
            except WindtunnelError:
                if look:
                    look = False
                    continue
                raise
            same = noted == journal
            if (wanted is state and same) or not wanted.servers:
                if look and wanted is state:
                    look = False
                    continue
                return wanted
            if live is not None and same and self._written(live, wanted):
                if look:
                    look = False
                    continue
                return wanted
            try:
                self._write(model, live, wanted, noted)
                return wanted
            except ClusterError as error:
                if not isinstance(error, ConflictError):
                    raise ServingError(f"{model}: {error.message}", hint=error.hint) from error
                look = False
                time.sleep(random.uniform(0, 0.05) * attempt)
        raise UnavailableError(
            f"{model}: its {self.kind.name} was changed by others {_CONFLICTS} times while it was to be written",
            hint=f"who writes to it all the time? 'kubectl get {self.kind.plural} -o yaml --show-managed-fields' tells",
        )

    def read(self, model: str) -> dict[str, Any] | None:
        """As it is now; None where there is none. One request.

        Raises:
            ServingError: the API says no.
            UnavailableError: it does not answer.
        """
        try:
            live = self._client.get(self.kind, model)
        except AbsentError as error:
            raise ServingError(
                f"{model}: this cluster serves no {self.kind.name}s ({error.message})",
                hint=self.absent,
            ) from error
        except ClusterError as error:
            raise ServingError(f"{model}: {error.message}", hint=error.hint) from error
        self._keep(model, live)
        return live

    def look(self, model: str) -> dict[str, Any] | None:
        """As it is, from the feed where there is one that knows. For looking, not for deciding what to write."""
        if self.feed is not None:
            knows, live = self.feed.get(check_model_name(model), self._written_at.get(model))
            if knows:
                self._keep(model, live)
                return live
        return self.read(check_model_name(model))

    def recent(self, model: str) -> dict[str, Any] | None:
        seen = self._seen.get(model)
        if seen is not None and self._monotonic() - seen.at < _FRESH_S:
            return seen.live
        return self.look(model)

    def everything(self) -> dict[str, dict[str, Any]]:
        """All objects of ours in the namespace, by model. One request; none with a feed that knows."""
        known = self.feed.everything() if self.feed is not None else None
        if known is not None:
            return {str(one["metadata"]["name"]): one for one in known}
        listed = self._client.list(self.kind, labels=record.MODEL).get("items") or []
        found = {str(one["metadata"]["name"]): one for one in listed}
        for model, one in found.items():
            self._keep(model, one)
        return found

    def models(self) -> list[str]:
        """Models that have an object of ours in the namespace. As many requests as ``everything``."""
        return sorted(self.everything())

    def last(self, model: str) -> dict[str, Any] | None:
        """As it was last read or written."""
        return self._seen[model].live

    def state(self, model: str, live: dict[str, Any] | None) -> State:
        """The state on the object; that of a model never deployed where there is none.

        Raises:
            ServingError: the object is somebody else's, or is being deleted. Another registry's is somebody else's to
                whoever releases; whoever only guards takes also its candidates back.
        """
        if live is None:
            return State(Release(check_model_name(model), None))
        if live["metadata"].get("deletionTimestamp"):
            raise ServingError(
                f"{model}: its {self.kind.name} is being deleted", hint="wait until it is gone, then release it again"
            )
        which = live["metadata"].get("uid"), live["metadata"].get("resourceVersion")
        known = self._states.get(model)
        if known is not None and known[0] == which and None not in which:
            return known[1]
        state = record.state_of(live)
        if state is None:
            raise ServingError(
                f"{model}: there is a {self.kind.name} of that name which is not Windtunnel's",
                hint="delete it, or give the model another name; nothing was changed",
            )
        if self._deploys and not self._seldon.releases(theirs := record.registry_of(live)):
            raise ServingError(
                f"{model}: its {self.kind.name} is released by the registry {theirs}, ours is {self._seldon.registry}",
                hint="one registry to a namespace: release it into another one, or under another name; where the "
                "registry has only moved, name its old address in the setting 'formerly'; nothing was changed",
            )
        self._states[model] = which, state
        return state

    def foreign(self, model: str) -> bool:
        """Whether another registry than ours releases the model, by the last look."""
        seen = self._seen.get(model)
        return seen is not None and not self._seldon.releases(record.registry_of(seen.live))

    def _written(self, live: dict[str, Any], wanted: State) -> bool:
        """Whether the object says all of this already."""
        ours = self._made(wanted, live)
        metadata, mine, spec = live["metadata"], ours["metadata"], live.get("spec") or {}
        return (
            all((metadata.get("annotations") or {}).get(name) == text for name, text in mine["annotations"].items())
            and all((metadata.get("labels") or {}).get(name) == text for name, text in mine["labels"].items())
            and all(spec.get(name) == value for name, value in ours["spec"].items())
        )

    def _made(
        self, state: State, live: dict[str, Any] | None, journal: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The whole of what we say of the object."""
        return manifest.deployment(state, self._seldon, live, self._client.namespace, journal, keep=not self._deploys)

    def just_written(self, model: str) -> dict[str, Any] | None:
        """The object, where the last that was heard of it was our own write, a moment ago."""
        seen = self._seen.get(model)
        if seen is None or seen.live is None or self._monotonic() - seen.at > _MOMENT_S:
            return None
        mine = str(seen.live["metadata"].get("resourceVersion")) == self._written_at.get(model)
        return seen.live if mine else None

    def _write(self, model: str, live: dict[str, Any] | None, state: State, journal: Mapping[str, str]) -> None:
        overruled = contested.read(journal)
        taken = self._taken(live)
        for one in taken:
            overruled = contested.added(overruled, one, state.release.rollout_id, time.time())
        if taken:
            journal = {**journal, **contested.write(overruled)}
        ours = self._made(state, live, journal)
        made = self._client.create(self.kind, ours) if live is None else self._client.apply(self.kind, ours)
        self._written_at[model] = str(made["metadata"]["resourceVersion"])
        self._keep(model, made)
        for told in overruled[len(overruled) - len(taken) :]:
            log.warning("%s", contested.sentence(f"{self.kind.name} {model}", told))

    def _taken(self, live: dict[str, Any] | None) -> list[contested.Overruled]:
        """What others have made of our fields since we wrote them."""
        if live is None or not contested.shared(live) or (before := record.state_of(live)) is None:
            return []
        return contested.found(live, self._made(before, live))

    def _keep(self, model: str, live: dict[str, Any] | None) -> None:
        with self._lock:
            self._seen[model] = _Seen(live, self._monotonic())


class Fence:
    """Whether the holder who began with ``token`` may still go on."""

    def __init__(self, token: int) -> None:
        self._token = token

    def check(self, state: State) -> None:
        """Raise FencedError when another holder wrote, or somebody aborted, since we began."""
        if state.release.token != self._token:
            raise FencedError(
                f"{state.model}: token {self._token} no longer holds the rollout, {state.release.token} does",
                hint="this rollout was taken over: stop writing",
            )
        if state.aborted is not None:
            raise FencedError(
                f"{state.model}: the rollout was aborted by {state.aborted['by']}: {state.aborted['reason']}",
                hint="its candidates get no traffic; a new rollout (with a new token) may begin",
            )
