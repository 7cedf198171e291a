"""DEMAND OPS-4: doctor finds what is wrong and says how to mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from windtunnel.home import Home
from windtunnel.stack import doctor, secretbox


@pytest.mark.parametrize(
    ("found", "result"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 12), "ok"), ((3, 13), "warn"), ((3, 14), "warn")]
)
def test_python(found: tuple[int, int], result: str) -> None:
    finding = doctor.judge_python(found)
    assert finding.result == result
    assert bool(finding.mend) == (result != "ok")


@pytest.mark.parametrize(
    ("found", "result"),
    [(None, "fail"), ("3.2.9", "fail"), ("3.3.0", "ok"), ("3.3.12", "ok"), ("3.4.0", "fail"), ("4.0.0", "fail")],
)
def test_package(found: str | None, result: str) -> None:
    finding = doctor.judge_package("airflow", found, (3, 3), (3, 4))
    assert finding.result == result
    assert bool(finding.mend) == (result != "ok")


def test_a_secret_that_others_can_read_is_found(tmp_path: Path) -> None:
    home = Home(tmp_path)
    secretbox.ensure(home)
    assert list(doctor.loose(home)) == []
    (home.secrets / "mlflow-admin").chmod(0o640)
    assert list(doctor.loose(home)) == [home.secrets / "mlflow-admin"]
    home.secrets.chmod(0o755)
    assert home.secrets in list(doctor.loose(home))


def test_an_open_configuration_matters_where_the_home_is_open(tmp_path: Path) -> None:
    home = Home(tmp_path)
    secretbox.ensure(home)
    home.airflow.mkdir()
    (home.airflow / "airflow.cfg").write_text("x")
    (home.airflow / "airflow.cfg").chmod(0o644)
    tmp_path.chmod(0o755)
    assert list(doctor.loose(home)) == [home.airflow / "airflow.cfg"]
    tmp_path.chmod(0o700)
    assert list(doctor.loose(home)) == []


def test_a_check_that_breaks_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(home: Home) -> list[doctor.Finding]:
        raise RuntimeError("boom")

    monkeypatch.setattr(doctor, "CHECKS", (broken,))
    (finding,) = doctor.examine(Home(tmp_path))
    assert finding.result == "fail" and "boom" in finding.found


def test_a_wrong_settings_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "windtunnel.toml").write_text("[prots]\n")
    monkeypatch.setattr(doctor, "CHECKS", (doctor._disk,))
    (finding,) = doctor.examine(Home(tmp_path))
    assert finding.result == "fail" and "prots" in finding.found


def test_clock_that_went_backwards(tmp_path: Path) -> None:
    import os
    import time

    home = Home(tmp_path)
    home.stack_file.write_text("{}")
    os.utime(home.stack_file, (time.time() + 3600,) * 2)
    (finding,) = list(doctor._clock(home))
    assert finding.result == "fail"
