"""What a registration needs to know of MLflow's run, as it is now: it may be edited or deleted later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlDataset, SqlInput, SqlRun, SqlTag
from sqlalchemy import select

from windtunnel_mlflow.replicas import tracking_store


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        place: URI of its artifacts.
        user: who runs it, as it says itself.
        datasets: ``(name, digest, source)`` of its inputs.
    """

    run_id: str
    experiment_id: str
    place: str
    user: str
    tags: Mapping[str, str]
    datasets: tuple[tuple[str, str, str], ...]

    @property
    def trainer(self) -> str | None:
        """The run's user, as it is said now; whoever may edit the run could say otherwise later."""
        return str(self.tags.get("mlflow.user") or self.user or "")[:256] or None


class Runs:
    """Runs by id, each asked for once."""

    def __init__(self) -> None:
        self._known: dict[str, Run] = {}

    def get(self, run_id: str) -> Run:
        """Raises: MlflowException: there is none."""
        if run_id not in self._known:
            self._known[run_id] = read(tracking_store(), run_id)
        return self._known[run_id]

    def of(self, run_id: str | None) -> Run | None:
        """None where there is none."""
        try:
            return None if run_id is None else self.get(run_id)
        except MlflowException:
            return None


def read(tracking: Any, run_id: str) -> Run:
    """MLflow reads metrics, parameters, outputs and more for a run: seven questions to the database instead of three.

    Raises:
        MlflowException: there is none.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if isinstance(tracking, SqlAlchemyStore):
        with tracking.ManagedSessionMaker() as session:
            columns = SqlRun.experiment_id, SqlRun.artifact_uri, SqlRun.user_id
            row = session.execute(select(*columns).where(SqlRun.run_uuid == run_id)).first()
            if row is not None:
                tags = session.execute(select(SqlTag.key, SqlTag.value).where(SqlTag.run_uuid == run_id)).tuples()
                data = session.execute(
                    select(SqlDataset.name, SqlDataset.digest, SqlDataset.dataset_source)
                    .join(SqlInput, SqlInput.source_id == SqlDataset.dataset_uuid)
                    .where(SqlInput.destination_type == "RUN", SqlInput.destination_id == run_id)
                )
                found = tuple((one.name, one.digest, one.dataset_source) for one in data)
                return Run(run_id, str(row.experiment_id), row.artifact_uri, row.user_id or "", dict(tags.all()), found)
    run = tracking.get_run(run_id)
    inputs = [] if run.inputs is None else [one.dataset for one in run.inputs.dataset_inputs]
    return Run(
        run.info.run_id,
        str(run.info.experiment_id),
        run.info.artifact_uri,
        run.info.user_id or "",
        dict(run.data.tags),
        tuple((one.name, one.digest, one.source) for one in inputs),
    )
