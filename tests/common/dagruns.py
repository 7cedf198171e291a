"""Asking an Airflow for a run of a DAG."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
from waiting import until


def trigger(airflow: httpx.Client, path: str, conf: dict[str, Any] | None = None) -> str:
    """Post a run to ``path`` (``.../dagRuns``) until Airflow has it; its id.

    An Airflow that has just started waits for SQLite's lock, and gives up after 30 s (500); 409: it has it by then.
    """
    body = {"dag_run_id": f"asked-{uuid.uuid4()}", "logical_date": None, "conf": conf or {}}
    until(lambda: airflow.post(path, json=body).status_code in (200, 409), 300)
    return str(body["dag_run_id"])
