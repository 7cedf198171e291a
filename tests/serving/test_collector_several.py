"""Several collectors of one log: halves that came apart meet, whoever is killed, away or ends. DEMAND OPS-9, SRV-6"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import seldonevents
import waiting
from collectors import BEARER, START, TOKEN, Away, Clock, Killed, Running, dead, event, logged, steps
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import DataError, DescriptionError, StackError, UnavailableError
from windtunnel.loopback import any_free
from windtunnel.serving.collector import events, guests, homes, lost
from windtunnel.serving.collector.admission import Limits, Rules
from windtunnel.serving.collector.events import BadEvent, Half
from windtunnel.serving.collector.guests import Batch
from windtunnel.serving.collector.keeper import UNSURE_S, Keeper, framed_guest
from windtunnel.serving.collector.outbox import Outbox, Said
from windtunnel.serving.collector.places import Folder
from windtunnel.serving.collector.server import Collector
from windtunnel.serving.collector.writers import GONE_S, Writers
from windtunnel.serving.predictions import PredictionLog
from windtunnel.serving.predictions.watermark import Mark

# -- who is at home


@given(st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=5, unique=True), st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_a_home_is_the_same_for_all_and_stays_when_others_go(names: list[str], puid: str) -> None:
    pair = ("visits", "3", "", puid)
    found = homes.home(pair, names)
    assert found == homes.home(pair, reversed(names))
    for gone in set(names) - {found}:
        assert homes.home(pair, set(names) - {gone}) == found


def test_homes_are_spread() -> None:
    found = [homes.home(("visits", "3", "", f"r{n}"), ("0", "1", "2")) for n in range(3000)]
    assert all(900 < found.count(name) < 1100 for name in ("0", "1", "2"))


def test_peers_are_named_once_and_oneself_is_none() -> None:
    assert homes.peers(["0=http://a:1/", "1=https://b"], "0") == {"1": "https://b"}
    for wrong in (["1"], ["1=b:80"], ["=http://b"], ["a-b=http://b"], ["1=http://a", "1=http://b"]):
        with pytest.raises(DescriptionError, match="peer"):
            homes.peers(wrong, "0")


# -- what is on its way


def half_of(what: str, request_id: str, came: float = START, **more: Any) -> Half:
    body = seldonevents.asks(1.0) if what == "request" else seldonevents.answers(2.0)
    return event(what, request_id, body, came, id=f"{what}-{request_id}", **more)[0]


#: (what a try came to; None: there was none), seconds since it came, is it back
BACK: list[tuple[Said | None, float, bool]] = [
    (None, 61, False),  # nobody has asked its home yet
    (Said.NOT, 59, False),
    (Said.NOT, 61, True),
    (Said.UNSURE, 61, False),
    (Said.UNSURE, 59 + UNSURE_S, False),
    (Said.UNSURE, 61 + UNSURE_S, True),
    (Said.TOOK, 61, False),
]


@pytest.mark.parametrize(("said", "age", "back"), BACK, ids=range(len(BACK)))
def test_what_no_home_took_comes_back_and_what_it_may_have_later(said: Said | None, age: float, back: bool) -> None:
    outbox, half, now = Outbox(), half_of("request", "r"), START + age
    outbox.put(half, "1")
    assert not outbox.fly("1", 9, 0), "a kill would undo it"
    outbox.ready([half.key])
    assert [one.key for one in outbox.fly("1", 9, 0)] == [half.key] and not outbox.fly("1", 9, 0)
    assert outbox.settle(now, now, "0") == ([], []), "it is being sent: nothing is known"
    if said is None:
        outbox = Outbox()
        outbox.put(half, "1")
        outbox.ready([half.key])
    else:
        outbox.landed([half.key], said, now + 50)
    taken = said is Said.TOOK
    wanted = [half.key] if taken else [], [half.key] if back else []
    assert outbox.settle(now - 60, now - 60 - UNSURE_S, "0") == wanted
    assert outbox.settle(now - 60, now - 60 - UNSURE_S, "1")[1] == ([] if taken else [half.key]), "its home is here now"
    assert outbox.oldest(now) == {"visits": half.at}
    outbox.pop([half.key])
    assert (outbox.oldest(now), outbox.oldest(now + 51)) == ({"visits": half.at} if taken else {}, {})


def test_the_other_half_comes_back_with_it() -> None:
    outbox = Outbox()
    request, answer = half_of("request", "r"), half_of("response", "r", START + 50)
    for half in (request, answer):
        outbox.put(half, "1")
        outbox.ready([half.key])
        outbox.landed([half.key], Said.NOT, 0)
    assert outbox.settle(START + 1, 0, "0")[1] == [request.key, answer.key]


def test_a_batch_is_read_as_it_was_written() -> None:
    halves = (half_of("request", "r"), half_of("response", "r", model="other", predictor="v4"))
    read = guests.read(guests.written(Batch("0", "1", halves, leaving=True)), START + 9)
    assert (read.sender, read.to, read.leaving) == ("0", "1", True)
    for one, half in zip(read.halves, halves, strict=True):
        assert (one.payload, one.pair, one.at) == (half.payload, half.pair, half.at)
        assert (one.came, one.guest) == (START + 9, True)
        assert one.key == events.handed_key(half.key) != half.key


#: What is put in place of something in a batch, and the field that the refusal names.
BAD: list[tuple[dict[str, Any], str]] = [
    ({"from": 3}, "from"),
    ({"to": None}, "to"),
    ({"halves": {}}, "halves"),
    ({"halves": [{}] * (guests.COUNT + 1)}, "halves"),
    ({"halves": [3]}, "halves[0]"),
    *(({"halves": [{name: value}]}, "halves[0]") for name, value in {
        "key": "12", "what": "both", "model": "../etc", "version": "", "request_id": 7, "at": "now", "came": -1,
        "shadow": "no", "size": -1, "payload": {"columns": {"age": [1, 2]}, "rows": 1}, "more": 1,
    }.items()),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "field"), BAD, ids=range(len(BAD)))
def test_a_bad_batch_is_refused_by_name(wrong: dict[str, Any], field: str) -> None:
    plain = json.loads(guests.written(Batch("0", "1", (half_of("request", "r"),))))
    for name, value in wrong.items():
        if field == "halves[0]" and isinstance(value[0], dict):
            value = [plain["halves"][0] | value[0]]
        plain[name] = value
    with pytest.raises(BadEvent) as refused:
        guests.read(json.dumps(plain).encode(), START)
    assert refused.value.field == field
    for body in (b"{", b"[]"):
        with pytest.raises(BadEvent, match="body"):
            guests.read(body, START)


# -- two keepers, and what is between them


class Two:
    """Collectors 0 and 1 of one log, each with a spool; killed and started again."""

    def __init__(self, folder: Path, *, place: Callable[[Path], Folder] = Folder) -> None:
        self.folder, self.clock, self._place = folder, Clock(), place
        self.keepers = {name: self._made(name) for name in "01"}

    def _made(self, name: str) -> Keeper:
        spool = self.folder / name
        place = self._place(self.folder / "log")
        return Keeper(spool, place, instance=name, peers="01", clock=self.clock)

    def again(self, name: str) -> None:
        dead(self.keepers[name])
        self.keepers[name] = self._made(name)

    def take(self, name: str, what: str, number: int) -> None:
        body = seldonevents.asks(float(number)) if what == "request" else seldonevents.answers(number * 2.0)
        self.keepers[name].take([event(what, f"r{number}", body, self.clock.now, id=f"{what}{number}")])

    def hand(self, name: str, *, lost_word: bool = False) -> int:
        """From this one to the other; how many halves. What kills the other leaves this one without an answer."""
        to = "10"[int(name)]
        halves = self.keepers[name].to_hand(to)
        try:
            batch = guests.read(guests.written(Batch(name, to, tuple(halves))), self.clock.now)
            self.keepers[to].take([(half, framed_guest(half)) for half in batch.halves])
        except Killed:
            self.keepers[name].handed(halves, Said.UNSURE)
            raise
        self.keepers[name].handed(halves, Said.UNSURE if lost_word else Said.TOOK)
        return len(halves)

    @property
    def log(self) -> PredictionLog:
        return PredictionLog(self.folder / "log")

    def end(self) -> None:
        for keeper in self.keepers.values():
            dead(keeper)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    made = Two(tmp_path)
    yield made
    made.end()


def script(two: Two) -> list[tuple[str, Callable[[], object]]]:
    """(who may be killed by it, what is done): eight predictions, of which six come apart."""
    clock = two.clock

    def wait(seconds: float) -> Callable[[], object]:
        return lambda: setattr(clock, "now", clock.now + seconds)

    told: list[tuple[str, Callable[[], object]]] = []
    for number in range(8):
        asked, answered = ("0", "1") if number % 2 else ("1", "0")
        if number > 5:
            answered = asked
        told.append((asked, lambda to=asked, n=number: two.take(to, "request", n)))  # type: ignore[misc]
        if number != 3:
            told.append((answered, lambda to=answered, n=number: two.take(to, "response", n)))  # type: ignore[misc]
    for name in "01":
        told.append((name, lambda name=name: two.keepers[name].flush()))  # type: ignore[misc]
    told.append(("", wait(6)))
    for name in "01":
        told.append((name, lambda name=name: two.keepers[name].flush()))  # type: ignore[misc]
        told.append(("10"[int(name)], lambda name=name: two.hand(name)))  # type: ignore[misc]
    told.append(("0", lambda: two.take("0", "response", 3)))
    told.append(("", wait(10)))
    for _, name in itertools.product(range(2), "01"):
        told.append((name, lambda name=name: two.keepers[name].flush()))  # type: ignore[misc]
        told.append(("10"[int(name)], lambda name=name: two.hand(name)))  # type: ignore[misc]
    for name in "01":
        told.append((name, lambda name=name: two.keepers[name].flush()))  # type: ignore[misc]
    return told


def complete(two: Two) -> None:
    """Whatever the log says is all there, is."""
    mark = two.log.watermark("visits", two.clock.now)
    if mark.time is not None and not mark.stale and mark.time > START:
        assert len(set(logged(two.folder / "log"))) == 8, f"complete up to {mark.time - START:.1f}, it says"


def life(folder: Path, die_at: int | None) -> int:
    """The script with one kill before step ``die_at`` on the disk; how many steps there were."""
    two = Two(folder)
    with pytest.MonkeyPatch.context() as patch:
        done = steps(patch, die_at)
        for who, do in script(two):
            try:
                do()
            except Killed:
                patch.undo()
                two.again(who)
                do()  # by its sender, or by the next round
            complete(two)
        patch.undo()
    for _, name in itertools.product(range(3), "01"):
        two.keepers[name].flush()
        two.hand(name)
    assert logged(folder / "log") == [f"r{n}-0" for n in range(8)], f"killed before step {die_at}"
    frame = two.log.read("visits", START - 60, START + 60)
    assert frame["error"].isna().all() and (frame["prediction"] == 2 * frame["feature_age"]).all(), die_at
    assert sum(keeper.tally.events for keeper in two.keepers.values()) == 16
    assert sum(keeper.tally.unanswered + keeper.tally.unasked for keeper in two.keepers.values()) == 0
    two.end()
    return len(done)


def test_nothing_is_lost_or_doubled_whoever_is_killed_when(tmp_path: Path) -> None:
    """Either dies before a write, sync, rename or removal; every prediction is one whole row in the end."""
    count = life(tmp_path / "whole", None)
    assert count > 100, "the disk is not watched any more"
    for step in range(3, count, 31):
        life(tmp_path / str(step), step)


@pytest.mark.long
def test_nothing_is_lost_or_doubled_at_any_step(tmp_path: Path) -> None:
    for step in range(life(tmp_path / "whole", None)):
        life(tmp_path / str(step), step)


def away_from(two: Two, name: str) -> int:
    """A prediction whose home is the other one."""
    return next(n for n in range(100) if homes.home(("visits", "3", "visits", f"r{n}"), "01") != name)


def test_the_watermark_waits_until_the_homes_speaks_of_it(two: Two) -> None:
    number = away_from(two, "0")
    for name, other in (("0", 200), ("1", 201)):
        two.take(name, "request", other)
        two.take(name, "response", other)
        two.keepers[name].flush()
    two.clock.now += 20
    at = two.clock.now
    two.take("0", "request", number)
    two.keepers["1"].flush()
    for _ in range(5):
        two.clock.now += 10
        for name in "01":
            two.keepers[name].flush()
        two.hand("0")
        assert two.log.watermark("visits", two.clock.now).time <= at, "it is published nowhere"
    two.again("0")
    for name in "01":
        two.keepers[name].flush()
    assert two.log.watermark("visits", two.clock.now).time <= at, "nor after a restart"
    two.take("0", "response", number)
    two.clock.now += 10
    for _, name in itertools.product(range(2), "01"):
        two.keepers[name].flush()
        two.hand(name)
    two.clock.now += 60
    for name in "01":
        two.keepers[name].flush()
    mark = two.log.watermark("visits", two.clock.now)
    assert (mark.time, mark.late, mark.rows) == (two.clock.now - 15, 0, 3)
    assert [two.keepers[name].tally.handed for name in "01"] == [2, 0]
    assert two.keepers["1"].tally.taken_over == 2


def test_a_home_that_was_away_takes_its_watermark_back_for_a_guest(two: Two) -> None:
    """Each by itself: the home's speaks of what came late to it, the other's waits until then, a restart included."""
    numbers = [n for n in range(100) if homes.home(("visits", "3", "visits", f"r{n}"), "01") == "1"][:2]
    two.take("1", "request", 200)
    two.take("1", "response", 200)
    two.clock.now += 20
    at = two.clock.now
    for number in numbers:
        two.take("0", "request", number)
    two.clock.now += 30
    for name in "01":
        two.keepers[name].flush()

    def through(name: str) -> float:
        mark = Folder(two.folder / "log").mark_of("visits", f"collector-{name}")
        assert mark is not None
        return mark.flushed_through

    assert (through("0"), through("1")) == (at, at + 15)
    assert two.hand("0") == 2
    two.take("1", "response", numbers[0])
    for name in "10":
        two.keepers[name].flush()
    assert (through("0"), through("1")) == (at, at)
    assert two.log.watermark("visits", two.clock.now).late == 0, "somebody's watermark has waited for it"
    two.again("0")
    two.clock.now += 40
    two.keepers["0"].flush()
    assert through("0") == at, "its home may not have said so yet"
    two.clock.now += 11
    two.keepers["0"].flush()
    assert through("0") == two.clock.now - 15


def test_a_home_that_is_away_does_not_keep_a_row_for_ever(two: Two) -> None:
    number = away_from(two, "0")
    two.take("0", "request", number)
    for _ in range(6):
        two.clock.now += 10
        two.keepers["0"].flush()
        halves = two.keepers["0"].to_hand("1")
        two.keepers["0"].handed(halves, Said.NOT)
        two.take("0", "request", number)  # again: it is known
    two.take("0", "response", number)
    two.clock.now += 10
    assert two.keepers["0"].flush() == 1, "both are here by then"
    assert two.log.read("visits", START - 1, START + 99)["error"].isna().all()
    assert (two.keepers["0"].waiting, two.keepers["0"].handing, two.keepers["0"].held_bytes) == (0, 0, 0)


@pytest.mark.parametrize("killed", [False, True])
def test_what_the_home_may_have_is_published_once(two: Two, killed: bool) -> None:
    """Its word was lost, or who asked was killed, and it is away longer than the window: it is published once."""
    number = away_from(two, "0")
    two.take("0", "request", number)
    two.clock.now += 10
    two.keepers["0"].flush()
    assert two.hand("0", lost_word=True) == 1
    if killed:
        two.again("0")
    two.clock.now += 120
    two.keepers["0"].handed(two.keepers["0"].to_hand("1"), Said.NOT)
    assert two.keepers["0"].flush() == 0
    assert two.hand("0") == 1
    two.take("1", "response", number)
    for _, name in itertools.product(range(2), "01"):
        two.keepers[name].flush()
    assert logged(two.folder / "log") == [f"r{number}-0"]


def test_of_two_rows_of_a_prediction_readers_take_the_whole_one(two: Two) -> None:
    """The double fault: a home that took it, did not say so, and did not come back for ten minutes."""
    number = away_from(two, "0")
    two.take("0", "request", number)
    two.clock.now += 10
    two.keepers["0"].flush()
    two.hand("0", lost_word=True)
    two.take("1", "response", number)
    two.clock.now += 61 + UNSURE_S
    for name in "01":
        two.keepers[name].flush()
    assert logged(two.folder / "log") == [f"r{number}-0"] * 2
    for columns in (None, ["prediction"], ["prediction_id", "error"]):
        frame = two.log.read("visits", START - 1, START + 99, columns=columns)
        assert len(frame) == 1
        assert frame.get("error", frame.iloc[:, 0]).isna().all() == ("error" in frame)
        assert frame.get("prediction", [number * 2.0])[0] == number * 2.0


def test_one_that_ends_leaves_nothing_and_nobody_waits_for_it(two: Two) -> None:
    """What waits goes to the other, and may come back from there; the watermarks are closed, and opened again."""
    for number in range(6):
        two.take("0", "request", number)
    two.keepers["0"].flush()
    two.keepers["0"].leave()
    assert two.hand("0") == 6
    two.keepers["1"].flush()
    two.keepers["0"].forget_holds()
    assert two.keepers["0"].close()
    two.clock.now += 40
    two.keepers["1"].flush()
    mark = two.log.watermark("visits", two.clock.now)
    assert (mark.stale, mark.writers, mark.time) == (False, 1, START)
    two.keepers["0"] = two._made("0")
    two.keepers["0"].flush()
    assert two.log.watermark("visits", two.clock.now).writers == 2
    two.keepers["1"].leave()  # given back to the one that gave it
    assert two.hand("1") == 6
    for number in range(6):
        two.take("0", "response", number)
    assert two.keepers["0"].flush() == 6
    assert logged(two.folder / "log") == [f"r{number}-0" for number in range(6)]


def test_one_alone_ends_as_before_and_says_that_nothing_is_left(tmp_path: Path) -> None:
    clock = Clock()
    for left in (False, True):
        folder = tmp_path / str(left)
        keeper = Keeper(folder / "spool", Folder(folder / "log"), clock=clock)
        keeper.take([event("request", "r", seldonevents.asks(1.0), clock.now)])
        if not left:
            keeper.take([event("response", "r", seldonevents.answers(1.0), clock.now)])
        keeper.leave()
        assert keeper.close() is not left
        text = (folder / "log/visits/_watermark/collector-0.json").read_text()
        assert json.loads(text)["closed"] is not left
        assert PredictionLog(folder / "log").watermark("visits", clock.now + 60).stale, "nobody writes it any more"


def test_fewer_collectors_take_back_what_was_for_others(two: Two) -> None:
    number = away_from(two, "0")
    two.take("0", "request", number)
    two.clock.now += 10
    two.keepers["0"].flush()
    dead(two.keepers["0"])
    alone = Keeper(two.folder / "0", Folder(two.folder / "log"), clock=two.clock)
    two.keepers["0"] = alone
    two.take("0", "response", number)
    alone.flush()
    alone.flush()
    assert logged(two.folder / "log") == [f"r{number}-0"] and alone.handing == 0


def test_a_flush_that_is_repeated_by_other_rules_does_the_same(tmp_path: Path) -> None:
    """Killed between publishing and being done, and started again alone: what it decided stands."""
    two = Two(tmp_path, place=Away)
    number = away_from(two, "0")
    two.take("0", "request", number)
    two.take("0", "request", 300)
    two.take("0", "response", 300)
    two.clock.now += 70
    with pytest.raises(UnavailableError):
        two.keepers["0"].flush()
    assert two.keepers["0"].held_bytes > 500
    assert not two.keepers["0"].to_hand("1"), "a kill would undo it"
    dead(two.keepers["0"])
    alone = Keeper(tmp_path / "0", Folder(tmp_path / "log"), clock=two.clock)
    two.keepers["0"] = alone
    two.take("0", "response", number)
    alone.flush()
    alone.flush()
    assert logged(tmp_path / "log") == sorted([f"r{number}-0", "r300-0"])
    assert PredictionLog(tmp_path / "log").read("visits", START - 1, START + 99)["error"].isna().all()
    two.end()


# -- watermarks of model servers, taken by any


def test_who_speaks_to_another_collector_is_not_closed(tmp_path: Path) -> None:
    clock, place, key = Clock(), Folder(tmp_path / "log"), "visits/3-pod_1.json"
    for name in "01":
        (tmp_path / name).mkdir()
    first, second = (Writers(tmp_path / name, place, clock) for name in "01")
    mark = Mark("visits", "3", "pod_1", flushed_through=START, at=START)
    first.heard(key, mark)
    clock.now += GONE_S + 1
    later = Mark("visits", "3", "pod_1", flushed_through=clock.now, at=clock.now)
    second.heard(key, later)
    assert not first.sweep(), "it spoke to the other"
    second.heard(key, mark)  # held up on its way, and older
    found = place.mark_of("visits", "3-pod_1")
    assert found is not None and (found.closed, found.at) == (False, clock.now)
    clock.now += GONE_S + 1
    assert first.sweep() == [key], "then to nobody"
    assert second.sweep() == [] and second.living == 0
    found = place.mark_of("visits", "3-pod_1")
    assert found is not None and found.closed


def test_the_watermarks_of_a_lost_collector_are_closed_by_hand(two: Two, capsys: pytest.CaptureFixture[str]) -> None:
    two.take("1", "request", 1)
    two.keepers["1"].flush()
    place = Folder(two.folder / "log")
    with pytest.raises(StackError, match="it lives"):
        lost.close(place, "1", ["visits"], two.clock.now + 30)
    with pytest.raises(DataError, match="no watermark"):
        lost.close(place, "7", ["visits"], two.clock.now)
    assert two.log.watermark("visits", two.clock.now + 300).writers == 0
    lost.close(place, "1", ["visits"], two.clock.now + 300)
    mark = place.mark_of("visits", "collector-1")
    assert mark is not None and mark.closed and "lost" in str(mark.error)


# -- processes


@pytest.fixture
def pair_of(tmp_path: Path) -> Iterator[dict[str, Running]]:
    """Two collectors of one log, by their real command."""
    ports = {name: any_free() for name in "01"}
    peers = [word for name, port in ports.items() for word in ("--peer", f"{name}=http://127.0.0.1:{port}")]
    made = {}
    (tmp_path / "log").mkdir()
    for name, port in ports.items():
        options = ("--open-events", "--flush", "0.2", "--hand", "0.2", "--window", "300", "--instance", name, *peers)
        (tmp_path / name).mkdir()
        (tmp_path / name / "log").symlink_to(tmp_path / "log")
        made[name] = Running(tmp_path / name, port, options)
        made[name].start()
    yield made
    for one in made.values():
        if one.process is not None and one.process.poll() is None:
            one.process.kill()
            one.process.wait(60)


def send(running: Running, what: str, number: int) -> None:
    body = seldonevents.asks(float(number)) if what == "request" else seldonevents.answers(number * 2.0)
    headers = seldonevents.headers(what, f"r{number}", id=f"{what}{number}")
    assert httpx.post(f"{running.url}/v1/events", content=body, headers=headers).status_code == 202


def test_halves_that_come_apart_meet_through_a_kill_and_an_end(pair_of: dict[str, Running], tmp_path: Path) -> None:
    first, second = pair_of["0"], pair_of["1"]
    log = PredictionLog(tmp_path / "log")

    def whole(wanted: int) -> bool:
        found = logged(tmp_path / "log")
        frame = log.read("visits", time.time() - 600, time.time() + 60)
        good = frame["error"].isna() & (frame["prediction"] == 2 * frame["feature_age"]) if len(frame) else []
        return len(found) == wanted == sum(good)

    for number in range(16):
        send(first if number % 2 else second, "request", number)
        send(second if number % 2 else first, "response", number)
    waiting.until(lambda: whole(16), every_s=0.1)
    for name in ("handed_total", "taken_over_total"):
        waiting.until(lambda name=name: first.number(name) + second.number(name) == 16, every_s=0.1)  # type: ignore[misc]
    # One is killed while halves are for it; who sends is not told.
    for number in range(16, 24):
        send(second, "request", number)
    second.end(signal.SIGKILL)
    for number in range(16, 24):
        send(first, "response", number)
    waiting.until(lambda: first.number("peers_away") == 1, every_s=0.1)
    second.start()
    waiting.until(lambda: whole(24), every_s=0.1)
    waiting.until(lambda: first.number("peers_away") == 0, every_s=0.1)
    # One ends: what waits is at the other, where the answer comes.
    for number in range(24, 28):
        send(first, "request", number)
    assert first.end() == 0
    for number in range(24, 28):
        send(second, "response", number)
    waiting.until(lambda: whole(28), every_s=0.1)
    marks = {name: json.loads((tmp_path / f"log/visits/_watermark/collector-{name}.json").read_text()) for name in "01"}
    assert (marks["0"]["closed"], marks["1"]["closed"]) == (True, False)
    said = (first.folder / "out").read_text()
    assert said.count("does not take what is its own") == 1 and "is there again" in said


def test_a_collector_takes_halves_of_others_by_token_and_name_only(tmp_path: Path) -> None:
    """DEMAND OPS-6"""
    (tmp_path / "token").write_text(TOKEN)
    place = Folder(tmp_path / "log")
    keeper = Keeper(tmp_path / "spool", place)
    app = Collector(keeper, Writers(tmp_path, place), Rules(tmp_path / "token", open_events=True), Limits())
    body = guests.written(Batch("1", "0", (half_of("request", "r"),)))
    leaving = guests.written(Batch("1", "0", (), leaving=True))
    asked: list[tuple[bytes, dict[str, str], int, dict[str, Any]]] = [
        (body, {}, 401, {}),
        (body, {"authorization": "Bearer x"}, 401, {}),
        (guests.written(Batch("1", "2", ())), BEARER, 421, {"field": "to"}),
        (b'{"from":"1","to":"0","halves":[{}]}', BEARER, 400, {"field": "halves[0]"}),
        (body, BEARER, 202, {"kept": 1, "new": 1, "renewed": False}),
        (body, BEARER, 202, {"kept": 1, "new": 0, "renewed": False}),
        (leaving, BEARER, 202, {"kept": 0, "new": 0, "renewed": True}),
    ]

    async def post() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c") as client:
            for sent, headers, status, wanted in asked:
                told = await client.post("/v1/halves", content=sent, headers=headers)
                assert told.status_code == status
                assert wanted.items() <= told.json().items()
            assert (await client.put("/v1/halves", content=body, headers=BEARER)).status_code == 405
            assert "windtunnel_collector_taken_over_total 1" in (await client.get("/metrics")).text

    asyncio.run(post())
    mark = place.mark_of("visits", "collector-0")
    assert mark is not None and mark.at > 0, "who ends has its word that the watermark speaks of what it gave"
    dead(keeper)
