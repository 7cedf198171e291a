"""Several servers of one registry: who serves, what the others answer, and that never two do (DEMAND OPS-9)."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import postgres
import pytest
import waiting
from sqlalchemy import Engine, create_engine, text

from windtunnel.errors import StackError
from windtunnel.loopback import any_free
from windtunnel_mlflow.cluster import doors, leading
from windtunnel_mlflow.cluster.election import LostError, Session, Term
from windtunnel_mlflow.cluster.rules import (
    ENDED,
    TAKEN,
    Candidate,
    Leader,
    Times,
    Word,
    differs,
    expired,
    lease_of,
    longest,
    must_wait,
    word,
)

HERE = Path(__file__).parent


# -- decisions


@pytest.mark.parametrize(
    ("heard", "waits"),
    [
        ([], True),  # came too late to hear: who had it may be at work
        ([Word(ENDED, "a")], False),
        ([Word(TAKEN, "a")], True),
        ([Word(TAKEN, "a"), Word(ENDED, "a")], False),
        ([Word(ENDED, "a"), Word(TAKEN, "b")], True),  # b had it in between, and said nothing more
        ([Word(ENDED, "a"), Word(TAKEN, "b"), Word(ENDED, "b")], False),
    ],
)
def test_a_new_leader_waits_unless_the_former_one_said_that_it_ended(heard: list[Word], waits: bool) -> None:
    assert must_wait(heard) is waits


@pytest.mark.parametrize(("lease", "now", "ends"), [(10, 9.9, False), (10, 10, True), (1, 0.99, False), (1, 5, True)])
def test_a_leader_ends_when_nobody_answered_for_its_lease(lease: float, now: float, ends: bool) -> None:
    assert expired(100 + now, 100, Times(lease)) is ends


@pytest.mark.parametrize("lease", [1, 2.5, 10, 300])
def test_the_times_fit_each_other(lease: float) -> None:
    """A leader has ended itself before PostgreSQL gives its lock away, and before the next one serves whatever ended
    its session; it asks several times before it would have to."""
    times = Times(lease)
    assert times.beat * 4 < lease < times.idle
    assert lease + times.beat <= times.grace + 1e-9
    # Back within two minutes by default, even where the former one hangs.
    assert lease > 10 or times.idle + times.poll + times.grace < 60


@pytest.mark.parametrize("lease", [0.5, 301])
def test_a_lease_is_of_some_seconds(lease: float) -> None:
    with pytest.raises(StackError, match="1 to 300"):
        Times(lease)


def test_names_in_postgresql_are_not_cut() -> None:
    """63 characters."""
    mine = Candidate("[2001:0db8:85a3:0000:0000:8a2e:0370:7334]:65535", times=Times(299.999))
    assert len(mine.holder) <= 63
    assert len(mine.serving) <= 63
    assert mine.holder.split(" ")[2] == mine.address
    assert lease_of(mine.serving) == 299.999
    # Of an older server, of somebody else, of nobody.
    assert [lease_of(name) for name in ("wtserve a1b2c3d4", "psql a 5000", "wtserve a 5s", "")] == [None] * 4


@pytest.mark.parametrize(
    ("own", "seen", "waits_by"),
    [(10, [], 10), (10, [None], 10), (2, [10], 10), (10, [2, None], 10), (2, [3, 10, 4], 10), (2, [86400], 300)],
)
def test_who_comes_after_a_longer_lease_waits_by_it(own: float, seen: list[float | None], waits_by: float) -> None:
    """Servers that were started with different leases: the former one goes on by its own."""
    assert longest(Times(own), seen) == Times(waits_by)


@pytest.mark.parametrize(("theirs", "told"), [(10.0, False), (None, False), (2.0, True), (30.0, True)])
def test_another_lease_is_told(theirs: float | None, told: bool) -> None:
    said = differs(Times(10), Leader("h:1", theirs))
    assert ("the same --lease" in said, f"is {theirs:g} s" in said if told else said == "") == (told, True)


def test_what_others_say_on_the_channel_is_nothing() -> None:
    assert word("taken a1") == Word(TAKEN, "a1")
    assert [word(said) for said in ("", "taken", "gone a1", "ended ")] == [None] * 4


@pytest.mark.parametrize(
    ("told", "address"),
    [("10.1.2.3", "10.1.2.3:5000"), ("fd00::1", "[fd00::1]:5000"), ("h:1", "h:1"), ("[fd00::1]:7", "[fd00::1]:7")],
)
def test_an_address_has_a_port(told: str, address: str) -> None:
    assert leading._address(told, 5000) == address


# -- the doors


@dataclass
class Standing:
    serving: bool
    leader: str | None
    checked: int = 0

    def check(self) -> None:
        self.checked += 1


class Nowhere(doors.Forward):
    def __init__(self) -> None:
        super().__init__(None, None)

    async def __call__(self, address: str, scope: Any, receive: Any, send: Any) -> None:
        raise httpx.ConnectError("refused")


async def _hello(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await doors._answer(send, 200, {"hello": True})


@pytest.mark.parametrize(
    ("serving", "leader", "app", "codes"),
    [
        # /alive, /health, /leader, /x, /x that was passed on
        (False, None, None, (200, 503, 503, 503, 503)),  # nobody serves
        (False, "h:1", None, (200, 200, 503, 503, 503)),  # another serves, and does not answer
        (True, None, None, (200, 503, 503, 503, 503)),  # it is this one's turn, and its app is not made yet
        (True, "h:1", None, (200, 503, 503, 503, 503)),
        (True, None, _hello, (200, 200, 200, 200, 200)),
    ],
)
def test_what_is_answered_when(serving: bool, leader: str | None, app: Any, codes: tuple[int, ...]) -> None:
    standing = Standing(serving, leader)
    door = doors.Doors(standing, Nowhere())
    door.app = app

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=door)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://h") as http:
            asked = [await http.get(path) for path in ("/alive", "/health", "/leader", "/x")]
            return [*asked, await http.get("/x", headers={doors.PASSED.decode(): "1"})]

    answers = asyncio.run(ask())
    assert tuple(answer.status_code for answer in answers) == codes
    for answer in answers:
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json().get("error_code", "TEMPORARILY_UNAVAILABLE") == "TEMPORARILY_UNAVAILABLE"
    # At each request, and at each piece of it.
    assert standing.checked == (6 if app else 0)


# -- with PostgreSQL


@pytest.fixture
def engine(postgres: str) -> Iterator[Engine]:
    """A database of its own: a lock is one database's."""
    name = f"turns{any_free()}"
    with create_engine(postgres, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    found = create_engine(postgres.rpartition("/")[0] + f"/{name}", pool_pre_ping=True)
    with found.begin() as connection:
        connection.execute(text("CREATE TABLE turns (id bigserial PRIMARY KEY, server int NOT NULL)"))
    yield found
    found.dispose()


def _url(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


class Turns:
    """Servers of ``turnserver`` on one database."""

    def __init__(self, engine: Engine, folder: Path, lease: float) -> None:
        self.engine, self.folder, self.lease = engine, folder, lease
        self.servers: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, count: int = 1) -> list[int]:
        ports = [any_free() for _ in range(count)]
        for port in ports:
            with (self.folder / f"{port}.log").open("wb") as log:
                self.servers[port] = subprocess.Popen(
                    [sys.executable, str(HERE / "turnserver.py"), _url(self.engine), str(port), str(self.lease)],
                    stdout=log, stderr=log,
                )  # fmt: skip
        for port in ports:
            waiting.until(lambda port=port: self.ask(port, "/health").status_code < 300, every_s=0.05)
        return ports

    def ask(self, port: int, path: str, **more: Any) -> httpx.Response:
        return httpx.request(more.pop("method", "GET"), f"http://127.0.0.1:{port}{path}", timeout=20, **more)

    def leader(self, *but: int) -> int:
        """The one that serves, when it is none of these; and that it writes."""

        def found() -> int:
            for port, process in self.servers.items():
                if port not in but and process.poll() is None and self.ask(port, "/leader").status_code == 200:
                    return port if port in self.order() else 0
            return 0

        return int(waiting.until(found, every_s=0.05))

    def order(self) -> list[int]:
        """Servers in the order in which they wrote, runs of one as one."""
        with self.engine.connect() as connection:
            rows = connection.execute(text("SELECT server FROM turns ORDER BY id")).scalars().all()
        return [one for before, one in zip([0, *rows], rows, strict=False) if one != before]

    def log(self, port: int) -> str:
        return (self.folder / f"{port}.log").read_text()

    def ended(self, port: int) -> int:
        return self.servers[port].wait(60)

    def close(self) -> None:
        for process in self.servers.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(60)


@pytest.fixture
def turns(engine: Engine, tmp_path: Path) -> Iterator[Turns]:
    made = Turns(engine, tmp_path, 1.5)
    yield made
    made.close()


@pytest.mark.real
def test_one_serves_the_other_passes_on_and_takes_over(turns: Turns) -> None:
    """DEMAND OPS-9: at once after an orderly end, as in an upgrade or when a node is drained; after a wait for one that
    was killed."""
    both = turns.start(2)
    first = turns.leader()
    (second,) = set(both) - {first}
    answer = turns.ask(second, "/a%2Fb%20c?x=%26&y", method="PUT", content=iter([b"some ", b"bytes"]))
    assert (answer.status_code, answer.text) == (207, f"{first} PUT /a%2Fb%20c?x=%26&y some bytes")
    assert answer.headers.get_list("x-two") == ["1", "2"]
    assert answer.headers["x-host"] == f"127.0.0.1:{first}"  # asked by the address of one server, as by the other's
    named = turns.ask(second, "/", headers={"Host": "registry.example"})
    assert named.headers["x-host"] == "registry.example"  # by a name, as the client called it
    assert turns.ask(second, "/leader").json() == {"serves": False, "leader": f"127.0.0.1:{first}"}
    turns.servers[first].terminate()
    assert turns.leader(first) == second
    assert turns.ended(first) == 0
    assert "took the lock; serving in" not in turns.log(second)  # nobody had to be waited for
    (third,) = turns.start()
    turns.servers[second].kill()
    assert turns.leader(first, second) == third
    assert "took the lock; serving in 1.8 s" in turns.log(third)
    assert turns.order() == [first, second, third]


@pytest.mark.long
@pytest.mark.real
def test_never_two_serve_whatever_becomes_of_the_leader(turns: Turns, engine: Engine) -> None:
    """DEMAND OPS-9: stopped and woken, its session ended, killed."""
    turns.lease = 3.0
    turns.start(4)
    stopped = turns.leader()
    turns.servers[stopped].send_signal(signal.SIGSTOP)
    second = turns.leader(stopped)
    turns.servers[stopped].send_signal(signal.SIGCONT)
    assert turns.ended(stopped) == 70
    assert "the registry's server ends at once" in turns.log(stopped)
    with engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )
        connection.rollback()
    assert turns.ended(second) == 70  # at once: it need not ask to see it
    third = turns.leader(stopped, second)
    turns.servers[third].kill()
    fourth = turns.leader(stopped, second, third)
    assert turns.order() == [stopped, second, third, fourth]


