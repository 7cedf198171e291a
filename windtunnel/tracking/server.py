"""The few words of MLflow a run speaks while it lives, without importing mlflow where the server is a server.

``RestTracking`` talks to an MLflow server; ``StoreTracking`` goes through ``MlflowClient`` for the other URIs
(``sqlite:///...``). Credentials come from MLflow's own variables: ``MLFLOW_TRACKING_USERNAME`` with
``MLFLOW_TRACKING_PASSWORD``, or ``MLFLOW_TRACKING_TOKEN``; so does whose certificates are believed
(``MLFLOW_TRACKING_SERVER_CERT_PATH``, ``MLFLOW_TRACKING_INSECURE_TLS``), else httpx's own ``SSL_CERT_FILE``.
"""

from __future__ import annotations

import math
import os
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from windtunnel.errors import DescriptionError, TrainingError, UnavailableError

RunState = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

#: MLflow cuts nothing, it refuses: what is longer is cut here and says so.
TAG_LIMIT = 5000
PARAM_LIMIT = 6000


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One value of one metric; ``timestamp`` in milliseconds."""

    key: str
    value: float
    timestamp: int
    step: int


class NotAllowedError(TrainingError):
    """The server does not let this user do it; trying again does not help."""


class Tracking(Protocol):
    """What the run needs of a tracking server."""

    def log_batch(
        self, run_id: str, metrics: Sequence[MetricPoint], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """Store at most 1,000 metrics, 100 params and 100 tags.

        Raises:
            UnavailableError: no answer, try again.
            TrainingError: the server refuses exactly this; trying again does not help.
        """

    def set_state(self, run_id: str, state: RunState, end_time: int | None) -> None:
        """Open or close the run."""

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str], key: str) -> str:
        """A new run, or the one made with the same key before."""

    def artifacts(self, run_id: str, path: str) -> dict[str, int]:
        """Path (below ``path``) -> size of every artifact the server has there."""


def cut(text: str, limit: int) -> str:
    """``text``, or its beginning with a note how much is missing."""
    if len(text) <= limit:
        return text
    note = f"... (cut, {len(text)} characters)"
    return text[: limit - len(note)] + note


def connect(uri: str, *, timeout: float = 10.0, env: Mapping[str, str] | None = None) -> Tracking:
    """The right way to speak to ``uri``.

    Args:
        env: MLflow's variables, where they are not this process's own.
    """
    if uri.startswith(("http://", "https://")):
        return RestTracking(uri, timeout=timeout, env=env)
    return StoreTracking(uri)


def _number(value: float) -> float | str:
    """JSON has no NaN; MLflow's REST takes protobuf's names for it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _verify(env: Mapping[str, str]) -> ssl.SSLContext | bool:
    """What httpx checks the server's certificate with, as MLflow's own client does it.

    Raises:
        DescriptionError: the file cannot be used.
    """
    if env.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        return False
    named = env.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    if not named:
        return True
    try:
        return ssl.create_default_context(cafile=named)
    except (OSError, ssl.SSLError) as error:
        raise DescriptionError(
            f"MLFLOW_TRACKING_SERVER_CERT_PATH: {named} holds no authorities: {error}",
            hint="expected a PEM file with the authority that signed the MLflow server's certificate",
        ) from error


