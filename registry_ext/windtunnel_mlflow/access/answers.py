"""Reads from Airflow itself who answered a human-in-the-loop task, so that a worker's word is not needed.

A worker may ask a question in any words, but it cannot answer one as a person: Airflow writes ``responded_by`` only
for a user who is logged in. The question must be the one this registry would ask (``question``), in a DAG that may ask
it, or a person's yes to something else could be passed off as a yes to this.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from windtunnel.errors import DescriptionError
from windtunnel.registry.approvals import REASON_FIELD
from windtunnel.registry.orders import APPROVE, CONTROL_DAG
from windtunnel.tls import authorities
from windtunnel_mlflow.refusal import Refusal

ENV_URL, ENV_USER, ENV_PASSWORD = "WINDTUNNEL_AIRFLOW_URL", "WINDTUNNEL_AIRFLOW_USERNAME", "WINDTUNNEL_AIRFLOW_PASSWORD"
#: A file: whose certificates it is known by, where Airflow has an authority of the house.
ENV_CA = "WINDTUNNEL_AIRFLOW_CA"
_TIMEOUT = 5.0

#: (the task's coordinates) -> Airflow's answer about its human-in-the-loop detail.
Ask = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person answered, as Airflow has it.

    Attributes:
        person: the name in Airflow.
        reason: what the person wrote beside it; empty where nothing.
        at: when, in Airflow's words: the same task asked again is another answer.
    """

    person: str
    reason: str
    at: str


def approved_by(ask: Ask, task: Mapping[str, Any], wanted: str, *, dags: Collection[str] = (CONTROL_DAG,)) -> str:
    """Name of the person who approved ``wanted`` in the task.

    Args:
        task: ``dag_id``, ``dag_run_id``, ``task_id`` and ``map_index``.
        wanted: the question, as the registry would ask it.
        dags: ids of the DAGs that may ask it.

    Raises:
        Refusal: WT_ANSWER; nobody did, or Airflow cannot be asked.
    """
    return answered(ask, task, {wanted: APPROVE}, dags=dags).person


def answered(ask: Ask, task: Mapping[str, Any], wanted: Mapping[str, str], *, dags: Collection[str]) -> Answer:
    """A person's answer to one of the questions that mean the same.

    Args:
        task: ``dag_id``, ``dag_run_id``, ``task_id`` and ``map_index``.
        wanted: the answer expected to each question, as the registry would ask it.
        dags: ids of the DAGs that may ask it.

    Raises:
        Refusal: WT_ANSWER; nobody gave it, or Airflow cannot be asked.
    """
    if task.get("dag_id") not in dags:
        raise _refused(f"the answer is of DAG {task.get('dag_id')!r}, expected {' or '.join(map(repr, dags))}")
    detail = ask(task)
    asked = str(detail.get("subject"))
    if asked not in wanted:
        raise _refused(f"the question was {asked[:200]!r}, expected {' or '.join(map(repr, wanted))}")
    if detail.get("chosen_options") != [wanted[asked]]:
        raise _refused(f"the answer is {detail.get('chosen_options')!r}, expected {wanted[asked]!r}")
    person = detail.get("responded_by_user")
    if not isinstance(person, Mapping) or not person.get("name"):
        raise _refused("no person answered: a time-out, or a program, did")
    written = detail.get("params_input")
    said = written.get(REASON_FIELD) if isinstance(written, Mapping) else None
    return Answer(str(person["name"]), said.strip() if isinstance(said, str) else "", str(detail.get("responded_at")))


def from_airflow(task: Mapping[str, Any]) -> dict[str, Any]:
    """Airflow's own record of one human-in-the-loop task.

    The address and a log-in come from ``WINDTUNNEL_AIRFLOW_URL``, ``_USERNAME`` and ``_PASSWORD``, else from the
    embedded stack of ``WINDTUNNEL_HOME``; whose certificates to believe from ``WINDTUNNEL_AIRFLOW_CA``, a file read
    anew each time, else as for any client.

    Raises:
        Refusal: WT_ANSWER; it cannot be asked.
    """
    import httpx

    url, name, password = _access()
    path = (
        f"/api/v2/dags/{_q(task.get('dag_id'))}/dagRuns/{_q(task.get('dag_run_id'))}"
        f"/taskInstances/{_q(task.get('task_id'))}/{_q(task.get('map_index', -1))}/hitlDetails"
    )
    try:
        named = os.environ.get(ENV_CA)
        believed = ssl.create_default_context(cafile=named) if named else authorities()
        with httpx.Client(base_url=url, timeout=_TIMEOUT, trust_env=False, verify=believed) as http:
            token = http.post("/auth/token", json={"username": name, "password": password}).raise_for_status().json()
            bearer = {"Authorization": f"Bearer {token['access_token']}"}
            found = http.get(path, headers=bearer).raise_for_status().json()
    except (httpx.HTTPError, OSError, DescriptionError, ValueError, KeyError) as error:
        raise _refused(f"Airflow at {url} cannot be asked who answered: {type(error).__name__}: {error}") from error
    if not isinstance(found, dict):
        raise _refused(f"Airflow at {url} answered something else")
    return found


def _access() -> tuple[str, str, str]:
    if os.environ.get(ENV_URL):
        return os.environ[ENV_URL].rstrip("/"), os.environ.get(ENV_USER, ""), os.environ.get(ENV_PASSWORD, "")
    from windtunnel.errors import StackError
    from windtunnel.home import ENV_HOME, Home
    from windtunnel.stackfile import StackFile, read_secret

    if not os.environ.get(ENV_HOME):
        raise _refused(f"this registry knows no Airflow to ask who answered (set {ENV_URL})")
    home = Home.find()
    try:
        return StackFile.read(home).urls["airflow"], "admin", read_secret(home, "airflow-admin")
    except (StackError, KeyError) as error:
        raise _refused(f"this registry knows no Airflow to ask who answered: {error}") from error


def _refused(why: str) -> Refusal:
    return Refusal(
        "WT_ANSWER", f"nobody is known to have approved this: {why}", hint="order with your own credential instead"
    )


def _q(part: Any) -> str:
    return quote(str(part), safe="")