@pytest.mark.long
@pytest.mark.real
def test_postgresql_starts_anew_and_another_serves(tmp_path: Path) -> None:
    """DEMAND OPS-9: whoever served ends at once, for its lock is gone; the others find the new server."""
    place = postgres.Data()
    made: Turns | None = None
    try:
        place.run("initdb", "-D", place.data, "-U", postgres.OWNER, "--no-sync", "-A", "trust")
        place.start()
        engine = create_engine(
            f"postgresql+psycopg2://{postgres.OWNER}@127.0.0.1:{place.port}/postgres", pool_pre_ping=True
        )
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE turns (id bigserial PRIMARY KEY, server int NOT NULL)"))
        made = Turns(engine, tmp_path, 3.0)
        made.start(3)
        first = made.leader()
        place.run("pg_ctl", "-D", place.data, "-m", "immediate", "stop")
        assert made.ended(first) == 70
        others = set(made.servers) - {first}
        waiting.until(lambda: all(made.ask(port, "/health").status_code == 503 for port in others), every_s=0.1)
        assert all(made.ask(port, "/alive").status_code == 200 for port in others)
        place.start()
        assert made.leader(first) in others
        assert made.order()[0] == first and len(made.order()) == 2
    finally:
        if made is not None:
            made.close()
        place.end()


