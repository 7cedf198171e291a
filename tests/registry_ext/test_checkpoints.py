"""Checkpoints of the audit outside the database: what is signed, and what is never signed (DEMAND REG-7)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from windtunnel.errors import IntegrityError, StackError
from windtunnel.evidence import Outcome, auditcheck, entry
from windtunnel.evidence.checkpoint import SigningKey
from windtunnel.home import ENV_TEMPORARY, Home
from windtunnel.registry import auditfiles, launch
from windtunnel_mlflow.ledger import audit, checkpoints
from windtunnel_mlflow.ledger.checkpoints import Publisher
from windtunnel_mlflow.migrate import upgrade

KEY = SigningKey("windtunnel-audit/test", bytes(range(32)))


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    found = create_engine(f"sqlite:///{tmp_path / 'audit.db'}")
    upgrade(found)
    return found


@pytest.fixture
def write(engine: Engine) -> Callable[[int], None]:
    def some(count: int) -> None:
        with Session(engine) as session:
            for number in range(count):
                audit.append(session, actor="ada", action="tag", model=f"m{number % 3}", detail={"n": number})
            session.commit()

    return some


def publisher(engine: Engine, *places: Path) -> Publisher:
    return Publisher(lambda: Session(engine), KEY, [auditfiles.place(place) for place in places], lambda: 1000.0)


def export(engine: Engine, path: Path) -> Path:
    with Session(engine) as session:
        rows = audit.page(session, 0, audit.settled(session), 10_000)
    path.write_bytes(b"".join(entry.line(row) + b"\n" for row in rows))
    return path


def verdict(engine: Engine, tmp_path: Path) -> auditcheck.Report:
    place = auditfiles.place(tmp_path / "out")
    return auditfiles.verify(
        export(engine, tmp_path / "audit.jsonl"), *auditfiles.checkpoints_in(place, auditfiles.keys_in(place))
    )


def by_force(engine: Engine, statement: str) -> None:
    """What somebody does who holds the database file: the triggers first."""
    with engine.begin() as connection:
        for (name,) in connection.execute(
            text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'wt_audit'")
        ).all():
            connection.execute(text(f"DROP TRIGGER {name}"))
        connection.execute(text(statement))


def rewrite(engine: Engine, seq: int) -> None:
    """An entry changed and every later hash of its model made anew: a chain that is whole."""
    by_force(engine, f"UPDATE wt_audit SET actor = 'eve' WHERE seq = {seq}")
    with Session(engine) as session:
        heads: dict[str, str] = {}
        for row in audit.page(session, 0, 10**9, 10**6):
            row["prev"] = heads.get(row["model"], entry.GENESIS)
            heads[row["model"]] = entry.chain_hash(row)
            values = {"p": row["prev"], "h": heads[row["model"]], "s": row["seq"]}
            session.execute(text("UPDATE wt_audit SET prev = :p, hash = :h WHERE seq = :s"), values)
        session.commit()


def test_published_once_for_each_growth(engine: Engine, write: Any, tmp_path: Path) -> None:
    one = publisher(engine, tmp_path / "out", tmp_path / "second")
    write(5)
    state = one.publish()
    assert state["problem"] is None
    assert one.publish() == state
    write(2)
    one.publish()
    for place in ("out", "second"):
        names = [path.name for path in sorted((tmp_path / place).iterdir())]
        assert names == [f"{5:020d}.checkpoint", f"{7:020d}.checkpoint", f"{KEY.verifier.id.hex()}.vkey"]
    report = verdict(engine, tmp_path)
    assert (report.outcome, report.checkpoints, report.vouched) == (Outcome.PASS, 2, 7)


def test_a_new_process_goes_on(engine: Engine, write: Any, tmp_path: Path) -> None:
    write(5)
    publisher(engine, tmp_path / "out").publish()
    write(6)
    state = publisher(engine, tmp_path / "out").publish()
    assert state["problem"] is None
    assert verdict(engine, tmp_path).vouched == 11


def test_a_history_made_anew_is_never_signed(engine: Engine, write: Any, tmp_path: Path) -> None:
    write(9)
    publisher(engine, tmp_path / "out").publish()
    rewrite(engine, 4)
    write(1)
    restarted = publisher(engine, tmp_path / "out")
    assert "not those of the published checkpoint" in restarted.publish()["problem"]
    assert "not those" in restarted.publish()["problem"]
    assert len(auditfiles.place(tmp_path / "out").names()) == 2
    report = verdict(engine, tmp_path)
    assert (report.outcome, report.breaks[0].kind) == (Outcome.FAIL, "rewritten")


def test_a_missing_end_is_never_signed(engine: Engine, write: Any, tmp_path: Path) -> None:
    write(9)
    running = publisher(engine, tmp_path / "out")
    running.publish()
    by_force(engine, "DELETE FROM wt_audit WHERE seq > 6")
    assert "newest entry is 6" in running.publish()["problem"]
    assert "6 entries, a checkpoint was published at 9" in publisher(engine, tmp_path / "out").publish()["problem"]
    report = verdict(engine, tmp_path)
    assert (report.outcome, report.breaks[0].kind) == (Outcome.FAIL, "truncated")


def test_a_published_name_is_never_taken_over(engine: Engine, write: Any, tmp_path: Path) -> None:
    write(3)
    publisher(engine, tmp_path / "out").publish()
    other = create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    upgrade(other)
    with Session(other) as session:
        for _ in range(3):
            audit.append(session, actor="eve", action="tag", model="m")
        session.commit()
    before = (tmp_path / "out" / f"{3:020d}.checkpoint").read_text()
    second = publisher(other, tmp_path / "fresh", tmp_path / "out")
    assert "another history was published" in second.publish()["problem"]
    assert (tmp_path / "out" / f"{3:020d}.checkpoint").read_text() == before


def test_a_place_out_of_reach_is_tried_again(engine: Engine, write: Any, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    one = publisher(engine, tmp_path / "out", blocked / "below")
    write(2)
    assert "place 2" in one.publish()["problem"]
    blocked.unlink()
    assert one.publish()["problem"] is None
    assert (blocked / "below" / f"{2:020d}.checkpoint").exists()


def test_a_url_is_a_place_as_well(engine: Engine, write: Any, tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/audit"
    write(4)
    one = Publisher(lambda: Session(engine), KEY, [auditfiles.place(url)], lambda: 1000.0)
    assert one.publish()["problem"] is None
    found, problems = auditfiles.checkpoints_in(auditfiles.place(url), [KEY.verifier])
    assert ([point.size for point in found], problems) == ([4], [])
    with pytest.raises(FileExistsError):
        auditfiles.place(url).put(auditfiles.name_of(4), "something else")


@pytest.mark.parametrize(
    ("temporary", "named", "places"),
    [
        (False, None, ["home"]),
        (False, "bucket", ["home", "bucket"]),  # what history it goes on from lies in the home
        (True, "bucket", ["bucket"]),
        (True, None, None),
    ],
)
def test_where_a_server_publishes(
    temporary: bool, named: str | None, places: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first place is the one that the server goes on from, so it has to stay."""
    known = {"home": str(tmp_path / "audit" / "checkpoints"), "bucket": str(tmp_path / "bucket")}
    for name, value in ((ENV_TEMPORARY, "1" if temporary else None), (launch.ENV_AUDIT_PLACE, named and known[named])):
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value)
    if places is None:
        with pytest.raises(StackError, match="gone with this server's temporary home") as refused:
            checkpoints.places_of(Home(tmp_path))
        assert launch.ENV_AUDIT_PLACE in (refused.value.hint or "")
    else:
        found = checkpoints.places_of(Home(tmp_path))
        assert [one.path for one in found] == [Path(known[name]) for name in places]  # type: ignore[attr-defined]


