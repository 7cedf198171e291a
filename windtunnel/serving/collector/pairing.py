"""From halves to rows. Pure: the same halves in the same order, taken at the same moments, make the same rows.

That is what makes killing harmless: what was not published is replayed from the disk, and becomes the same files.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from windtunnel.serving.collector.events import Half, handed_key
from windtunnel.serving.collector.payloads import Answered, Asked

#: What a row says where one of its halves never came.
UNANSWERED = "no answer was logged"


@dataclass(slots=True)
class Row:
    """One request and its answer, as many rows of the log as it has.

    Attributes:
        guest: a half of it came from another collector, whose watermark waits for it.
    """

    model: str
    version: str
    request_id: str
    at: float
    ids: list[str]
    columns: dict[str, list[Any]]
    outputs: list[Any]
    count: int
    latency_ms: float | None
    status: int | None
    error: str | None
    confidence: list[Any] | None
    shadow: bool
    guest: bool = False


@dataclass(slots=True)
class Tally:
    """What became of events, over the life of the spool.

    Attributes:
        events: halves taken.
        duplicates: halves that had come already.
        rows: rows of the log made.
        unanswered: requests whose answer never came: the model failed, or the logger lost it. They are rows, with an
            error.
        unasked: answers whose request never came. They are rows, without features.
        unpaired: halves that do not fit each other (numbers of rows differ); the answer's rows are kept.
        handed: halves given to the collector that is at home for their prediction.
        taken_over: halves taken of other collectors; they are none of ``events``.
    """

    events: int = 0
    duplicates: int = 0
    rows: int = 0
    unanswered: int = 0
    unasked: int = 0
    unpaired: int = 0
    handed: int = 0
    taken_over: int = 0


@dataclass(slots=True)
class Taken:
    """What one flush takes out.

    Attributes:
        rows: to be published.
        carried: halves that go on waiting here.
        handed: halves that wait no longer here, but go to their home.
        keys: of events that need nothing more here.
    """

    rows: list[Row]
    carried: list[Half]
    handed: list[Half]
    keys: list[bytes]


class Pairs:
    """Halves that wait for each other, rows that wait for the next flush, and what has come already.

    Args:
        remember: keys of published events that are remembered, so that they are known when they come again.
    """

    def __init__(self, remember: int) -> None:
        self._remember = remember
        self._published: OrderedDict[int, list[bytes]] = OrderedDict()  # by flush, oldest first
        self._remembered = 0
        self._seen: set[bytes] = set()
        self._fresh: list[bytes] = []
        self._waiting: dict[tuple[str, str, str, str], deque[Half]] = {}
        self._rows: list[Row] = []
        self.tally = Tally()
        self.held_bytes = 0

    def known(self, half: Half) -> bool:
        """Whether it has come already, here or by way of another collector."""
        return half.key in self._seen or (not half.guest and handed_key(half.key) in self._seen)

    def add(self, half: Half) -> bool:
        """Take a half; False when it has come already."""
        if self.known(half):
            self.tally.duplicates += 1
            return False
        self._seen.add(half.key)
        self._fresh.append(half.key)
        if half.guest:
            self.tally.taken_over += 1
        else:
            self.tally.events += 1
        self.held_bytes += half.size
        self._pair(half)
        return True

    def again(self, half: Half) -> None:
        """A half that was to be handed over waits here again."""
        self._fresh.append(half.key)
        self.held_bytes += half.size
        self._pair(half)

    def know(self, key: bytes) -> None:
        """The event has come already, and is not published yet."""
        self._seen.add(key)

    def carry(self, halves: Iterable[Half]) -> None:
        """Halves that an earlier flush left waiting."""
        for half in halves:
            self._seen.add(half.key)
            self._fresh.append(half.key)
            self.held_bytes += half.size
            self._waiting.setdefault(half.pair, deque()).append(half)

    def remember(self, flush: int, keys: list[bytes]) -> None:
        """Keys that flush number ``flush`` published."""
        self._published[flush] = keys
        self._remembered += len(keys)
        self._seen.update(keys)

    def forget(self) -> list[int]:
        """Flushes whose keys need not be remembered any more; they are forgotten."""
        gone = []
        while self._remembered > self._remember and len(self._published) > 1:
            flush, keys = self._published.popitem(last=False)
            self._remembered -= len(keys)
            self._seen.difference_update(keys)
            gone.append(flush)
        return gone

    def oldest(self, *, guests: bool = False) -> dict[str, float]:
        """Model -> time of its oldest half that waits; of those from other collectors alone, if ``guests``."""
        found: dict[str, float] = {}
        for half in self.halves():
            if half.guest or not guests:
                found[half.model] = min(half.at, found.get(half.model, half.at))
        return found

    def due(self, cutoff: float) -> bool:
        """Whether a half that came before ``cutoff`` still waits."""
        return any(half.came < cutoff for half in self.halves())

    @property
    def waiting(self) -> int:
        return sum(len(halves) for halves in list(self._waiting.values()))

    def take(self, cutoff: float, handed: Collection[bytes] = ()) -> Taken:
        """Everything a flush publishes: rows, and halves that came before ``cutoff`` and have waited enough.

        Args:
            handed: keys of halves that go to their home, however long they have waited.
        """
        given: list[Half] = []
        if handed:
            for pair, halves in list(self._waiting.items()):
                given += [half for half in halves if half.key in handed]
                stay = deque(half for half in halves if half.key not in handed)
                if stay:
                    self._waiting[pair] = stay
                else:
                    del self._waiting[pair]
        for pair in [pair for pair, halves in self._waiting.items() if any(half.came < cutoff for half in halves)]:
            halves = self._waiting.pop(pair)
            left = deque(half for half in halves if half.came >= cutoff)
            for half in halves:
                if half.came < cutoff:
                    self._rows.append(self._alone(half))
            if left:
                self._waiting[pair] = left
        rows, self._rows = self._rows, []
        self.tally.rows += sum(row.count for row in rows)
        carried = list(self.halves())
        waiting, away = {half.key for half in carried}, {half.key for half in given}
        keys = [key for key in self._fresh if key not in waiting and key not in away]
        self._fresh = [key for key in self._fresh if key in waiting]
        self.held_bytes = sum(half.size for half in carried)
        return Taken(rows, carried, given, keys)

    def halves(self) -> Iterator[Half]:
        """Those that wait for their other half."""
        for halves in self._waiting.values():
            yield from halves

    def _pair(self, half: Half) -> None:
        halves = self._waiting.get(half.pair)
        if halves and halves[0].what != half.what:
            other = halves.popleft()
            if not halves:
                del self._waiting[half.pair]
            request, response = (half, other) if half.what == "request" else (other, half)
            self._rows.append(self._together(request, response))
        else:
            # A caller may send the same request id twice: halves of a kind wait in their order.
            self._waiting.setdefault(half.pair, deque()).append(half)

    def _together(self, request: Half, response: Half) -> Row:
        question, answer = request.payload, response.payload
        assert isinstance(question, Asked) and isinstance(answer, Answered)
        columns = question.columns
        if question.rows != answer.rows:
            self.tally.unpaired += 1
            columns = {}
        row = _row(request, answer.rows, answer, columns)
        # Both are the executor's moments of sending, not the model's time; see docs/reference/collector.md.
        row.latency_ms = max(0.0, (response.at - request.at) * 1000)
        row.shadow = request.shadow or response.shadow
        row.guest = request.guest or response.guest
        return row

    def _alone(self, half: Half) -> Row:
        if isinstance(half.payload, Answered):
            self.tally.unasked += 1
            return _row(half, half.payload.rows, half.payload, {})
        self.tally.unanswered += 1
        row = _row(half, half.payload.rows, None, half.payload.columns)
        row.error = UNANSWERED
        return row


def _row(half: Half, count: int, answer: Answered | None, columns: dict[str, list[Any]]) -> Row:
    ids = answer.ids if answer is not None and answer.ids else [f"{half.request_id}-{n}" for n in range(count)]
    return Row(
        model=half.model,
        version=half.version,
        request_id=half.request_id,
        at=half.at,
        ids=ids,
        columns=columns,
        outputs=answer.outputs if answer is not None else [None] * count,
        count=count,
        latency_ms=None,
        status=200 if answer is not None else None,  # the executor logs no other answers
        error=None,
        confidence=answer.confidence if answer is not None else None,
        shadow=half.shadow,
        guest=half.guest,
    )