@pytest.mark.real
def test_a_session_without_its_lock_is_noticed(engine: Engine) -> None:
    """Also a pooler's other session, and silence."""
    times = Times(1)
    mine, other = Candidate("h:1", times=times), Candidate("h:2", times=times)
    one, two = Session(_url(engine), mine), Session(_url(engine), other)
    one.open()
    two.open()
    assert one.take() and not two.take()
    assert two.leader() == Leader("h:1", 1)
    one.beat()
    # What the former one serves with is ended, open transactions and all.
    serving = create_engine(_url(engine), connect_args={"application_name": mine.serving})
    with serving.connect() as connection:
        connection.execute(text("INSERT INTO turns (server) VALUES (1)"))
        assert two.fence() == [1]
        with pytest.raises(Exception, match=r"terminating connection|closed the connection"):
            connection.commit()
            connection.execute(text("SELECT 1"))
    assert two.fence() == []
    one._pid = -1
    with pytest.raises(LostError, match="pooler"):
        one.beat()
    time.sleep(times.idle + 0.5)  # PostgreSQL's own clock runs out: that is what is looked at
    with pytest.raises(LostError):
        one.beat()
    two.open()
    assert two.take()
    one.close()
    two.close()


class Heard:
    """What a server with a lease of a second says, until it took the lock."""

    def __init__(self, engine: Engine) -> None:
        self.said: list[str] = []
        times = Times(1)
        self.term = Term(Session(_url(engine), Candidate("h:2", times=times)), times, lambda: None, say=self._say)
        self.thread = threading.Thread(target=self.term.run, daemon=True)
        self.thread.start()

    def _say(self, text: str) -> None:
        self.said.append(text)
        if "took the lock" in text:
            self.term.leave(False)

    def took(self) -> str:
        self.thread.join(60)
        return self.said[-1]


