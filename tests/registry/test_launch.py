"""How the governed server is launched: no secret on the command line, nothing written by the plan itself."""

from __future__ import annotations

import configparser
from pathlib import Path

from windtunnel.home import Home
from windtunnel.registry import launch


def test_plan(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    plan = launch.prepare(home, 5001, python="/py")
    assert plan.argv == ("/py", "-m", "windtunnel_mlflow.serve", "--host", "127.0.0.1", "--port", "5001")
    assert plan.env["MLFLOW_REGISTRY_STORE_URI"] == f"windtunnel+sqlite:///{home.mlflow}/mlflow.db"
    assert plan.env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert plan.env["WINDTUNNEL_HOME"] == str(home.root)
    assert [file.mode for file in plan.files] == [0o600]
    assert not home.root.exists()


def test_a_database_password_is_in_env_and_file_only(tmp_path: Path) -> None:
    url = "postgresql+psycopg2://wt:p%40ss@db/mlflow"
    plan = launch.prepare(Home(tmp_path), 5001, database_url=url)
    assert "p%40ss" not in " ".join(plan.argv)
    assert plan.env["MLFLOW_REGISTRY_STORE_URI"] == f"windtunnel+{url}"
    ini = configparser.ConfigParser()
    ini.read_string(plan.files[0].content)
    assert ini["mlflow"]["database_uri"] == url
    assert ini["mlflow"]["auth_cache_ttl_seconds"] == "300"
