"""Kills a registration at each of its write points, starts again, and says what is wrong then.

``python crashing.py FOLDER SCENARIO...`` with ``mlflow.db`` (MLflow's and our tables) in it; prints JSON. A process of
its own, because it forks: each point is one child that is killed (SIGKILL) and one that starts again and looks.

Points are found, not listed: whatever the registration writes by SQL or commits, and every file below the folder that
it writes, makes, renames or removes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORK = Path(sys.argv[1]).resolve()
ARTIFACTS, SCRATCH, LIVE = WORK / "artifacts", WORK / "scratch", WORK / "live.db"
for variable, value in {
    "WINDTUNNEL_HOME": str(WORK / "home"),
    "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(ARTIFACTS),
    "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
    "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{LIVE}",
    "MLFLOW_TRACKING_URI": f"sqlite:///{LIVE}",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TMPDIR": str(SCRATCH),
}.items():
    os.environ[variable] = value
for path in (ARTIFACTS, SCRATCH, WORK / "home"):
    path.mkdir(mode=0o700)
tempfile.tempdir = str(SCRATCH)

from mlflow.entities.model_registry import ModelVersionTag  # noqa: E402
from mlflow.server import constants  # noqa: E402
from mlflow.server.handlers import _get_artifact_repo_mlflow_artifacts  # noqa: E402
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion  # noqa: E402
from sqlalchemy import event, select  # noqa: E402

from windtunnel.evidence.manifest import Manifest  # noqa: E402
from windtunnel.safety import signature  # noqa: E402
from windtunnel.safety.keys import KeyRing  # noqa: E402
from windtunnel_mlflow import records, replicas, tables  # noqa: E402
from windtunnel_mlflow.access import identity  # noqa: E402
from windtunnel_mlflow.ledger import audit  # noqa: E402
from windtunnel_mlflow.store import GovernedStore  # noqa: E402
from windtunnel_mlflow.versions.sealer import Sealer  # noqa: E402
from windtunnel_mlflow.versions.signing import sign  # noqa: E402

assert constants.ARTIFACTS_DESTINATION_ENV_VAR == "_MLFLOW_SERVER_ARTIFACT_DESTINATION"
MODEL = "sea"
MLMODEL = "flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n"
_V = tables.versions
_WRITES = ("INSERT", "UPDATE", "DELETE", "BEGIN")
_FILES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod")


def open_store() -> GovernedStore:
    store = GovernedStore(f"sqlite:///{LIVE}")
    store.artifact_repo = _get_artifact_repo_mlflow_artifacts()
    return store


def seal(store: GovernedStore, model: str, number: int) -> None:
    """What the sealer does, in this thread, so that its points come in one order."""
    Sealer(store, store.artifact_repo)._seal(model, number)


def a_run(files: dict[str, bytes]) -> str:
    store = replicas.tracking_store()
    run_id = store.create_run("0", "ann", 0, [], "run").info.run_id
    folder = ARTIFACTS / "0" / run_id / "artifacts" / "model"
    folder.mkdir(parents=True)
    for name, content in {"MLmodel": MLMODEL.encode(), "weights": run_id.encode(), **files}.items():
        (folder / name).write_bytes(content)
    return str(run_id)


def register(store: GovernedStore, run_id: str) -> int:
    return store.register(
        MODEL,
        source=f"runs:/{run_id}/model",
        run_id=run_id,
        recipe={"recipe": "boosted", "data": f"sha256:{run_id}"},
        tags=[ModelVersionTag("team", "a"), ModelVersionTag("late", "yes")],
        description="one",
        correlation_id="c1",
        cause="test",
    ).number


# -- what is registered, and what must be there in the end


def first(store: GovernedStore) -> str:
    return a_run({})


def second(store: GovernedStore) -> str:
    former = a_run({})
    seal(store, MODEL, register(store, former))
    return a_run({"more": b"x"})


def dangerous(store: GovernedStore) -> str:
    return a_run({"model.pkl": b"cos\nsystem\n(S'true'\ntR."})


def again(store: GovernedStore) -> str:
    """It failed before, for want of its MLmodel file, and is registered once more with it."""
    run_id = a_run({})
    described = ARTIFACTS / "0" / run_id / "artifacts" / "model" / "MLmodel"
    described.unlink()
    seal(store, MODEL, register(store, run_id))
    described.write_text(MLMODEL)
    return run_id


SCENARIOS: dict[str, Callable[[GovernedStore], str]] = {
    "first": first,
    "second": second,
    "dangerous": dangerous,
    "again": again,
}


# -- dying


class Points:
    """Counts what is written from now on, and ends the process at one of them."""

    def __init__(self, store: GovernedStore, die_at: int | None) -> None:
        self.passed: list[str] = []
        self._die_at = die_at
        self._armed = True
        event.listen(store.engine, "before_cursor_execute", self._statement)
        event.listen(store.engine, "commit", lambda _: self._point("commit"))
        sys.addaudithook(self._hook)

    def _statement(self, _: Any, __: Any, statement: str, *___: Any) -> None:
        verb = statement.lstrip().split(" ", 1)[0].upper()
        if verb in _WRITES:
            self._point(" ".join(statement.split()[:3]))

    def _hook(self, name: str, args: tuple[Any, ...]) -> None:
        if name not in _FILES or not self._armed or not args or not isinstance(args[0], (str, bytes, Path)):
            return
        if name == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
        path = os.fsdecode(args[0])
        if path.startswith(str(WORK)):
            self._point(f"{name} {Path(path).name}")

    def _point(self, what: str) -> None:
        if not self._armed:
            return
        if len(self.passed) == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed.append(what)

    def off(self) -> None:
        self._armed = False


def child(work: Callable[[], Any]) -> tuple[int, Any]:
    """Do it in a fork; how it ended (minus the signal, where it was killed), and what it answered."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        code = 1
        try:
            answer = json.dumps(work()).encode()
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(answer)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), json.loads(said) if said else None


