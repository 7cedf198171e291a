"""The little of Airflow's public REST API the demo needs, with a person's log-in."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx

from windtunnel.errors import UnavailableError

ENDED = ("success", "failed")


@dataclass(frozen=True, slots=True)
class DagRun:
    """One run, as Airflow tells it."""

    dag_id: str
    run_id: str
    state: str
    run_type: str
    started: str | None
    ended: str | None
    triggered_by: str
    conf: dict[str, Any]

    @property
    def over(self) -> bool:
        return self.state in ENDED


class AirflowApi:
    """Airflow as a user with ``username`` and ``password`` sees it."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self._credentials = {"username": username, "password": password}
        self._http = httpx.Client(base_url=url, timeout=30)

    def close(self) -> None:
        self._http.close()

    def log_in(self) -> None:
        answer = self._http.post("/auth/token", json=self._credentials)
        answer.raise_for_status()
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def call(self, method: str, path: str, **how: Any) -> Any:
        """One call; a server that restarts is asked again for half a minute.

        Raises:
            UnavailableError: Airflow did not answer.
            httpx.HTTPStatusError: it answered with an error.
        """
        last: Exception | None = None
        for _ in range(15):
            try:
                if "Authorization" not in self._http.headers:
                    self.log_in()
                answer = self._http.request(method, f"/api/v2{path}", **how)
                if answer.status_code == 401:
                    self._http.headers.pop("Authorization")
                    continue
                if answer.status_code >= 500:
                    last = httpx.HTTPStatusError(answer.text[:300], request=answer.request, response=answer)
                    time.sleep(2)
                    continue
                answer.raise_for_status()
                return answer.json() if answer.content else None
            except httpx.TransportError as error:
                last = error
                time.sleep(2)
        raise UnavailableError(f"Airflow does not answer {method} {path}: {last}", hint="look at 'windtunnel status'")

    def wait_for_dag(self, dag_id: str, seconds: float) -> None:
        """Until the DAG processor has read the file."""
        end = time.monotonic() + seconds
        while True:
            try:
                self.call("GET", f"/dags/{dag_id}")
                return
            except httpx.HTTPStatusError as error:
                if error.response.status_code != 404:
                    raise
            if time.monotonic() > end:
                errors = self.call("GET", "/importErrors")["import_errors"]
                told = "; ".join(f"{e['filename']}: {e['stack_trace'][-400:]}" for e in errors) or "no import error"
                raise UnavailableError(f"Airflow has not found DAG {dag_id} within {seconds:.0f} s ({told})")
            time.sleep(1)

    def unpause(self, dag_id: str, paused: bool = False) -> None:
        self.call("PATCH", f"/dags/{dag_id}", json={"is_paused": paused})

    def trigger(self, dag_id: str, conf: dict[str, Any], run_id: str) -> None:
        """Start a run by hand; the same ``run_id`` twice is one run."""
        try:
            self.call(
                "POST", f"/dags/{dag_id}/dagRuns", json={"dag_run_id": run_id, "logical_date": None, "conf": conf}
            )
        except httpx.HTTPStatusError as error:
            if error.response.status_code != 409:
                raise

    def runs(self, dag_id: str, limit: int = 50) -> list[DagRun]:
        """Newest first."""
        told = self.call("GET", f"/dags/{dag_id}/dagRuns", params={"order_by": "-run_after", "limit": limit})
        return [
            DagRun(
                dag_id=run["dag_id"],
                run_id=run["dag_run_id"],
                state=run["state"],
                run_type=run["run_type"],
                started=run["start_date"],
                ended=run["end_date"],
                triggered_by=run.get("triggered_by") or "",
                conf=run.get("conf") or {},
            )
            for run in told["dag_runs"]
        ]

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return list(
            self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", params={"limit": 200})["task_instances"]
        )

    def upstream_events(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The asset events that started a run."""
        return list(self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/upstreamAssetEvents")["asset_events"])