@pytest.mark.real
def test_after_a_leader_with_a_longer_lease_its_lease_counts(engine: Engine) -> None:
    """DEMAND OPS-9: whether it was seen with the lock, or only its other sessions are left. Its own lease would be over
    too soon: the former one, cut off, would still serve."""
    former = Candidate("h:1", times=Times(20))
    held = Session(_url(engine), former)
    held.open()
    assert held.take()
    seen = Heard(engine)
    waiting.until(lambda: seen.said, every_s=0.02)
    assert seen.said[0].startswith("standing by: h:1 serves; its lease is 20 s, this server's 1 s")
    held.close()  # without a word, as one that was killed
    assert seen.took() == "took the lock; serving in 24 s, when a former server must have ended"
    serving = create_engine(_url(engine), connect_args={"application_name": former.serving})
    with serving.connect():
        late = Heard(engine)
        assert late.took() == "took the lock; serving in 24 s, when a former server must have ended"
    serving.dispose()
    assert Heard(engine).took() == "took the lock; serving in 1.2 s, when a former server must have ended"


def test_without_a_database_a_server_stands_by_and_says_why(tmp_path: Path) -> None:
    said: list[str] = []
    session = Session(f"postgresql+psycopg2://wt@127.0.0.1:{any_free()}/none", Candidate("h:1", times=Times(1)))
    term = Term(session, Times(1), lambda: None, say=said.append)

    def tell(text: str) -> None:
        said.append(text)
        term.leave(False)

    term._say = tell
    term.run()
    assert len(said) == 1
    assert "standing by: nobody can be asked who serves: PostgreSQL: Connection refused" in said[0]
    assert (term.serving, term.leader) == (False, None)


def test_told_to_end_before_it_listens_a_server_ends() -> None:
    """Its own handler is there before the web server's, and must not swallow the signal."""
    code = (
        "import time\n"
        "from windtunnel_mlflow import serve\n"
        "from windtunnel_mlflow.cluster import leading\n"
        "serve.listen = lambda *_: (print('not yet', flush=True), time.sleep(90))\n"
        "leading.serve('postgresql+psycopg2://nobody@127.0.0.1:1/none', '127.0.0.1', 1, prepare=lambda: None)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "not yet\n"
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.communicate()


def test_a_leader_that_was_stopped_ends_before_it_does_anything() -> None:
    """At the next request, connection or commit; not only when its own thread looks."""
    ended: list[str] = []
    term = Term(None, Times(1), lambda: None, end=ended.append)  # type: ignore[arg-type]
    term.check()
    assert not ended  # it does not serve
    term.serving = True  # and was answered last when the machine started
    term.check()
    assert len(ended) == 1
    assert "another may serve now" in ended[0]


def test_nothing_is_committed_by_a_server_whose_turn_is_over(tmp_path: Path) -> None:
    code = (
        "from windtunnel_mlflow.cluster import leading\n"
        "from sqlalchemy import create_engine, text\n"
        "import sys, os\n"
        "over = []\n"
        "leading._watch_database(lambda: over and os._exit(70))\n"
        f"engine = create_engine('sqlite:///{tmp_path}/x.db')\n"
        "with engine.begin() as c: c.execute(text('CREATE TABLE t (n int)'))\n"
        "with engine.begin() as c:\n"
        "    c.execute(text('INSERT INTO t VALUES (1)'))\n"
        "    over.append(1) if sys.argv[1] == 'commit' else None\n"
        "over.append(1)\n"
        "engine.connect()\n"
    )
    for when, rows in (("commit", 0), ("checkout", 1)):
        (tmp_path / "x.db").unlink(missing_ok=True)
        assert subprocess.run([sys.executable, "-c", code, when], check=False).returncode == 70
        with create_engine(f"sqlite:///{tmp_path}/x.db").connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM t")).scalar() == rows
