"""What really happened, read back through each system's own interface: never from the demo's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from windtunnel import names
from windtunnel.home import Home
from windtunnel.serving.backend import Traffic
from windtunnel.stackfile import StackFile, read_secret

MODEL = "visits"


@dataclass(frozen=True, slots=True)
class Champion:
    """MLflow's answer to "who is champion?"."""

    version: str
    semver: str
    stage: str


class Facts:
    """One reader per system."""

    def __init__(self, home: Home) -> None:
        from windtunnel.registry.connect import from_home

        self.home = home
        self.stack = StackFile.read(home)
        self.registry = from_home(home)
        self._mlflow = httpx.Client(
            base_url=self.stack.urls["mlflow"], auth=("admin", read_secret(home, "mlflow-admin")), timeout=30
        )

    def mlflow(self, path: str, **params: str) -> dict[str, Any]:
        """MLflow's own REST API, with a person's log-in."""
        answer = self._mlflow.get(f"/api/2.0/mlflow/{path}", params=params)
        if answer.status_code == 404:
            return {}
        answer.raise_for_status()
        return dict(answer.json())

    def champion(self) -> Champion | None:
        told = self.mlflow("registered-models/alias", name=MODEL, alias="champion").get("model_version")
        if not told:
            return None
        record = self.registry.version(MODEL, str(told["version"]))
        return Champion(str(told["version"]), record.semver or "?", str(told.get("current_stage", "")))

    def ever_champion(self) -> list[str]:
        """Every version number that was champion at some time."""
        return [row.version for row in self.registry.champion_history(MODEL)]

    def envoy_requests(self, version: str) -> int:
        """Envoy's own counter of requests sent to one version's server since Envoy started."""
        cluster = names.arm_id(MODEL, version)
        socket = self.home.serving / "envoy" / "admin.sock"
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket.resolve())), timeout=10) as client:
            told = client.get("http://envoy/stats", params={"format": "json", "filter": "upstream_rq_total$"}).json()
        for stat in told["stats"]:
            if cluster in stat.get("name", ""):
                return int(stat["value"])
        return 0

    def traffic(self) -> Traffic:
        """The router's access log, counted by the meter."""
        from windtunnel.serving.local import LocalBackend

        return LocalBackend(self.home).traffic(MODEL)

    def logged_predictions(self, start: float, end: float) -> dict[str, int]:
        """Rows of the Parquet prediction log by version."""
        from windtunnel.serving.predictions import PredictionLog

        frame = PredictionLog(self.home.predictions).read(MODEL, start, end, columns=["prediction_id", "version"])
        return {str(version): int(n) for version, n in frame["version"].value_counts().items()}

    def loss_on(self, start: float, end: float, *, cost_sharing: bool) -> dict[str, tuple[float, int]]:
        """(mean absolute error, rows) by version on live, labelled members of one population."""
        import pandas as pd

        from windtunnel.evaluation import metrics
        from windtunnel.serving.predictions import PredictionLog
        from windtunnel.serving.predictions.labels import Labels, joined

        rows = joined(PredictionLog(self.home.predictions), Labels(self.home.labels), MODEL, start, end).frame
        rows = rows[rows["label"].notna() & rows["prediction"].notna()]
        rows = rows[(rows["feature_lncoins"] > 0) == cost_sharing]
        told = {}
        for version, part in rows.groupby("version"):
            loss = metrics.compute(
                "mae",
                pd.to_numeric(part["label"]).to_numpy(float),
                pd.to_numeric(part["prediction"]).to_numpy(float),
            )
            told[str(version)] = (float(loss), len(part))
        return told

    def close(self) -> None:
        self._mlflow.close()