def test_without_a_volume_the_next_server_goes_on_from_the_bucket(
    engine: Engine, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a real S3 API. Each server has a fresh home; a history that was made anew between two is not signed."""

    def served(name: str) -> dict[str, Any]:
        places = checkpoints.places_of(Home(tmp_path / name))
        return Publisher(lambda: Session(engine), KEY, places, lambda: 1000.0).publish()

    with s3.bucket() as (client, bucket):
        told = {ENV_TEMPORARY: "1", launch.ENV_AUDIT_PLACE: f"s3://{bucket}/audit"}
        for name, value in {**s3.environment(client), **told}.items():
            monkeypatch.setenv(name, value)
        write(5)
        assert served("first")["problem"] is None
        write(2)
        assert served("second")["problem"] is None
        names = [one["Key"] for one in client.list_objects_v2(Bucket=bucket)["Contents"]]
        assert [name for name in names if name.endswith(auditfiles.SUFFIX)] == [
            f"audit/{5:020d}.checkpoint", f"audit/{7:020d}.checkpoint"
        ]  # fmt: skip
        rewrite(engine, 4)
        write(1)
        assert "not those of the published checkpoint" in served("third")["problem"]
    assert not [*tmp_path.glob("*/audit/checkpoints")]


def test_a_checkpoint_of_another_key_is_told(engine: Engine, write: Any, tmp_path: Path) -> None:
    write(4)
    publisher(engine, tmp_path / "out").publish()
    stranger = SigningKey(KEY.name, bytes(32)).verifier
    found, problems = auditfiles.checkpoints_in(auditfiles.place(tmp_path / "out"), [stranger])
    report = auditfiles.verify(export(engine, tmp_path / "audit.jsonl"), found, problems)
    assert (report.outcome, report.breaks[0].kind) == (Outcome.FAIL, "checkpoint")


def test_the_key_is_secret_and_survives(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    key = checkpoints.key_of(home)
    assert checkpoints.key_of(home) == key
    assert (home.secrets / checkpoints.SECRET).stat().st_mode & 0o777 == 0o600
    public = next(home.audit.glob("*.vkey"))
    assert auditfiles.keys_of(public) == [key.verifier]
    public.write_text("\n")
    with pytest.raises(IntegrityError, match="holds no key"):
        auditfiles.keys_of(public)


def test_a_new_key_goes_on_under_the_old_name(engine: Engine, write: Any, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    place = auditfiles.place(home.audit / "checkpoints")
    for _ in range(2):
        write(3)
        one = Publisher(lambda: Session(engine), checkpoints.key_of(home), [place])
        assert one.publish()["problem"] is None
        (home.secrets / checkpoints.SECRET).unlink()
    keys = [key for file in home.audit.glob("*.vkey") for key in auditfiles.keys_of(file)]
    assert len({key.name for key in keys}) == 1
    assert len(keys) == 2
    report = auditfiles.verify(export(engine, tmp_path / "audit.jsonl"), *auditfiles.checkpoints_in(place, keys))
    assert (report.outcome, report.checkpoints) == (Outcome.PASS, 2)


def test_several_processes_say_the_same(
    engine: Engine, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(30)
    publisher(engine, tmp_path / "out").publish()
    path = export(engine, tmp_path / "audit.jsonl")
    place = auditfiles.place(tmp_path / "out")
    points = auditfiles.checkpoints_in(place, [KEY.verifier])
    whole = auditfiles.verify(path, *points, processes=2)
    assert whole == auditfiles.verify(path, *points, processes=1)
    assert whole.outcome is Outcome.PASS
    path.write_bytes(path.read_bytes()[:-10])
    assert auditfiles.verify(path, *points, processes=2).breaks[0].kind == "form"
    path.write_bytes(b"")
    assert auditfiles.verify(path, *points).breaks[0].kind == "truncated"