def dying(store: GovernedStore, run_id: str, die_at: int | None) -> list[str]:
    points = Points(store, die_at)
    seal(store, MODEL, register(store, run_id))
    points._point("end")
    points.off()
    return points.passed


# -- starting again


def look(store: GovernedStore) -> list[str]:
    """What no moment may show, also before anything was repaired."""
    wrong = []
    with store.reading() as session:
        ours = {row.version: row for row in session.execute(select(_V).where(_V.c.model == MODEL))}
        theirs = {
            row.version: row
            for row in session.execute(
                select(SqlModelVersion.version, SqlModelVersion.status).where(SqlModelVersion.name == MODEL)
            )
        }
        chain = session.execute(select(tables.audit).where(tables.audit.c.model == MODEL).order_by(tables.audit.c.seq))
        if (at := audit.broken([dict(row) for row in chain.mappings()])) is not None:
            wrong.append(f"the audit is broken at {at}")
    if set(ours) != set(theirs):
        wrong.append(f"ours {sorted(ours)}, MLflow's {sorted(theirs)}")
    for number, row in ours.items():
        if number in theirs and theirs[number].status != row.status:
            wrong.append(f"version {number} is {row.status} for us and {theirs[number].status} for MLflow")
        if (row.status == "READY") != (row.digest is not None and row.manifest is not None):
            wrong.append(f"version {number} is {row.status} with digest {row.digest}")
    return wrong


def _ring() -> KeyRing:
    ring = KeyRing.configured()
    assert ring is not None
    return ring


