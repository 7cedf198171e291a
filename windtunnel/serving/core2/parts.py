"""The Models and Servers that follow from a model's desired state: made, changed and removed to what it says.

They hold nothing that the Experiment does not say, so whoever comes next can make or remove them again, wherever the
last one died. A Server goes after its Model, which it has to unload.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from windtunnel.errors import AbsentError, ClusterError, ServingError
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import Kind
from windtunnel.serving.core2 import manifest
from windtunnel.serving.core2.kinds import MODEL, SERVER
from windtunnel.serving.core2.settings import Core2
from windtunnel.serving.desired import State
from windtunnel.serving.seldon import contested, record
from windtunnel.serving.seldon.feed import Feed

Live = dict[str, Any]
log = logging.getLogger("windtunnel.seldon")


@dataclass(frozen=True, slots=True)
class Found:
    """A model's objects as they are, by version."""

    models: Mapping[str, Live]
    servers: Mapping[str, Live]


class Parts:
    """Models and Servers of one namespace.

    Args:
        deploys: what is there becomes what the settings say; see ``SeldonBackend``.
    """

    def __init__(self, seldon: Core2, client: Client, deploys: bool = True) -> None:
        self._seldon, self._client, self._deploys = seldon, client, deploys
        self.feeds: dict[Kind, Feed] = {}

    def read(self, model: str) -> Found:
        """As they are now. Two requests."""
        return Found(self.models(model), self._list(SERVER, model))

    def models(self, model: str) -> dict[str, Live]:
        """The Models as they are now, by version. One request."""
        return self._list(MODEL, model)

    def look(self, model: str, versions: Mapping[str, Any]) -> Mapping[str, Live]:
        """The Models of these versions, by the feed where there is one that knows. For looking."""
        feed = self.feeds.get(MODEL)
        if feed is None:
            return self.models(model)
        found = {}
        for version in versions:
            knows, live = feed.get(manifest.name_of(model, version), None)
            if not knows:
                return self.models(model)
            if live is not None:
                found[version] = live
        return found

    def ensure(self, state: State, owner: Mapping[str, Any]) -> Found:
        """Each version that shall be there has both, saying what they shall say. What is there in excess stays.

        A Server whose version has traffic is left as it is: other settings of the installation, an image mostly, would
        start its pods anew, one that is alone with nobody in its place. They hold for versions that are deployed later.

        Args:
            owner: the Experiment, as the API has it.

        Raises:
            ServingError: the API says no, or an object of that name is somebody else's.
            UnavailableError: it does not answer.
        """
        found = self.read(state.model)
        for version in manifest.parts(state):
            live = found.servers.get(version)
            if not self._deploys and version in found.models and _of(live, state.servers[version].digest):
                continue
            if version not in state.slots or not _of(live, state.servers[version].digest):
                self._write(SERVER, manifest.server_of(state, version, self._seldon, owner), live)
            self._write(MODEL, manifest.model_of(state, version, self._seldon, owner), found.models.get(version))
        return found

    def tidy(self, state: State, now: Callable[[], State]) -> list[str]:
        """Remove the Models that shall not be there, and the Servers whose Models are gone; the names of what goes.

        Args:
            state: as it was seen; while nothing is in excess by it, nobody is asked.
            now: the state as it is, asked for after the objects: a version is in the Experiment before it has any.

        Raises:
            ServingError, UnavailableError: as ``ensure``.
        """
        model = state.model
        found = self._known(model) or self.read(model)
        if not _excess(state, found):
            return []
        gone = []
        for kind, version in _excess(now(), found):
            name = manifest.name_of(model, version)
            if self._told(model, partial(self._client.delete, kind, name)):
                gone.append(f"{kind.name} {name}")
        return gone

    def _known(self, model: str) -> Found | None:
        """As the feeds have them; None without."""
        if not self.feeds:
            return None
        sides = []
        for kind in (MODEL, SERVER):
            everything = self.feeds[kind].everything()
            if everything is None:
                return None
            mine = [one for one in everything if (one["metadata"].get("labels") or {}).get(record.MODEL) == model]
            sides.append(_by_version(mine))
        return Found(*sides)

    def _write(self, kind: Kind, ours: Live, live: Live | None) -> None:
        """Where somebody scales it (an autoscaler of Models and Servers, a person), how many servers it has is theirs
        to say."""
        name = str(ours["metadata"]["name"])
        if live is not None and live["metadata"].get("deletionTimestamp"):
            return  # on its way out; made anew when it is gone
        if live is None:
            theirs = self._told(name, partial(self._client.get, kind, name))
            if theirs is not None and record.MODEL not in (theirs["metadata"].get("labels") or {}):
                raise ServingError(
                    f"there is a {kind.name} {name} which is not Windtunnel's",
                    hint="delete it, or give the model another name; nothing was changed",
                )
            live = theirs
        if live is not None and (who := contested.scaler(live)) is not None and "replicas" in ours["spec"]:
            log.info("%s %s: the number of its servers is left to %s", kind.name, name, who)
            ours = {**ours, "spec": {key: value for key, value in ours["spec"].items() if key != "replicas"}}
        metadata = ("labels", "annotations")
        said = live is not None and manifest.says(live["spec"], ours["spec"])
        if (
            said
            and live is not None
            and all(manifest.says(live["metadata"].get(key) or {}, ours["metadata"][key]) for key in metadata)
        ):
            return
        taken = contested.found(live, ours) if live is not None else []
        self._told(name, partial(self._client.apply, kind, ours))
        for one in taken:
            log.warning("%s", contested.sentence(f"{kind.name} {name}", one))

    def _list(self, kind: Kind, model: str) -> dict[str, Live]:
        listed = self._told(model, partial(self._client.list, kind, labels=f"{record.MODEL}={model}"))
        return _by_version(listed.get("items") or [])

    def _told(self, about: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except AbsentError as error:
            raise ServingError(f"{about}: {error.message}", hint="install Seldon Core 2, or name another") from error
        except ClusterError as error:
            raise ServingError(f"{about}: {error.message}", hint=error.hint) from error


def _by_version(items: Iterable[Live]) -> dict[str, Live]:
    """One that carries the model's label and no version is somebody else's, and left alone."""
    labels = ((one["metadata"].get("labels") or {}, one) for one in items)
    return {str(found[record.VERSION]): one for found, one in labels if record.VERSION in found}


def _of(live: Live | None, digest: str) -> bool:
    return live is not None and (live["metadata"].get("annotations") or {}).get(record.DIGEST) == digest


def _excess(state: State, found: Found) -> list[tuple[Kind, str]]:
    """What may be removed by now: a Server only when its Model, which it has to unload, is gone."""
    kept = manifest.parts(state)
    sides = ((MODEL, found.models), (SERVER, {v: one for v, one in found.servers.items() if v not in found.models}))
    return [
        (kind, version)
        for kind, live in sides
        for version, one in live.items()
        if version not in kept and not one["metadata"].get("deletionTimestamp")
    ]
