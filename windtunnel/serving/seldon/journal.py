"""What a release must find again, whoever goes on with it: its looks and its promoting intent, on the object itself.

Workers, the triggerer and the guard of a cluster share no disk, only the API. So what lies beside the traffic in a home
(``looklog``, ``intent``) stands here in annotations of the object that is the traffic, and changes with it:

- a look is written down, and the lease renewed, in one request;
- a look that says "roll back" takes the candidates back in the request that writes it down: between the decision and
  the rollback there is nothing that could be killed;
- whoever may move the traffic may write the journal, and nobody else: no right, and no place, of its own.

Annotations are small, so the newest look is kept whole and, of those before it, what a gate goes on from (as
``LookLog.tail``); all looks go to the object store where one is given (``Archive``).
"""

from __future__ import annotations

import base64
import binascii
import json
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Protocol

from windtunnel import canonical
from windtunnel.errors import FencedError, ServingError
from windtunnel.serving.desired import State
from windtunnel.serving.release import intent
from windtunnel.serving.release.ending import ENDS
from windtunnel.serving.release.intent import PROMOTING, Intent
from windtunnel.serving.seldon import contested, record

if TYPE_CHECKING:
    from windtunnel.serving.seldon.objects import Decision

#: Bytes of the looks' annotation; the desired state may have 200 000 of the 262 144 that Kubernetes takes.
LARGEST = 50_000
_DECISIVE = ("advance", *ENDS)


class Holder(Protocol):
    """The backend whose objects carry the journal."""

    def journal(self, model: str) -> dict[str, str]: ...

    def keep(self, model: str, decision: Decision) -> None: ...

    def looked(self, state: State, look: Mapping[str, Any]) -> State: ...


class Archive(Protocol):
    """Where all looks go, so that a decision can be made again (``windtunnel.serving.release.archive``)."""

    def put(self, model: str, rollout_id: str, number: int, look: Mapping[str, Any]) -> None: ...

    def looks(self, model: str, rollout_id: str) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Kept:
    """The looks of one rollout, as far as they are kept.

    Attributes:
        count: how many there were.
        decisive: those that let a step pass or ended the rollout, without their evidence.
        newest: the last one, whole.
    """

    rollout_id: str = ""
    count: int = 0
    decisive: tuple[dict[str, Any], ...] = ()
    newest: dict[str, Any] | None = None

    @property
    def tail(self) -> list[dict[str, Any]]:
        """As ``LookLog.tail``."""
        if self.newest is None:
            return []
        earlier = self.decisive[:-1] if _is_decisive(self.newest) else self.decisive
        return [*earlier, self.newest]

    def of(self, rollout_id: str) -> Kept:
        """The same, or nothing when it is another rollout's."""
        return self if self.rollout_id == rollout_id else Kept(rollout_id)

    def plus(self, look: Mapping[str, Any]) -> Kept:
        """With one more look. The plan, which only the first look brings, stays with the newest."""
        plan = {"plan": self.newest["plan"]} if self.newest and "plan" in self.newest else {}
        whole = {**plan, **look, "number": self.count + 1}
        decisive = (*self.decisive, _gist(whole)) if _is_decisive(whole) else self.decisive
        return replace(self, count=self.count + 1, decisive=decisive, newest=whole)


def read_looks(journal: Mapping[str, str]) -> Kept:
    """From the annotation.

    Raises:
        ServingError: it is there and cannot be read (it is never taken for an empty one).
    """
    text = journal.get(record.LOOKS)
    if not text:
        return Kept()
    try:
        plain = canonical.loads(zlib.decompress(base64.b64decode(text, validate=True)))
        return Kept(str(plain["rollout_id"]), int(plain["count"]), tuple(plain["decisive"]), plain["newest"])
    except (ValueError, KeyError, TypeError, zlib.error, binascii.Error) as error:
        raise ServingError(
            f"annotation {record.LOOKS} cannot be read: {error!r}",
            hint="remove it: the gate then looks at its step from the beginning",
        ) from error


def last_words(journals: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """By rollout, why its last look decided as it did; what cannot be read says nothing."""
    found: dict[str, str] = {}
    for journal in journals:
        try:
            kept = read_looks(journal)
            if kept.newest is not None:
                found[kept.rollout_id] = str(kept.newest["decision"]["reason"])
        except (ServingError, KeyError, TypeError):
            continue
    return found


def write_looks(kept: Kept) -> dict[str, str]:
    """The annotations, the one for machines and the one for people.

    Raises:
        ServingError: it is more than an annotation takes.
    """
    plain = {"rollout_id": kept.rollout_id, "count": kept.count, "decisive": kept.decisive, "newest": kept.newest}
    text = base64.b64encode(zlib.compress(canonical.text(plain), 6)).decode()
    if len(text) > LARGEST:
        raise ServingError(
            f"a look of rollout {kept.rollout_id} has {len(text)} bytes, the annotation {record.LOOKS} takes {LARGEST}",
            hint="fewer candidates at once, or fewer gates and segments",
        )
    newest = kept.newest or {}
    decision = newest.get("decision") or {}
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(float(newest.get("at") or 0)))
    return {record.LOOKS: text, record.SAID: f"{at} {decision.get('action')}: {decision.get('reason')}"[:1000]}


