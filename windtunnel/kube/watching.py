"""A list that keeps itself up to date: one list, then one watch that goes on where it was.

A watch ends by itself every few minutes, is cut, or is told that its version is too old (410): then it goes on from the
last version it has seen, or lists again. Whoever follows it is told of a new list as a whole, so that what vanished
while nobody looked is noticed too.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from windtunnel.errors import ExpiredError, UnavailableError
from windtunnel.kube.answers import Answer, error_of
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import Kind

What = Literal["LISTED", "ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True, slots=True)
class Event:
    """One change.

    Attributes:
        what: ``LISTED``: everything there is, in ``objects``; else one object's change.
        objects: by name; the deleted one as it was last.
    """

    what: What
    objects: dict[str, dict[str, Any]]


@dataclass(slots=True)
class Watch:
    """Objects of one kind, as they are.

    Attributes:
        objects: by name, what is known now.
        heard: when the API last said anything, by a clock that nobody sets; None: not yet.
        stop: ends ``events`` at the next change, or when the present watch request ends.
    """

    client: Client
    kind: Kind
    labels: str = ""
    fields: str = ""
    for_s: int = 240
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    heard: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def events(self) -> Iterator[Event]:
        """The list first, then each change, without end.

        Raises:
            UnavailableError: the API could not be reached for as long as the client is patient.
            AbsentError, ForbiddenError, ClusterError: it says no.
        """
        version: str | None = None
        failed = 0
        while not self.stop.is_set():
            if version is None:
                listed = self.client.list(self.kind, labels=self.labels, fields=self.fields)
                self.objects = {_name(item): item for item in listed.get("items") or []}
                version, self.heard = str(listed["metadata"]["resourceVersion"]), time.monotonic()
                yield Event("LISTED", dict(self.objects))
            try:
                for line in self.client.stream(
                    self.kind, version, labels=self.labels, fields=self.fields, for_s=self.for_s
                ):
                    self.heard = time.monotonic()
                    if not line:
                        continue
                    what, thing = self._read(line)
                    version = str(thing["metadata"]["resourceVersion"])
                    failed = 0
                    if what == "BOOKMARK":
                        continue
                    if what == "DELETED":
                        self.objects.pop(_name(thing), None)
                    else:
                        self.objects[_name(thing)] = thing
                    yield Event(what, {_name(thing): thing})  # type: ignore[arg-type]
                    if self.stop.is_set():
                        return
            except ExpiredError:
                version = None
            except UnavailableError:
                failed += 1
                if failed > 1:
                    version = None  # the list has tries of its own, and says at last that nobody answers
                    self.stop.wait(min(0.25 * 2.0**failed, 8.0))

    def _read(self, line: bytes) -> tuple[str, dict[str, Any]]:
        try:
            plain = json.loads(line)
            what, thing = str(plain["type"]), plain["object"]
        except (ValueError, KeyError, TypeError) as error:
            raise UnavailableError(
                f"a watch of {self.kind.plural} said what nobody understands: {line[:200]!r}"
            ) from error
        if what == "ERROR":
            code = int(thing.get("code") or 500)
            answer = Answer(code, thing, {})
            raise error_of(answer, f"watch {self.kind.plural}")
        return what, thing


def _name(thing: dict[str, Any]) -> str:
    return str(thing["metadata"]["name"])