def end_of(store: GovernedStore, run_id: str) -> dict[str, Any]:
    with store.reading() as session:
        found = session.execute(select(_V).where(_V.c.model == MODEL, _V.c.key == run_id)).all()
        if len(found) != 1:
            return {"versions": len(found)}
        number = found[0].version
        version = records.version(session, MODEL, number)
        said = [
            row.action
            for row in session.execute(
                select(tables.audit)
                .where(tables.audit.c.model == MODEL, tables.audit.c.version == str(number))
                .order_by(tables.audit.c.seq)
            )
        ]
        events = session.execute(
            select(tables.outbox.c.kind)
            .where(tables.outbox.c.model == MODEL, tables.outbox.c.version == str(number))
            .order_by(tables.outbox.c.seq)
        ).scalars()
        scans = session.execute(
            select(tables.verdicts.c.outcome).where(
                tables.verdicts.c.model == MODEL, tables.verdicts.c.version == str(number)
            )
        ).scalars()
        assert version is not None
        sealed = Manifest.from_dict(version["manifest"]) if version["manifest"] else None
        plain = store.get_model_version(MODEL, number)
        return {
            "version": version["version"],
            "semver": version["semver"],
            "status": version["status"],
            "digest": version["digest"],
            "signed_by": None if sealed is None else signature.verify(sealed, _ring(), model=MODEL),
            "audit": said,
            "events": list(events),
            "scans": list(scans),
            "tags": {key: value for key, value in plain.tags.items() if not key.startswith("windtunnel.")},
            "description": plain.description,
        }


def starting_again(run_id: str) -> dict[str, Any]:
    store = open_store()
    wrong = look(store)
    sealer = Sealer(store, store.artifact_repo, workers=1)
    pending = store.pending_seals()
    sealer.resume()
    for model, number in pending:
        sealer.submit(model, number).result(60)
    wrong += look(store)
    if store.pending_seals():
        wrong.append(f"still pending: {store.pending_seals()}")
    if left := [path.name for path in SCRATCH.iterdir()]:
        wrong.append(f"left behind: {left}")
    before = end_of(store, run_id)
    number = register(store, run_id)
    if "version" in before and before["status"] == "READY" and before != end_of(store, run_id):
        wrong.append(f"registering again changed {before} to {end_of(store, run_id)}")
    if before.get("status") != "READY":
        seal(store, MODEL, number)
    return {"wrong": wrong, "end": end_of(store, run_id)}


def main() -> None:
    identity.server_side.set(True)
    source = WORK / "mlflow.db"
    told: dict[str, Any] = {}
    shutil.copy(source, LIVE)
    _ring().ensure()
    # What every child needs is imported, and looked up, once; no connection is taken over into a fork.
    sign(Manifest({"a": ("0" * 64, 1)}, "sha256:0"), MODEL, _ring())
    store = open_store()
    store.engine.dispose()
    replicas.tracking_store().engine.dispose()
    for name in sys.argv[2:]:
        prepare = SCENARIOS[name]

        def prepared(prepare: Callable[[GovernedStore], str] = prepare) -> str:
            store = open_store()
            with contextlib.suppress(Exception):
                store.create_registered_model(MODEL)
            return prepare(store)

        def restore(saved: Path) -> None:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{LIVE}{suffix}").unlink(missing_ok=True)
            shutil.rmtree(SCRATCH)
            SCRATCH.mkdir(mode=0o700)
            shutil.copy(saved, LIVE)

        began = time.monotonic()
        restore(source)
        code, run_id = child(prepared)
        assert code == 0, name
        checkpointed(LIVE)
        saved = WORK / f"{name}.db"
        shutil.copy(LIVE, saved)
        restore(saved)
        code, points = child(lambda: dying(store, run_id, None))  # noqa: B023
        assert code == 0, name
        code, whole = child(lambda: starting_again(run_id))  # noqa: B023
        assert code == 0, name
        wrong = {} if not whole["wrong"] else {"uninterrupted": whole["wrong"]}
        ends = []
        for number, point in enumerate(points):
            restore(saved)
            code, _ = child(lambda: dying(store, run_id, number))  # noqa: B023
            if code != -signal.SIGKILL:
                wrong[f"{number} {point}"] = [f"was not killed there: {code}"]
                continue
            code, found = child(lambda: starting_again(run_id))  # noqa: B023
            if code != 0:
                wrong[f"{number} {point}"] = ["could not start again"]
                continue
            ends.append(found["end"])
            if found["wrong"]:
                wrong[f"{number} {point}"] = found["wrong"]
        told[name] = {
            "points": points, "wrong": wrong, "whole": whole["end"], "ends": ends, "took": time.monotonic() - began
        }  # fmt: skip
    print(json.dumps(told))


def checkpointed(path: Path) -> None:
    """Everything of the database in its one file."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


if __name__ == "__main__":
    main()
