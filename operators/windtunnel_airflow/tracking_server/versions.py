"""Operators on model versions: create, get, update, copy, delete, search, stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from windtunnel.errors import NotFoundError
from windtunnel_airflow.links import MlflowRunLink, ModelVersionLink, RegisteredModelLink
from windtunnel_airflow.tracking_server import calls, shapes
from windtunnel_airflow.tracking_server.base import REQUEST_TAG, needed, request_key
from windtunnel_airflow.tracking_server.lineage import model_dataset, named_dataset, operator_lineage
from windtunnel_airflow.tracking_server.models import ModelOperator, SearchOperator


class CreateModelVersionOperator(ModelOperator):
    """Register a model's files as a version, and wait until it is READY.

    The same task of the same DAG run gets the same version however often it is tried; so does the same ``key``. On a
    governed registry the run is the key, and the version is sealed before this ends. Returns ``{"name", "version",
    "stage", "status", "source", "run_id", "aliases", "tags", "new"}``.

    Args:
        source: where the files are: ``runs:/RUN/model``, ``models:/m-...``, or any artifact URI.
        run_id: the run that made them; that of a ``runs:/`` source unless told.
        tags: a mapping, or MLflow's list of ``{"key", "value"}``.
        run_link: link to a run of another server.
        description: words about it.
        create_model: make the registered model when it is not there.
        key: the caller's own key instead of the task's.
        ready_within: seconds to wait for READY.
    """

    operator_extra_links: Any = (RegisteredModelLink(), ModelVersionLink(), MlflowRunLink())
    template_fields: Sequence[str] = (
        *ModelOperator.template_fields, "source", "run_id", "tags", "run_link", "description", "key",
    )  # fmt: skip

    def __init__(
        self,
        *,
        source: str,
        run_id: str | None = None,
        tags: Any = None,
        run_link: str | None = None,
        description: str | None = None,
        create_model: bool = True,
        key: str | None = None,
        ready_within: float = 600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.run_id = run_id
        self.tags = tags
        self.run_link = run_link
        self.description = description
        self.create_model = create_model
        self.key = key
        self.ready_within = ready_within
        self._made: dict[str, Any] | None = None

    def execute(self, context: Any) -> dict[str, Any]:
        name, source = self.begin(), needed(self.source, "source", self.task_id)
        run_id = self.run_id or (source.removeprefix("runs:/").split("/")[0] if source.startswith("runs:/") else None)
        if self.create_model:
            calls.ensure_model(self.rest, name)
        made, new = calls.create_version(
            self.rest,
            name,
            self._absolute(source),
            key=request_key(context, self.key),
            key_tag=REQUEST_TAG,
            run_id=run_id,
            run_link=self.run_link or None,
            description=self.description or None,
            tags=self.tags,
        )
        self.note_version(name, str(made["version"]))
        found = shapes.version(calls.await_ready(self.rest, name, str(made["version"]), self.ready_within))
        if found["run_id"]:
            self._link_run(found["run_id"])
        self._made = {**found, "asked": source}
        return {**found, "new": new}

    def _absolute(self, source: str) -> str:
        """MLflow's server takes no ``runs:/`` as a source; its own client resolves them before it asks."""
        if not source.startswith("runs:/"):
            return source
        run_id, _, below = source.removeprefix("runs:/").partition("/")
        root = self.rest.get("/runs/get", run_id=run_id)["run"]["info"]["artifact_uri"]
        return f"{root.rstrip('/')}/{below}"

    def _link_run(self, run_id: str) -> None:
        try:
            self.note_run(run_id, calls.get_run(self.rest, run_id)["experiment_id"])
        except NotFoundError:
            self.log.info("Run %s is not on this server", run_id)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """The files as input, the version as output."""
        made = self._made
        if made is None:
            return None
        return operator_lineage(
            [named_dataset(made["asked"])], [model_dataset(self.hook.url, made["name"], made["version"])]
        )


