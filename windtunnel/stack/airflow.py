"""The embedded Airflow: its airflow.cfg, log-in, connection and DAG folder; its four programs.

Everything secret is in two 0600 files below AIRFLOW_HOME (``airflow.cfg``, ``passwords.json``) and one below
HOME/secrets (``airflow-connections.json``); nothing is in a command line, and nothing in the environment of a task.

The connection ``windtunnel_default`` comes from a secrets backend that reads a file, not from
``airflow connections import``: a port that changes is then a file that changes, with no six-second Airflow command
at each start, and a copy of Airflow's database holds no password.
"""

from __future__ import annotations

import configparser
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from windtunnel.home import Home
from windtunnel.stack.programs import Program
from windtunnel.stackfile import read_secret

CONNECTION = "windtunnel_default"
PROGRAMS = ("airflow-api", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")


def config(
    home: Home,
    *,
    ports: Mapping[str, int],
    database_url: str,
    bundles: Sequence[Path],
    cores: int,
    overrides: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, dict[str, str]]:
    """Options of airflow.cfg by section.

    Args:
        bundles: folders with DAG files; the first is the home's own.
        cores: of this machine. Tasks here mostly wait for a detached runner, so three may share a core.
        overrides: from HOME/windtunnel.toml; they win.
    """
    port = ports["airflow"]
    logs = home.logs / "airflow"
    options: dict[str, dict[str, str]] = {
        "core": {
            "executor": "LocalExecutor",
            "parallelism": str(max(4, min(16, 3 * cores))),
            "dags_folder": str(home.dags),
            "plugins_folder": str(home.airflow / "plugins"),
            "load_examples": "False",
            "dags_are_paused_at_creation": "False",
            # "from windtunnel_airflow import lifecycle" makes DAGs without the word that the safe mode looks for.
            "dag_discovery_safe_mode": "False",
            "fernet_key": read_secret(home, "airflow-fernet"),
            "simple_auth_manager_users": "admin:admin",
            "simple_auth_manager_passwords_file": str(home.airflow / "passwords.json"),
            "hostname_callable": "socket.gethostname",
            # The library's classes may travel in XComs; nothing else is turned back into an object.
            "allowed_deserialization_classes": "airflow.* windtunnel.* windtunnel_airflow.*",
            "min_serialized_dag_update_interval": "5",
        },
        "database": {
            "sql_alchemy_conn": database_url,
            # Several processes write to one file: wait for a lock instead of failing after five seconds.
            **(
                {
                    "sql_alchemy_connect_args": "windtunnel.stack.database.SQLITE_CONNECT_ARGS",
                    "sql_alchemy_connect_args_async": "windtunnel.stack.database.SQLITE_CONNECT_ARGS_ASYNC",
                }
                if database_url.startswith("sqlite")
                else {}
            ),
        },
        "api": {
            "host": "127.0.0.1",
            "port": str(port),
            "base_url": f"http://127.0.0.1:{port}",
            "workers": "1",
            "worker_timeout": "120",
            "secret_key": read_secret(home, "airflow-api-key"),
            "expose_config": "False",
        },
        "api_auth": {"jwt_secret": read_secret(home, "airflow-jwt")},
        "secrets": {
            "backend": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
            "backend_kwargs": json.dumps({"connections_file_path": str(connections_path(home))}),
        },
        "logging": {
            "base_log_folder": str(logs),
            "dag_processor_child_process_log_directory": str(logs / "dag_processor"),
            "json_logs": "True",
            "colored_console_log": "False",
            "file_task_handler_new_folder_permissions": "0o700",
            "file_task_handler_new_file_permissions": "0o600",
        },
        "scheduler": {
            "catchup_by_default": "False",
            "enable_health_check": "False",
            # Local processes: a task that lost its process is found within a minute, not after five.
            "task_instance_heartbeat_timeout": "60",
            "orphaned_tasks_check_interval": "30",
            "task_queued_timeout": "120",
            "task_queued_timeout_check_interval": "30",
            "max_dagruns_per_loop_to_schedule": "20",
        },
        "dag_processor": {
            "dag_bundle_config_list": json.dumps(
                [
                    {
                        "name": "windtunnel" if number == 0 else f"folder-{number}",
                        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
                        "kwargs": {"path": str(path), "refresh_interval": 5},
                    }
                    for number, path in enumerate(bundles)
                ]
            ),
            "dag_bundle_storage_path": str(home.airflow / "bundles"),
            "refresh_interval": "5",
            "bundle_refresh_check_interval": "5",
            "min_file_process_interval": "30",
            "parsing_processes": "1",
            "disable_bundle_versioning": "True",
        },
        # A gate waits in the triggerer: after a kill -9 the next one takes over well within a rollout's lease.
        "triggerer": {"capacity": "200", "job_heartbeat_sec": "3", "triggerer_health_check_threshold": "12"},
        "usage_data_collection": {"enabled": "False"},
    }
    for section, changes in (overrides or {}).items():
        options.setdefault(section, {}).update(changes)
    return options


def render(options: Mapping[str, Mapping[str, str]]) -> str:
    """airflow.cfg. Airflow interpolates %, so each one is doubled."""
    parser = configparser.RawConfigParser()
    for section, values in options.items():
        parser[section] = {key: text.replace("%", "%%") for key, text in values.items()}
    out = io.StringIO()
    out.write("# written by 'windtunnel up'; set options in windtunnel.toml, [airflow.SECTION]\n")
    parser.write(out)
    return out.getvalue()


def connections_path(home: Home) -> Path:
    return home.secrets / "airflow-connections.json"


def connections(home: Home, *, mlflow_port: int) -> str:
    """The file behind the secrets backend: how operators reach the governed registry."""
    return json.dumps(
        {
            CONNECTION: {
                "conn_type": "windtunnel",
                "host": "127.0.0.1",
                "port": mlflow_port,
                "schema": "http",
                "login": "service",
                "password": read_secret(home, "mlflow-service"),
            }
        },
        indent=1,
    )


def passwords(home: Home) -> str:
    """The log-ins of Airflow's simple auth manager."""
    return json.dumps({"admin": read_secret(home, "airflow-admin")})


def environment(home: Home, bundles: Sequence[Path]) -> dict[str, str]:
    """Environment of Airflow's programs: no secret in it."""
    return {
        "WINDTUNNEL_HOME": str(home.root),
        "AIRFLOW_HOME": str(home.airflow),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "/usr/bin:/bin")]),
        "PYTHONPATH": os.pathsep.join(str(path) for path in bundles),
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        # Parsing and tasks fork from one process: fewer malloc arenas, less memory.
        "MALLOC_ARENA_MAX": "2",
    }


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "airflow", *words]


def programs(home: Home, bundles: Sequence[Path]) -> list[Program]:
    """API server, scheduler, DAG processor, triggerer.

    Nobody serves logs over the network: all parts share this disk, and Airflow's log servers listen everywhere.
    """
    env = environment(home, bundles)
    api, scheduler, processor, triggerer = PROGRAMS
    return [
        Program(api, command("api-server"), env, home.airflow, stop_wait_s=5),
        Program(scheduler, command("scheduler", "--skip-serve-logs"), env, home.airflow, stop_wait_s=6),
        Program(processor, command("dag-processor"), env, home.airflow, stop_wait_s=5),
        Program(triggerer, command("triggerer", "--skip-serve-logs"), env, home.airflow, stop_wait_s=5),
    ]
