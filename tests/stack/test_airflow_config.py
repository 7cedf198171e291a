"""airflow.cfg, as Airflow's own parser reads it."""

from __future__ import annotations

import configparser
import json
from pathlib import Path

import pytest

from windtunnel.home import Home
from windtunnel.stack import airflow, database, secretbox


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    secretbox.ensure(home)
    return home


def rendered(home: Home, **changes: object) -> configparser.ConfigParser:
    arguments: dict[str, object] = {
        "ports": {"airflow": 8123, "mlflow": 5001, "envoy": 8085},
        "database_url": database.find(home).airflow,
        "bundles": (home.dags, Path("/srv/team")),
        "cores": 2,
    }
    parser = configparser.ConfigParser()
    parser.read_string(airflow.render(airflow.config(home, **{**arguments, **changes})))  # type: ignore[arg-type]
    return parser


def test_loopback_only_and_authenticated(home: Home) -> None:
    """DEMAND OPS-6: everything authenticated by default, loopback only when embedded."""
    read = rendered(home)
    assert read["api"]["host"] == "127.0.0.1"
    assert read["api"]["base_url"] == "http://127.0.0.1:8123"
    assert read["core"]["simple_auth_manager_users"] == "admin:admin"
    assert "simple_auth_manager_all_admins" not in read["core"]
    assert read["usage_data_collection"]["enabled"] == "False"
    for program in airflow.programs(home, [home.dags]):
        if program.name in ("airflow-scheduler", "airflow-triggerer"):
            assert "--skip-serve-logs" in program.argv  # those servers listen on every address


def test_dag_folders_become_bundles_seen_within_seconds(home: Home) -> None:
    bundles = json.loads(rendered(home)["dag_processor"]["dag_bundle_config_list"])
    assert [bundle["kwargs"]["path"] for bundle in bundles] == [str(home.dags), "/srv/team"]
    assert all(bundle["kwargs"]["refresh_interval"] <= 5 for bundle in bundles)
    assert len({bundle["name"] for bundle in bundles}) == 2


def test_the_connection_is_a_file_behind_a_secrets_backend(home: Home) -> None:
    read = rendered(home)
    path = json.loads(read["secrets"]["backend_kwargs"])["connections_file_path"]
    assert path == str(airflow.connections_path(home))
    plain = json.loads(airflow.connections(home, mlflow_port=5001))["windtunnel_default"]
    assert plain["conn_type"] == "windtunnel" and plain["login"] == "service" and plain["port"] == 5001
    assert plain["password"] == (home.secrets / "mlflow-service").read_text().strip()


def test_a_persons_settings_win_and_percent_signs_survive(home: Home) -> None:
    read = rendered(home, overrides={"core": {"parallelism": "3"}, "own": {"x": "50%"}})
    assert read["core"]["parallelism"] == "3"
    assert read["own"]["x"] == "50%"


def test_sqlite_waits_for_locks_and_postgresql_does_not_get_its_arguments(home: Home) -> None:
    assert "sql_alchemy_connect_args" in rendered(home)["database"]
    other = rendered(home, database_url="postgresql+psycopg2://u:p%40@h/d")
    assert "sql_alchemy_connect_args" not in other["database"]
    assert other["database"]["sql_alchemy_conn"] == "postgresql+psycopg2://u:p%40@h/d"


def test_no_secret_in_a_command_or_an_environment(home: Home) -> None:
    """DEMAND OPS-6: secrets are never in process lists."""
    secrets = [path.read_text().strip() for path in home.secrets.iterdir()]
    for program in airflow.programs(home, [home.dags]):
        told = " ".join([*program.argv, *program.env.values()])
        assert not [secret for secret in secrets if secret in told]


def test_secrets_are_private_made_once_and_different(home: Home) -> None:
    before = {path.name: path.read_text() for path in home.secrets.iterdir()}
    assert secretbox.ensure(home) == set()
    assert {path.name: path.read_text() for path in home.secrets.iterdir()} == before
    assert len(set(before.values())) == len(before) == len(secretbox.MAKERS)
    assert home.secrets.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in home.secrets.iterdir()} == {0o600}
