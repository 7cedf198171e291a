"""``windtunnel up``: start the embedded stack."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_stack

NAME = "up"

_PORT: dict[str, Any] = {"min": 1, "max": 65535, "show_default": False, "metavar": "PORT"}


def command(
    context: typer.Context,
    airflow_port: Annotated[int | None, typer.Option(help="Airflow's port [a free one].", **_PORT)] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="MLflow's port [a free one].", **_PORT)] = None,
    envoy_port: Annotated[int | None, typer.Option(help="The models' port [a free one].", **_PORT)] = None,
    dags: Annotated[
        list[Path] | None,
        typer.Option(help="A folder with your DAG files; may be repeated.", metavar="FOLDER", show_default=False),
    ] = None,
    examples: Annotated[bool, typer.Option("--examples", help="Show the example models' DAGs too.")] = False,
    database_url: Annotated[str | None, typer.Option(hidden=True)] = None,
    json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Start everything; wait until healthy.

    Airflow, MLflow with the governed registry, the model router and the guard, on loopback, under one home. The
    generated passwords are shown the first time.
    """
    from windtunnel.stack import database

    if database_url is not None:
        try:
            database.refuse_password()
        except Exception as error:
            talk.fail(error, talk.USAGE)
    start = time.monotonic()
    told = {"airflow": airflow_port, "mlflow": mlflow_port, "envoy": envoy_port}
    stack = the_stack(context, home)
    talk.say(f"windtunnel: {stack.home.root}")
    started = stack.up(
        ports={server: port for server, port in told.items() if port},
        dag_folders=dags or (),
        examples=None if examples else (),
        tell=lambda line: talk.say(f"  {time.monotonic() - start:5.1f} s  {line}"),
    )
    urls, secrets = started.file.urls, stack.home.secrets
    if json:
        talk.data_json(
            "windtunnel.up/1",
            {
                "already_running": started.already,
                "home": started.file.home,
                "urls": urls,
                "secrets": str(secrets),
                "seconds": started.seconds,
            },
        )
        return
    talk.say("already running" if started.already else f"running after {time.monotonic() - start:.1f} s")
    for server, what in (("airflow", "Airflow"), ("mlflow", "MLflow")):
        password = started.passwords.get(server)
        login = f"user admin, password {password}" if password else f"user admin, password in {secrets}/{server}-admin"
        talk.data(f"{what:<8} {urls[server]}   {login}")
    talk.data(f"{'Models':<8} {urls['inference']}/v2/models/MODEL/infer")
    if started.passwords:
        talk.say(f"the passwords are shown this once; they are kept in {secrets} (mode 0600)")
