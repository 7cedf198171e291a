"""Airflow's tables: made or upgraded beside the database that is in use, then put in its place in one step.

A migration that is interrupted therefore leaves the database as it was; on SQLite, which cannot roll back all of
Alembic's work, nothing else would.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
from importlib.metadata import version
from pathlib import Path

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.stack import airflow, files
from windtunnel.stack.database import Databases
from windtunnel.stack.supervisor import clean_environment


def _state_file(home: Home) -> Path:
    return home.airflow / "schema.json"


def _wanted(databases: Databases) -> dict[str, str]:
    return {"airflow": version("apache-airflow-core"), "database": databases.kind}


def needed(home: Home, databases: Databases) -> bool:
    """Whether Airflow's tables are missing or older than the installed Airflow."""
    if databases.kind == "sqlite" and not (home.airflow / "airflow.db").exists():
        return True
    try:
        return bool(json.loads(_state_file(home).read_text(encoding="utf-8")) != _wanted(databases))
    except (OSError, ValueError):
        return True


class Migration:
    """One ``airflow db migrate``, running beside everything else that starts."""

    def __init__(self, home: Home, databases: Databases) -> None:
        self.home, self.databases = home, databases
        self.log = home.logs / "airflow-migrate.log"
        self._partial: Path | None = None
        env = clean_environment(home) | airflow.environment(home, [home.dags])
        if databases.kind == "sqlite":
            self._partial = home.airflow / "airflow.db.partial"
            self._remove_partial()
            if (home.airflow / "airflow.db").exists():
                _copy(home.airflow / "airflow.db", self._partial)
            env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{self._partial}"
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                airflow.command("db", "migrate"),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=home.airflow,
                env=env,
                start_new_session=True,
                umask=0o077,
            )

    def done(self) -> bool:
        """True when the new tables are in place; False while it runs.

        Raises:
            StackError: it failed; the old database is untouched.
        """
        code = self._process.poll()
        if code is None:
            return False
        if code != 0:
            tail = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise StackError(f"airflow db migrate ended with code {code}: {' | '.join(tail)}", hint=f"see {self.log}")
        if self._partial:
            # Fold the write-ahead log into the file, so that one rename moves everything.
            with contextlib.closing(sqlite3.connect(self._partial)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._partial.chmod(0o600)
            final = self.home.airflow / "airflow.db"
            for suffix in ("-wal", "-shm"):
                final.with_name(final.name + suffix).unlink(missing_ok=True)
            self._partial.replace(final)
            self._remove_partial()
        files.write(_state_file(self.home), json.dumps(_wanted(self.databases)) + "\n")
        return True

    def stop(self) -> None:
        """End it at once; the old database is untouched."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
        self._remove_partial()

    def _remove_partial(self) -> None:
        if self._partial:
            for suffix in ("", "-wal", "-shm", "-journal"):
                self._partial.with_name(self._partial.name + suffix).unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """A consistent copy of a SQLite file, its write-ahead log included.

    Raises:
        StackError: there is no room for it.
    """
    try:
        with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
            old.backup(new)
        shutil.copymode(source, target)
    except (sqlite3.Error, OSError) as error:
        raise StackError(f"cannot copy {source} before its upgrade: {error}", hint="free some space") from error
