"""What is, without asking each time: one list and one watch for all models of a namespace.

A triggerer that looks at many rollouts asks the API twice a minute for all of them together, instead of once a look for
each. What it is told may be as old as the silence that is not noticed yet: a connection that was cut without a word is
missed after ``SILENT_S``; from then on every look asks the API itself, until the watch is back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any

from windtunnel.errors import WindtunnelError
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import SELDON_DEPLOYMENT, Kind
from windtunnel.kube.watching import Event, Watch
from windtunnel.serving.seldon import record

log = logging.getLogger("windtunnel.seldon")

#: One watch request lasts so long; a watch nobody heard from for longer than ``SILENT_S`` is not believed.
WATCH_S, SILENT_S = 30, 50.0
#: After an error that tries do not mend, it begins again so much later.
_AGAIN_S = 5.0
#: Versions of an object that are remembered, to know whether our own write has come by.
_REMEMBERED = 64


class Feed:
    """The objects of one namespace, kept up to date by a thread of its own; ``close`` ends it."""

    def __init__(self, client: Client, kind: Kind = SELDON_DEPLOYMENT) -> None:
        self._watch = Watch(client, kind, labels=record.MODEL, for_s=WATCH_S)
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, Any]] = {}
        self._came: dict[str, deque[str]] = {}
        self._listed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seldon-feed", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it; at the next change, or when the present watch request ends."""
        self._watch.stop.set()

    def wait(self, timeout_s: float) -> bool:
        """Whether the first list has come, within so many seconds."""
        return self._listed.wait(timeout_s)

    @property
    def believed(self) -> bool:
        """Whether what it says is what is, but for a silence that is not noticed yet."""
        heard = self._watch.heard
        return self._listed.is_set() and heard is not None and time.monotonic() - heard < SILENT_S

    @property
    def silence(self) -> float:
        """Seconds since the API was last heard: what it says is at least as new as that."""
        heard = self._watch.heard
        return float("inf") if heard is None else time.monotonic() - heard

    def get(self, model: str, written: str | None) -> tuple[bool, dict[str, Any] | None]:
        """Whether it knows, and the object; None: there is none.

        Args:
            written: version of our own last write; before that has come by it does not know.
        """
        with self._lock:
            known = self._known.get(model)
            if not self.believed:
                return False, None
            if written is not None and written not in self._came.get(model, ()) and not _later(known, written):
                return False, None
            return True, known

    def everything(self) -> list[dict[str, Any]] | None:
        """All objects; None when it does not know."""
        with self._lock:
            return list(self._known.values()) if self.believed else None

    def _run(self) -> None:
        while not self._watch.stop.is_set():
            try:
                for event in self._watch.events():
                    self._take(event)
            except WindtunnelError as error:
                self._listed.clear()
                log.warning("the models on Seldon are looked up one by one: %s", error.message)
                self._watch.stop.wait(_AGAIN_S)

    def _take(self, event: Event) -> None:
        with self._lock:
            for name, thing in event.objects.items():
                versions = self._came.setdefault(name, deque(maxlen=_REMEMBERED))
                versions.append(str(thing["metadata"]["resourceVersion"]))
            if event.what == "LISTED":
                self._known = dict(event.objects)
            elif event.what == "DELETED":
                for name in event.objects:
                    self._known.pop(name, None)
            else:
                self._known |= event.objects
        self._listed.set()


def _later(thing: dict[str, Any] | None, written: str) -> bool:
    """Whether an object is of after that write: somebody, the operator mostly, has written it since. Where versions are
    no numbers that cannot be told."""
    now = str(((thing or {}).get("metadata") or {}).get("resourceVersion") or "")
    return now.isdigit() and written.isdigit() and int(now) >= int(written)