class VersionOperator(ModelOperator):
    """Base of the operators on one version.

    Args:
        version: its number.
    """

    operator_extra_links: Any = (RegisteredModelLink(), ModelVersionLink())
    template_fields: Sequence[str] = (*ModelOperator.template_fields, "version")

    def __init__(self, *, version: str | int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version

    def chosen(self) -> tuple[str, str]:
        """Model and version, noted for the links."""
        name, version = self.begin(), needed(self.version, "version", self.task_id)
        self.note_version(name, version)
        return name, version


class GetModelVersionOperator(ModelOperator):
    """A version by its number or by an alias; returns what ``CreateModelVersionOperator`` returns, without ``new``.

    Args:
        version: its number, or
        alias: an alias that points to it.
    """

    operator_extra_links: Any = (RegisteredModelLink(), ModelVersionLink())
    template_fields: Sequence[str] = (*ModelOperator.template_fields, "version", "alias")

    def __init__(self, *, version: str | int | None = None, alias: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.alias = alias

    def execute(self, context: Any) -> dict[str, Any]:
        name = self.begin()
        version = None if self.version is None else str(self.version)
        found = shapes.version(calls.find_version(self.rest, name, version, self.alias))
        self.note_version(name, found["version"])
        return found


class GetLatestModelVersionsOperator(ModelOperator):
    """The newest version of each stage; returns a list of what ``GetModelVersionOperator`` returns.

    Args:
        stages: only these; all unless told.
    """

    template_fields: Sequence[str] = (*ModelOperator.template_fields, "stages")

    def __init__(self, *, stages: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stages = stages

    def execute(self, context: Any) -> list[dict[str, Any]]:
        stages = list(self.stages) if self.stages else None
        found = self.rest.send("POST", "/registered-models/get-latest-versions", name=self.begin(), stages=stages)
        return [shapes.version(plain) for plain in found.get("model_versions") or []]


class UpdateModelVersionOperator(VersionOperator):
    """Set and remove tags and the description of a version; returns what ``GetModelVersionOperator`` returns.

    Args:
        tags: to set.
        remove_tags: keys to remove; one that is not there is no error.
        description: None leaves it as it is.
    """

    template_fields: Sequence[str] = (*VersionOperator.template_fields, "tags", "remove_tags", "description")

    def __init__(
        self, *, tags: Any = None, remove_tags: Sequence[str] = (), description: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.tags = tags
        self.remove_tags = remove_tags
        self.description = description

    def execute(self, context: Any) -> dict[str, Any]:
        name, version = self.chosen()
        present = calls.find_version(self.rest, name, version, None)
        calls.change_tags(self.rest, {"name": name, "version": version}, self.tags, self.remove_tags, present)
        if self.description is not None:
            self.rest.send("PATCH", "/model-versions/update", name=name, version=version, description=self.description)
        return shapes.version(calls.find_version(self.rest, name, version, None))


class TransitionModelVersionStageOperator(VersionOperator):
    """Give a version a stage; returns what ``GetModelVersionOperator`` returns.

    On a governed registry ``Production`` is policy's: the refusal says what is missing.

    Args:
        stage: None, Staging, Production or Archived.
        archive_existing_versions: archive the others of that stage.
    """

    template_fields: Sequence[str] = (*VersionOperator.template_fields, "stage")

    def __init__(self, *, stage: str, archive_existing_versions: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.archive_existing_versions = archive_existing_versions

    def execute(self, context: Any) -> dict[str, Any]:
        name, version = self.chosen()
        found = self.rest.send(
            "POST",
            "/model-versions/transition-stage",
            name=name,
            version=version,
            stage=needed(self.stage, "stage", self.task_id) if self.stage != "None" else "None",
            archive_existing_versions=self.archive_existing_versions,
        )
        return shapes.version(found["model_version"])


class CopyModelVersionOperator(ModelOperator):
    """Copy a version to another model of the same server; returns what ``CreateModelVersionOperator`` returns.

    Args:
        version: number of the version of ``name``, or
        alias: an alias that points to it.
        to: the other model; made when it is not there.
        key: the caller's own key instead of the task's.
        ready_within: seconds to wait for READY.
    """

    operator_extra_links: Any = (RegisteredModelLink(), ModelVersionLink())
    template_fields: Sequence[str] = (*ModelOperator.template_fields, "version", "alias", "to", "key")

    def __init__(
        self,
        *,
        to: str,
        version: str | int | None = None,
        alias: str | None = None,
        key: str | None = None,
        ready_within: float = 600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.to = to
        self.version = version
        self.alias = alias
        self.key = key
        self.ready_within = ready_within
        self._made: tuple[dict[str, Any], dict[str, Any]] | None = None

    def execute(self, context: Any) -> dict[str, Any]:
        name, to = self.begin(), needed(self.to, "to", self.task_id)
        number = None if self.version is None else str(self.version)
        origin = shapes.version(calls.find_version(self.rest, name, number, self.alias))
        calls.ensure_model(self.rest, to)
        made, new = calls.create_version(
            self.rest,
            to,
            f"models:/{name}/{origin['version']}",
            key=request_key(context, self.key),
            key_tag=REQUEST_TAG,
            run_id=origin["run_id"],
        )
        self.note_version(to, str(made["version"]))
        found = shapes.version(calls.await_ready(self.rest, to, str(made["version"]), self.ready_within))
        self._made = (origin, found)
        return {**found, "new": new}

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """One version as input, the other as output."""
        if self._made is None:
            return None
        origin, found = (model_dataset(self.hook.url, one["name"], one["version"]) for one in self._made)
        return operator_lineage([origin], [found])


class DeleteModelVersionOperator(VersionOperator):
    """Delete a version; one that is not there is no error. Returns ``{"name", "version", "deleted"}``."""

    def execute(self, context: Any) -> dict[str, Any]:
        name, version = self.chosen()
        deleted = calls.delete(self.rest, "/model-versions/delete", name=name, version=version)
        return {"name": name, "version": version, "deleted": deleted}


class SearchModelVersionsOperator(SearchOperator):
    """Returns a list of what ``GetModelVersionOperator`` returns.

    Args:
        filter: MLflow's search language, ``name = 'sea' AND tag.kind = 'x'``; templated.
        order_by: ``["version_number DESC"]``.
        max_results: at most so many, over all pages.
    """

    def execute(self, context: Any) -> list[dict[str, Any]]:
        return [shapes.version(plain) for plain in self.found("/model-versions/search", "model_versions")]