class RestTracking:
    """MLflow's REST API over httpx."""

    def __init__(self, uri: str, *, timeout: float = 10.0, env: Mapping[str, str] | None = None) -> None:
        import httpx

        env = os.environ if env is None else env
        token = env.get("MLFLOW_TRACKING_TOKEN")
        user = env.get("MLFLOW_TRACKING_USERNAME")
        self._client = httpx.Client(
            base_url=uri.rstrip("/"),
            timeout=timeout,
            auth=(user, env.get("MLFLOW_TRACKING_PASSWORD", "")) if user and not token else None,
            headers={"Authorization": f"Bearer {token}"} if token else None,
            verify=_verify(env),
        )

    def _call(self, method: str, path: str, **request: Any) -> Any:
        import httpx

        try:
            answer = self._client.request(method, f"/api/2.0/{path}", **request)
        except httpx.HTTPError as error:
            raise UnavailableError(f"the MLflow server at {self._client.base_url} did not answer: {error}") from error
        if answer.status_code >= 500 or answer.status_code == 429:
            raise UnavailableError(f"MLflow answered {answer.status_code} to {path}: {answer.text[:200]}")
        if answer.status_code >= 400:
            try:
                found = answer.json()
                text = f"{found.get('error_code')}: {found.get('message')}"
            except ValueError:
                text = answer.text[:200]
            said = f"MLflow refuses {path} ({answer.status_code}): {text}"
            if answer.status_code in (401, 403):
                hint = "check MLFLOW_TRACKING_USERNAME, its password, and that this user may edit the experiment"
                raise NotAllowedError(said, hint=hint)
            raise TrainingError(said)
        return answer.json()

    def log_batch(
        self, run_id: str, metrics: Sequence[MetricPoint], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        self._call(
            "POST",
            "mlflow/runs/log-batch",
            json={
                "run_id": run_id,
                "metrics": [
                    {"key": m.key, "value": _number(m.value), "timestamp": m.timestamp, "step": m.step} for m in metrics
                ],
                "params": [{"key": k, "value": cut(v, PARAM_LIMIT)} for k, v in params.items()],
                "tags": [{"key": k, "value": cut(v, TAG_LIMIT)} for k, v in tags.items()],
            },
        )

    def set_state(self, run_id: str, state: RunState, end_time: int | None) -> None:
        body: dict[str, Any] = {"run_id": run_id, "status": state}
        if end_time is not None:
            body["end_time"] = end_time
        self._call("POST", "mlflow/runs/update", json=body)

    def _experiment(self, name: str) -> str:
        for _ in range(2):
            try:
                found = self._call("GET", "mlflow/experiments/get-by-name", params={"experiment_name": name})
                return str(found["experiment"]["experiment_id"])
            except TrainingError as error:
                if "RESOURCE_DOES_NOT_EXIST" not in error.message:
                    raise
            try:
                return str(self._call("POST", "mlflow/experiments/create", json={"name": name})["experiment_id"])
            except TrainingError as error:  # somebody else made it in between
                if "RESOURCE_ALREADY_EXISTS" not in error.message:
                    raise
        raise UnavailableError(f"experiment {name!r} can neither be found nor made")

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str], key: str) -> str:
        experiment_id = self._experiment(experiment)
        quoted = key.replace("'", "")
        found = self._call(
            "POST",
            "mlflow/runs/search",
            json={"experiment_ids": [experiment_id], "filter": f"tags.`wt.key` = '{quoted}'", "max_results": 1},
        )
        if found.get("runs"):
            return str(found["runs"][0]["info"]["run_id"])
        made = self._call(
            "POST",
            "mlflow/runs/create",
            json={
                "experiment_id": experiment_id,
                "run_name": name,
                "start_time": int(time.time() * 1000),
                "tags": [{"key": k, "value": cut(v, TAG_LIMIT)} for k, v in {**tags, "wt.key": quoted}.items()],
            },
        )
        return str(made["run"]["info"]["run_id"])

    def artifacts(self, run_id: str, path: str) -> dict[str, int]:
        out: dict[str, int] = {}
        queue = [path]
        while queue:
            folder, token = queue.pop(), None
            while True:
                query = {"run_id": run_id, "path": folder} | ({"page_token": token} if token else {})
                found = self._call("GET", "mlflow/artifacts/list", params=query)
                for entry in found.get("files", []):
                    if entry.get("is_dir"):
                        queue.append(entry["path"])
                    else:
                        out[entry["path"].removeprefix(f"{path}/")] = int(entry.get("file_size", 0))
                token = found.get("next_page_token")
                if not token:
                    break
        return out


class StoreTracking:
    """``MlflowClient`` for URIs that are no server."""

    def __init__(self, uri: str) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)

    @staticmethod
    @contextmanager
    def _errors() -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
                raise UnavailableError(f"MLflow: {error.message}") from error
            raise TrainingError(f"MLflow refuses: {error.message}") from error

    def log_batch(
        self, run_id: str, metrics: Sequence[MetricPoint], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        with self._errors():
            self._client.log_batch(
                run_id,
                metrics=[Metric(m.key, m.value, m.timestamp, m.step) for m in metrics],
                params=[Param(k, cut(v, PARAM_LIMIT)) for k, v in params.items()],
                tags=[RunTag(k, cut(v, TAG_LIMIT)) for k, v in tags.items()],
            )

    def set_state(self, run_id: str, state: RunState, end_time: int | None) -> None:
        with self._errors():
            if end_time is None:
                self._client.update_run(run_id, status=state)
            else:
                self._client.set_terminated(run_id, status=state, end_time=end_time)

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str], key: str) -> str:
        with self._errors():
            found = self._client.get_experiment_by_name(experiment)
            experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
            quoted = key.replace("'", "")
            runs = self._client.search_runs([experiment_id], f"tags.`wt.key` = '{quoted}'", max_results=1)
            if runs:
                return str(runs[0].info.run_id)
            run = self._client.create_run(experiment_id, run_name=name, tags={**tags, "wt.key": quoted})
            return str(run.info.run_id)

    def artifacts(self, run_id: str, path: str) -> dict[str, int]:
        out: dict[str, int] = {}
        queue = [path]
        with self._errors():
            while queue:
                for entry in self._client.list_artifacts(run_id, queue.pop()):
                    if entry.is_dir:
                        queue.append(entry.path)
                    else:
                        out[entry.path.removeprefix(f"{path}/")] = int(entry.file_size or 0)
        return out
