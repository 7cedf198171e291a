"""DEMAND OPS-4: a wrong settings file names the key and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.stack import settings


def test_no_file_means_defaults(tmp_path: Path) -> None:
    assert settings.read(Home(tmp_path)) == settings.Settings()


def test_everything_that_can_be_set(tmp_path: Path) -> None:
    (tmp_path / "windtunnel.toml").write_text(
        "[ports]\nairflow = 8123\n[limits]\nlogs_mb = 10\nartifacts_mb = 0\nmin_free_mb = 7\n"
        '[dags]\npaths = ["/srv/dags"]\n[audit]\npublish = "s3://kept/audit"\nevery_s = 5\n'
        "[airflow.scheduler]\ntask_instance_heartbeat_timeout = 20\n"
    )
    read = settings.read(Home(tmp_path))
    assert read.ports == {"airflow": 8123}
    assert (read.logs_mb, read.artifacts_mb, read.min_free_mb) == (10, 0, 7)
    assert read.dags == (Path("/srv/dags"),)
    assert (read.audit_publish, read.audit_every_s) == ("s3://kept/audit", 5)
    assert read.airflow == {"scheduler": {"task_instance_heartbeat_timeout": "20"}}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[port]\nairflow = 1", "port"),
        ("ports = 3", "ports"),
        ("[ports]\nairflaw = 8080", "airflaw"),
        ("[ports]\nairflow = 80800", "80800"),
        ("[ports]\nairflow = true", "True"),
        ("[limits]\nlogs = 3", "logs"),
        ("[limits]\nlogs_mb = -1", "-1"),
        ('[dags]\npaths = "x"', "dags"),
        ("[airflow]\nscheduler = 3", "scheduler"),
        ("[audit]\nplace = 's3://x'", "audit"),
        ("[audit]\npublish = 3", "audit"),
        ("[audit]\nevery_s = 0", "every_s"),
        ("[ports\n", "windtunnel.toml"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "windtunnel.toml").write_text(text)
    with pytest.raises(StackError, match=named) as caught:
        settings.read(Home(tmp_path))
    assert caught.value.hint
