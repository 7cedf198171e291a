"""Where a model is served, in one place: the backend, and where a release's looks and intent lie beside it.

``at_home``: this machine; they are files in the home. ``in_cluster``: Seldon; they stand on the model's own object,
for workers, triggerer and guard share nothing but the API (decision 0020). Whoever has a ``Place`` need not ask which.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from windtunnel.data.objects import Objects
    from windtunnel.home import Home
    from windtunnel.kube.client import Client
    from windtunnel.serving.backend import Arm
    from windtunnel.serving.release.intent import Intent
    from windtunnel.serving.seldon import Seldon

#: Names the file with the settings of Seldon, for commands.
ENV_SELDON = "WINDTUNNEL_SELDON"


class Looks(Protocol):
    """A model's look log: ``looklog.LookLog``, or ``seldon.journal.ObjectLooks``."""

    def append(self, look: dict[str, Any], *, after: Any = ...) -> bool: ...

    def tail(self, rollout_id: str) -> list[dict[str, Any]]: ...

    def read(self, rollout_id: str) -> list[dict[str, Any]]: ...

    def last(self, rollout_id: str) -> dict[str, Any] | None: ...

    def all(self) -> list[dict[str, Any]]: ...


class Intents(Protocol):
    """``intent.Intents``, or ``seldon.journal.ObjectIntents``."""

    def begin(self, model: str, *, rollout_id: str, token: int, candidate: str, champion: str | None) -> Intent: ...

    def read(self, model: str) -> Intent | None: ...

    def clear(self, model: str, token: int | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """One place where models are served.

    Attributes:
        backend: ``ServingBackend``, with what the guard asks besides (``guard.Backend``).
        looks: the look log of a model.
        intents: promotions that were begun.
    """

    backend: Any
    looks: Callable[[str], Looks]
    intents: Intents


def at_home(home: Home) -> Place:
    """Servers of this machine, their state in ``home``."""
    from windtunnel.serving.local import LocalBackend
    from windtunnel.serving.release.intent import Intents as HomeIntents
    from windtunnel.serving.release.looklog import LookLog

    return Place(LocalBackend(home), lambda model: LookLog(home, model), HomeIntents(home))


def in_cluster(
    settings: Seldon,
    client: Client | None = None,
    *,
    store: Objects | None = None,
    read_mlmodel: Callable[[str, Arm], bytes] | None = None,
    deploys: bool = True,
) -> Place:
    """Seldon, all state on its objects.

    Args:
        client: of the cluster; made from the settings unless told.
        store: object store that all looks go to; without one only what a release needs is kept.
        read_mlmodel, deploys: see ``SeldonBackend``.
    """
    from windtunnel.serving.release.archive import LookArchive
    from windtunnel.serving.seldon.journal import ObjectIntents, ObjectLooks

    backend = _backend(settings, client=client, read_mlmodel=read_mlmodel, deploys=deploys)
    archive = LookArchive(store) if store is not None else None
    return Place(backend, lambda model: ObjectLooks(backend, model, archive), ObjectIntents(backend))


def _backend(settings: Seldon, **more: Any) -> Any:
    from windtunnel.serving.core2 import backend_of

    return backend_of(settings, **more)


def settings_file(told: Path | None, home: Home, model: str | None = None) -> Path | None:
    """Settings of the cluster that a command is about: those it was told, else those that ``$WINDTUNNEL_SELDON`` names,
    unless ``model`` is served from ``home``. None: this machine."""
    if told is not None:
        return told
    named = os.environ.get(ENV_SELDON)
    if not named or (model is not None and (home.serving_model(model) / "desired.json").is_file()):
        return None
    return Path(named)


def of_command(home: Home, model: str | None, told: Path | None, *, store: str | None = None) -> Place:
    """The place that a command is about; see ``settings_file``.

    Args:
        store: URL of the object store that a cluster's looks are kept in.

    Raises:
        DescriptionError: the settings cannot be read.
        DataError: the URL is none of a store.
    """
    path = settings_file(told, home, model)
    if path is None:
        return at_home(home)
    from windtunnel.data.objects import connect
    from windtunnel.serving.seldon import Seldon

    return in_cluster(Seldon.read(path), store=connect(store) if store else None, deploys=False)
