"""Deployments through MLflow's own deployments client: SageMaker, Databricks, or any plugin's target."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from windtunnel.errors import DataError, DescriptionError
from windtunnel_airflow.plain import plain
from windtunnel_airflow.tracking_server.base import MlflowOperator, needed


def target_environment(connection: Any) -> dict[str, str]:
    """What a target's own client reads of the environment, from an Airflow connection of type aws or databricks.

    Raises:
        DescriptionError: the connection is of another type.
    """
    kind, extra = connection.conn_type, connection.extra_dejson or {}
    if kind == "aws":
        found = {
            "AWS_ACCESS_KEY_ID": connection.login,
            "AWS_SECRET_ACCESS_KEY": connection.password,
            "AWS_SESSION_TOKEN": extra.get("aws_session_token"),
            "AWS_DEFAULT_REGION": extra.get("region_name"),
        }
    elif kind == "databricks":
        found = {"DATABRICKS_HOST": connection.host, "DATABRICKS_TOKEN": extra.get("token") or connection.password}
    else:
        raise DescriptionError(
            f"connection {connection.conn_id!r} of type {kind!r} cannot be given to a deployment target",
            hint="expected aws or databricks; other targets take their credentials from target_env",
        )
    return {key: str(value) for key, value in found.items() if value}


class DeploymentOperator(MlflowOperator):
    """Base of the operators on deployments.

    Args:
        target_uri: MLflow's name of the target: ``sagemaker:/region``, ``databricks``, a plugin's.
        target_conn_id: connection (aws, databricks) whose credentials the target's client gets.
        target_env: environment variables the target's client gets.
        endpoint: where the target knows endpoints: the one meant.
    """

    operator_extra_links: Any = ()
    template_fields: Sequence[str] = (
        *MlflowOperator.template_fields, "target_uri", "target_conn_id", "target_env", "endpoint",
    )  # fmt: skip

    def __init__(
        self,
        *,
        target_uri: str,
        target_conn_id: str | None = None,
        target_env: Mapping[str, str] | None = None,
        endpoint: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.target_uri = target_uri
        self.target_conn_id = target_conn_id
        self.target_env = target_env
        self.endpoint = endpoint

    @contextmanager
    def client(self) -> Iterator[Any]:
        """MLflow's client of the target; the environment is put back afterwards."""
        wanted = {str(key): str(value) for key, value in (self.target_env or {}).items()}
        if self.target_conn_id:
            wanted = {**target_environment(self.hook.get_connection(self.target_conn_id)), **wanted}
        with self.hook.mlflow_environment():
            before = {key: os.environ.get(key) for key in wanted}
            os.environ.update(wanted)
            try:
                import mlflow
                from mlflow.deployments import get_deploy_client
                from mlflow.exceptions import MlflowException

                mlflow.set_tracking_uri(self.hook.url)
                try:
                    client = get_deploy_client(needed(self.target_uri, "target_uri", self.task_id))
                except MlflowException as error:
                    raise DescriptionError(
                        f"task {self.task_id!r}: MLflow knows no deployment target {self.target_uri!r}: {error}",
                        hint="is the target's plugin installed in the worker's environment?",
                    ) from error
                yield client
            finally:
                for key, value in before.items():
                    if value is None:
                        os.environ.pop(key, None)
                    else:
                        os.environ[key] = value

    def where(self) -> dict[str, Any]:
        """The endpoint, for targets that know endpoints; plugins may not take the argument at all."""
        return {"endpoint": self.endpoint} if self.endpoint else {}


