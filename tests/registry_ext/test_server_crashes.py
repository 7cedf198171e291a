"""DEMAND REG-2: a server killed at any write of a registration leaves nothing half-made and nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from windtunnel_mlflow.versions import scratch

pytestmark = pytest.mark.real
SCRIPT = Path(__file__).parent / "crashing.py"


@pytest.mark.parametrize(
    "name", ["second", *(pytest.param(one, marks=pytest.mark.long) for one in ("first", "again", "dangerous"))]
)
def test_killed_at_each_write_point(name: str, registry_server: Any, tmp_path: Path) -> None:
    # Making MLflow's tables takes longer than all the rest.
    with (
        contextlib.closing(sqlite3.connect(registry_server.home.mlflow / "mlflow.db")) as source,
        contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as copy,
    ):
        source.backup(copy)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), name], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)[name]
    assert found["wrong"] == {}, f"{len(found['wrong'])} of {len(found['points'])}"
    points = " ".join(found["points"])
    assert len(found["points"]) >= 20
    for known in ("wt_versions", "wt_audit", "wt_outbox", "commit", "windtunnel-seal"):
        assert known in points
    # Wherever it died: one version under the key, with what it would have had.
    assert len(found["ends"]) == len(found["points"])
    told = ("audit", "events") if name == "dangerous" else ()  # what failed is tried again, which is told again
    whole = {key: value for key, value in found["whole"].items() if key not in told}
    assert whole["status"] == ("FAILED_REGISTRATION" if name == "dangerous" else "READY")
    for end in found["ends"]:
        assert {key: value for key, value in end.items() if key not in told} == whole


def test_temporary_folders_of_the_dead_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    with scratch.folder("seal") as mine:
        # This pid with another start time is another process, which is gone.
        for name in (f"windtunnel-seal-{os.getpid()}.1-abc", "windtunnel-elsewhere", "windtunnel-seal-x.y-abc"):
            (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / f"windtunnel-sign-{os.getpid()}.1-file").write_text("not a folder")
        (tmp_path / f"windtunnel-sign-{os.getpid()}.1-link").symlink_to(tmp_path / "windtunnel-elsewhere")
        assert scratch.sweep() == 1
        assert mine.is_dir()
    assert sorted(path.name.partition(".")[0].rstrip("0123456789") for path in tmp_path.iterdir()) == [
        "windtunnel-elsewhere", "windtunnel-seal-x", "windtunnel-sign-", "windtunnel-sign-"
    ]  # fmt: skip
