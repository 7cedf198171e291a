"""The home folder of an embedded stack: which file lives where.

Paths only. Who writes a file is said beside it; nothing here touches the disk except
``Home.find``, which looks at the environment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ENV_HOME = "WINDTUNNEL_HOME"
#: Set where the home ends with the process, as in a pod without a volume: what has to stay is kept elsewhere.
ENV_TEMPORARY = "WINDTUNNEL_HOME_TEMPORARY"


@dataclass(frozen=True, slots=True)
class Home:
    """Every path of the embedded stack, from one root."""

    root: Path

    @classmethod
    def find(cls, explicit: str | Path | None = None) -> Home:
        """``explicit``, else ``$WINDTUNNEL_HOME``, else ``~/.windtunnel``."""
        chosen = explicit or os.environ.get(ENV_HOME) or Path.home() / ".windtunnel"
        return cls(Path(chosen).expanduser().resolve())

    # -- stack: written by `windtunnel up`
    @property
    def stack_file(self) -> Path:
        """Ports, URLs and interpreter paths of the running stack; no secret."""
        return self.root / "stack.json"

    @property
    def secrets(self) -> Path:
        """Folder, mode 0700; one file per secret, mode 0600."""
        return self.root / "secrets"

    @property
    def supervisor(self) -> Path:
        """supervisord.conf, its unix socket, and conf.d/ with one file per model server."""
        return self.root / "supervisor"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def airflow(self) -> Path:
        """AIRFLOW_HOME."""
        return self.root / "airflow"

    @property
    def dags(self) -> Path:
        """DAG files the embedded Airflow reads."""
        return self.root / "dags"

    @property
    def mlflow(self) -> Path:
        """Database and artifacts of the MLflow server."""
        return self.root / "mlflow"

    @property
    def audit(self) -> Path:
        """``checkpoints/`` of the audit and the public keys ``*.vkey``; written by the MLflow server."""
        return self.root / "audit"

    # -- training: written by the detached runner, one folder per MLflow run id
    @property
    def runs(self) -> Path:
        return self.root / "runs"

    # -- pipelines: step data, see PIP-2
    @property
    def pipelines(self) -> Path:
        return self.root / "pipelines"

    # -- serving: written by the local backend
    @property
    def serving(self) -> Path:
        """envoy/ (bootstrap, cds, rds, admin.sock), models/MODEL/, traffic/."""
        return self.root / "serving"

    @property
    def access_log(self) -> Path:
        """Envoy's JSON access log: the source of counts, errors and latency."""
        return self.serving / "envoy" / "access.jsonl"

    def serving_environment(self, name: str) -> Path:
        """A server environment of its own, for models that name it (``serving.environment``)."""
        return self.root / "serving-envs" / name

    def serving_model(self, model: str) -> Path:
        """Desired state, lease, look log and verified copies of one model."""
        return self.serving / "models" / model

    # -- monitoring
    @property
    def predictions(self) -> Path:
        """Root of the prediction log (Parquet, see docs/reference/prediction-log.md)."""
        return self.root / "predictions"

    @property
    def labels(self) -> Path:
        """Root of the labels that arrive late, ``MODEL/*.parquet``."""
        return self.root / "labels"

    @property
    def monitoring(self) -> Path:
        """References, window states and reports, ``MODEL/...``."""
        return self.root / "monitoring"