class NamedDeploymentOperator(DeploymentOperator):
    """Base of the operators on one deployment.

    Args:
        name: of the deployment.
    """

    template_fields: Sequence[str] = (*DeploymentOperator.template_fields, "name")

    def __init__(self, *, name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name


class CreateDeploymentOperator(NamedDeploymentOperator):
    """Deploy a model; a deployment of that name is brought to this model, so that a retry ends the same.

    Returns what the target says of it, and ``new``.

    Args:
        model_uri: ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, ``runs:/...``.
        flavor: of the model; the target chooses unless told.
        config: the target's own settings.
    """

    template_fields: Sequence[str] = (*NamedDeploymentOperator.template_fields, "model_uri", "flavor", "config")

    def __init__(
        self, *, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.model_uri = model_uri
        self.flavor = flavor
        self.config = config

    def execute(self, context: Any) -> dict[str, Any]:
        name, uri = needed(self.name, "name", self.task_id), needed(self.model_uri, "model_uri", self.task_id)
        with self.client() as client:
            there = _there(client, name, self.where())
            act = client.update_deployment if there else client.create_deployment
            config = None if self.config is None else dict(self.config)
            found = act(name=name, model_uri=uri, flavor=self.flavor, config=config, **self.where())
        return {**_small(found), "name": name, "new": not there}


class GetDeploymentOperator(NamedDeploymentOperator):
    """Returns what the target says of a deployment."""

    def execute(self, context: Any) -> dict[str, Any]:
        with self.client() as client:
            return _small(client.get_deployment(name=needed(self.name, "name", self.task_id), **self.where()))


class DeleteDeploymentOperator(NamedDeploymentOperator):
    """Take a deployment away; one that is not there is no error. Returns ``{"name", "deleted"}``."""

    def execute(self, context: Any) -> dict[str, Any]:
        name = needed(self.name, "name", self.task_id)
        with self.client() as client:
            if not _there(client, name, self.where()):
                return {"name": name, "deleted": False}
            client.delete_deployment(name=name, **self.where())
        return {"name": name, "deleted": True}


class ListDeploymentsOperator(DeploymentOperator):
    """Returns what the target says of each of its deployments."""

    def execute(self, context: Any) -> list[dict[str, Any]]:
        with self.client() as client:
            return [_small(found) for found in client.list_deployments(**self.where())]


class PredictDeploymentOperator(NamedDeploymentOperator):
    """Ask a deployment for predictions. Returns them, so keep them few; or writes them to a file and returns its path.

    Args:
        inputs: rows as a list of mappings, or whatever the target takes; or
        inputs_path: a ``.parquet``, ``.csv`` or ``.json`` file.
        output_path: a ``.json`` file to write instead of returning predictions; it takes its name when it is whole.
    """

    template_fields: Sequence[str] = (
        *NamedDeploymentOperator.template_fields, "inputs", "inputs_path", "output_path",
    )  # fmt: skip

    def __init__(
        self, *, inputs: Any = None, inputs_path: str | None = None, output_path: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.inputs = inputs
        self.inputs_path = inputs_path
        self.output_path = output_path

    def execute(self, context: Any) -> Any:
        if (self.inputs is None) == (self.inputs_path is None):
            raise DescriptionError(f"task {self.task_id!r}: give either inputs or inputs_path")
        inputs = _read(Path(self.inputs_path)) if self.inputs_path else _frame(self.inputs)
        with self.client() as client:
            found = client.predict(
                deployment_name=needed(self.name, "name", self.task_id), inputs=inputs, **self.where()
            )
        told = plain(found.to_dict("records") if hasattr(found, "to_dict") else _unwrapped(found))
        if not self.output_path:
            return told
        from windtunnel import files

        path = Path(self.output_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, told)
        return {"output": str(path), "rows": len(told) if isinstance(told, list) else 1}


def _there(client: Any, name: str, where: Mapping[str, Any]) -> bool:
    return any(found.get("name") == name for found in client.list_deployments(**where))


def _small(found: Any) -> dict[str, Any]:
    values = found if isinstance(found, Mapping) else {"answer": found}
    return {str(key): plain(value) for key, value in values.items()}


def _unwrapped(found: Any) -> Any:
    """MLflow's own ``PredictionsResponse`` is a mapping with the rows in ``predictions``."""
    inside = found.get("predictions") if isinstance(found, Mapping) else None
    return found if inside is None else inside


def _frame(inputs: Any) -> Any:
    if isinstance(inputs, list) and inputs and all(isinstance(row, Mapping) for row in inputs):
        import pandas as pd

        return pd.DataFrame(inputs)
    return inputs


def _read(path: Path) -> Any:
    import pandas as pd

    readers = {".parquet": pd.read_parquet, ".csv": pd.read_csv, ".json": pd.read_json}
    if path.suffix not in readers:
        raise DataError(f"{path} is none of {', '.join(readers)}")
    if not path.exists():
        raise DataError(f"there is no file {path}")
    return readers[path.suffix](path)
