"""PostgreSQL servers of ours on loopback, by the programs of the machine; Debian keeps them off the PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from windtunnel.loopback import any_free

OWNER = "wt"


def programs() -> Path | None:
    """The folder of the newest of them; None where there are none."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda folder: int(folder.parent.name))
    other = shutil.which("initdb")
    return Path(other).parent if other else None


class Data:
    """A folder for one server, and its programs, as a user whom PostgreSQL takes: it does not run as root."""

    def __init__(self) -> None:
        found = programs()
        if found is None:
            pytest.skip("no PostgreSQL on this machine: apt-get install postgresql")
        self.programs = found
        self.user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        self.folder = Path(tempfile.mkdtemp(prefix="wt-pg-", dir="/tmp"))
        if self.user:
            shutil.chown(self.folder, "postgres", "postgres")
        self.data = str(self.folder / "data")
        self.port = any_free()

    def run(self, name: str, *argv: str, check: bool = True) -> None:
        command = [*self.user, str(self.programs / name), *argv]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=120, check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr

    def start(self, *options: str) -> None:
        told = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -F {' '.join(options)}"
        self.run("pg_ctl", "-D", self.data, "-w", "-l", f"{self.folder}/log", "-o", told, "start")

    def end(self) -> None:
        """Stop the server, if it runs, and remove all of it."""
        self.run("pg_ctl", "-D", self.data, "-m", "immediate", "stop", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def serving(password: str | None = None) -> Iterator[str]:
    """A fresh server; the URL of its database ``postgres``, as the owner of everything.

    Args:
        password: the owner's, which it then asks for.
    """
    place = Data()
    try:
        asks = ["-A", "trust"]
        if password is not None:
            said = place.folder / "password"
            said.write_text(password)
            if place.user:
                shutil.chown(said, "postgres", "postgres")
            asks = ["-A", "scram-sha-256", "--pwfile", str(said)]
        place.run("initdb", "-D", place.data, "-U", OWNER, "--no-sync", *asks)
        place.start()
        who = OWNER if password is None else f"{OWNER}:{quote(password, safe='')}"
        yield f"postgresql+psycopg2://{who}@127.0.0.1:{place.port}/postgres"
    finally:
        place.end()


@contextmanager
def following(host: str, port: int, *options: str) -> Iterator[int]:
    """A standby of the server at that port, by streaming replication; its port.

    Args:
        options: of the standby, as ``-c name=value``.
    """
    place = Data()
    try:
        of = f"host={host} port={port} user={OWNER}"
        copy = ["-R", "-X", "stream", "--checkpoint=fast", "--no-sync"]
        place.run("pg_basebackup", "-D", place.data, "-d", of, *copy)
        place.start(*options)
        yield place.port
    finally:
        place.end()
