"""Asking the components how they are. Every question has a time limit and every failure is an answer."""

from __future__ import annotations

import http.client
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from windtunnel.home import Home
from windtunnel.names import MODEL_NAME
from windtunnel.stack.health import Answer

#: Which part of Airflow's health answer speaks for which program.
AIRFLOW_PARTS = {
    "airflow-scheduler": ("scheduler", "latest_scheduler_heartbeat"),
    "airflow-triggerer": ("triggerer", "latest_triggerer_heartbeat"),
    "airflow-dag-processor": ("dag_processor", "latest_dag_processor_heartbeat"),
}


def get(port: int, path: str, timeout_s: float = 5.0) -> tuple[int, bytes]:
    """Status and body of a GET on loopback.

    Raises:
        OSError, http.client.HTTPException: no answer in time.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def page(port: int, path: str, *, any_status: bool = False, timeout_s: float = 5.0) -> Answer:
    """Whether a server answers; 200 is asked for unless ``any_status``."""
    try:
        status, _ = get(port, path, timeout_s)
    except (OSError, http.client.HTTPException) as error:
        return Answer(False, f"no answer on port {port}: {error or type(error).__name__}")
    if status == 200 or any_status:
        return Answer(True, f"answers on port {port}")
    return Answer(False, f"answered {status} to GET {path}")


def airflow(port: int, timeout_s: float = 5.0) -> dict[str, Answer]:
    """Answers of the API server and, through it, of scheduler, triggerer and DAG processor."""
    try:
        status, body = get(port, "/api/v2/monitor/health", timeout_s)
        plain: dict[str, Any] = json.loads(body) if status == 200 else {}
    except (OSError, http.client.HTTPException, ValueError) as error:
        said = Answer(False, f"no answer on port {port}: {error or type(error).__name__}")
        return {"airflow-api": said} | {
            name: Answer(False, "the API server, which would know, does not answer") for name in AIRFLOW_PARTS
        }
    if status != 200:
        return dict.fromkeys(["airflow-api", *AIRFLOW_PARTS], Answer(False, f"the API server answered {status}"))
    return read_airflow(plain, time.time())


def read_airflow(plain: dict[str, Any], now: float) -> dict[str, Answer]:
    """Airflow's health answer, read."""
    database = (plain.get("metadatabase") or {}).get("status")
    answers = {
        "airflow-api": Answer(database == "healthy", "answers" if database == "healthy" else f"database {database}")
    }
    for name, (part, beat) in AIRFLOW_PARTS.items():
        about = plain.get(part) or {}
        status, last = about.get("status"), about.get(beat)
        age = None
        if last:
            age = max(0.0, now - datetime.fromisoformat(str(last).replace("Z", "+00:00")).timestamp())
        answers[name] = Answer(status == "healthy", "heartbeat" if status == "healthy" else f"says {status}", age)
    return answers


def heartbeat(path: Path, *, what: str) -> Answer:
    """A process that renews a file while it lives."""
    try:
        age = max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return Answer(False, f"{what} has not written {path.name} yet")
    return Answer(age <= 30, "heartbeat" if age <= 30 else f"heartbeat {age:.0f} s old", age)


def meter(home: Home) -> Answer:
    """The meter renews one file per model twice a second; while there is no model it only holds its lock file."""
    traffic = home.serving / "traffic"
    published = [path for path in traffic.glob("*.json") if MODEL_NAME.fullmatch(path.stem)]
    if published:
        return min(
            (heartbeat(path, what="the meter") for path in published),
            key=lambda answer: answer.beat_age_s if answer.beat_age_s is not None else float("inf"),
        )
    if (traffic / "_meter.lock").exists():
        return Answer(True, "no model has traffic yet")
    return Answer(False, "the meter has not started to read yet")


def ask_all(home: Home, ports: dict[str, int], timeout_s: float = 5.0) -> dict[str, Answer]:
    """Every component's answer, asked at the same time."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(airflow, ports["airflow"], timeout_s)
        mlflow = pool.submit(page, ports["mlflow"], "/health", timeout_s=timeout_s)
        envoy = pool.submit(page, ports["envoy"], "/", any_status=True, timeout_s=timeout_s)
        answers = first.result() | {"mlflow": mlflow.result(), "envoy": envoy.result()}
    answers["guard"] = heartbeat(home.serving / "guard.json", what="the guard")
    answers["meter"] = meter(home)
    return answers