class ObjectLooks:
    """The look log of one model; what ``LookLog`` is in a home.

    Args:
        archive: where all looks go; None: only what a gate needs is kept.
    """

    def __init__(self, holder: Holder, model: str, archive: Archive | None = None) -> None:
        self._holder, self._model, self._archive = holder, model, archive

    def append(self, look: dict[str, Any], *, after: Mapping[str, Any] | EllipsisType | None = ...) -> bool:
        """Add ``look``, and let it move the traffic (``Holder.looked``); when this returns True both are done.

        Args:
            after: see ``LookLog.append``.

        Raises:
            FencedError: another holder has the traffic by now.
            ServingError: it cannot be kept.
            UnavailableError: the API does not answer.
        """
        if not look.get("rollout_id"):
            raise ValueError(f"a look needs its rollout_id, found keys {sorted(look)}")
        whole, rollout_id = dict(canonical.loads(canonical.dumps(look))), str(look["rollout_id"])
        self._keep_before(rollout_id, after)
        found = _Found()

        def decide(state: State, journal: Mapping[str, str]) -> tuple[State, Mapping[str, str]]:
            token = int(look.get("token") or 0)
            if token < state.release.token:
                raise FencedError(
                    f"{self._model}: a look of rollout {rollout_id} has token {token}, {state.release.token} has the "
                    "traffic by now",
                    hint="this rollout was taken over: stop looking",
                )
            before = read_looks(journal).of(rollout_id)
            found.goes_on = isinstance(after, EllipsisType) or _same(before.newest, after)
            if not found.goes_on:
                return state, journal
            taken = [asdict(one) for one in contested.read(journal) if one.rollout_id == rollout_id]
            seen = {**whole, "overruled": canonical.loads(canonical.dumps(taken))} if taken else whole
            return self._holder.looked(state, whole), {**journal, **write_looks(before.plus(seen))}

        self._holder.keep(self._model, decide)
        return found.goes_on

    def tail(self, rollout_id: str) -> list[dict[str, Any]]:
        """See ``LookLog.tail``."""
        return read_looks(self._holder.journal(self._model)).of(rollout_id).tail

    def read(self, rollout_id: str) -> list[dict[str, Any]]:
        """What a release needs of all its looks: those that decided something, and the newest (``number`` says which
        one it was)."""
        return self.tail(rollout_id)

    def last(self, rollout_id: str) -> dict[str, Any] | None:
        """The newest look of one rollout."""
        looks = self.tail(rollout_id)
        return looks[-1] if looks else None

    def all(self) -> list[dict[str, Any]]:
        """Every look of the newest rollout that was kept, oldest first: all of them with an archive."""
        kept = read_looks(self._holder.journal(self._model))
        if self._archive is None or kept.newest is None:
            return kept.tail
        earlier = [
            look for look in self._archive.looks(self._model, kept.rollout_id) if int(look["number"]) < kept.count
        ]
        return [*earlier, kept.newest]

    def _keep_before(self, rollout_id: str, after: Mapping[str, Any] | EllipsisType | None) -> None:
        """The newest look leaves the object when the next one comes: it goes to the archive first. It is the same
        whoever writes it, so two gates that do not know of each other write the same."""
        if self._archive is None or not isinstance(after, Mapping) or "number" not in after:
            return
        self._archive.put(self._model, rollout_id, int(after["number"]), after)


class ObjectIntents:
    """The promoting intents; what ``intent.Intents`` is in a home."""

    def __init__(self, holder: Holder, clock: Callable[[], float] = time.time) -> None:
        self._holder, self._clock = holder, clock

    def begin(self, model: str, *, rollout_id: str, token: int, candidate: str, champion: str | None) -> Intent:
        """See ``intent.begin``.

        Raises:
            FencedError: a later holder has the traffic, or is promoting already.
            ServingError: no version is deployed.
        """
        wanted = Intent(model, rollout_id, token, candidate, champion, PROMOTING, self._clock())
        found = _Found()

        def decide(state: State, journal: Mapping[str, str]) -> tuple[State, Mapping[str, str]]:
            if not state.servers:
                raise ServingError(
                    f"{model}: nothing is deployed, so nothing can be promoted", hint="deploy the version first"
                )
            if state.release.token > token:
                raise FencedError(
                    f"{model}: token {token} is older than {state.release.token}, which has the traffic",
                    hint="this rollout was taken over: stop writing",
                )
            found.intent = intent.merged(read_intent(model, journal), wanted)
            if found.intent is not wanted:
                return state, journal
            return state, {**journal, record.INTENT: json.dumps(asdict(wanted), sort_keys=True)}

        self._holder.keep(model, decide)
        assert found.intent is not None
        return found.intent

    def read(self, model: str) -> Intent | None:
        """See ``intent.read``."""
        return read_intent(model, self._holder.journal(model))

    def clear(self, model: str, token: int | None = None) -> None:
        """See ``intent.clear``."""

        def decide(state: State, journal: Mapping[str, str]) -> tuple[State, Mapping[str, str]]:
            if not intent.ours(read_intent(model, journal), token):
                return state, journal
            return state, {**journal, record.INTENT: ""}

        self._holder.keep(model, decide)


def read_intent(model: str, journal: Mapping[str, str]) -> Intent | None:
    """From the annotation; None where there is none, or none that we understand."""
    try:
        plain = json.loads(journal.get(record.INTENT) or "null")
    except ValueError:
        return None
    return intent.from_dict(model, plain)


@dataclass(slots=True)
class _Found:
    """What a decision that may be made several times came to."""

    goes_on: bool = True
    intent: Intent | None = field(default=None)


def _is_decisive(look: Mapping[str, Any]) -> bool:
    return (look.get("decision") or {}).get("action") in _DECISIVE


def _gist(look: Mapping[str, Any]) -> dict[str, Any]:
    decision = look["decision"]
    gist = {name: look[name] for name in ("rollout_id", "at", "number") if name in look}
    return {**gist, "decision": {**decision, "state": {"step": decision["state"]["step"]}}}


def _same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or canonical.dumps(dict(one)) == canonical.dumps(dict(other))
