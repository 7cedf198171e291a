"""Operators on registered models: create, get, update, rename, delete, search, aliases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from windtunnel.errors import NotFoundError, RefusedError
from windtunnel_airflow.links import ModelVersionLink, RegisteredModelLink
from windtunnel_airflow.tracking_server import calls, conditions, shapes
from windtunnel_airflow.tracking_server.base import MlflowOperator, needed


class ModelOperator(MlflowOperator):
    """Base of the operators on one registered model.

    Args:
        name: the registered model.
    """

    template_fields: Sequence[str] = (*MlflowOperator.template_fields, "name")

    def __init__(self, *, name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name

    def begin(self) -> str:
        """The model's name, noted for the link."""
        name = needed(self.name, "name", self.task_id)
        self.note_model(name)
        return name


class CreateRegisteredModelOperator(ModelOperator):
    """Make a registered model; one that is there already is taken as it is, with tags and description as said here.

    Returns what ``GetRegisteredModelOperator`` returns, and ``new``.

    Args:
        tags: a mapping, or MLflow's list of ``{"key", "value"}``.
        description: words about it.
    """

    template_fields: Sequence[str] = (*ModelOperator.template_fields, "tags", "description")

    def __init__(self, *, tags: Any = None, description: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tags = tags
        self.description = description

    def execute(self, context: Any) -> dict[str, Any]:
        name = self.begin()
        new = calls.ensure_model(self.rest, name, self.tags, self.description)
        found = calls.get_model(self.rest, name)
        if not new:
            calls.change_tags(self.rest, {"name": name}, self.tags, (), found)
            if self.description and found.get("description") != self.description:
                self.rest.send("PATCH", "/registered-models/update", name=name, description=self.description)
            found = calls.get_model(self.rest, name)
        return {**shapes.model(found), "new": new}


class GetRegisteredModelOperator(ModelOperator):
    """Returns ``{"name", "aliases": {alias: version}, "latest": {stage: version}, "tags"}``."""

    def execute(self, context: Any) -> dict[str, Any]:
        return shapes.model(calls.get_model(self.rest, self.begin()))


class UpdateRegisteredModelOperator(ModelOperator):
    """Set and remove tags and the description of a model; returns what ``GetRegisteredModelOperator`` returns.

    Args:
        tags: to set.
        remove_tags: keys to remove; one that is not there is no error.
        description: None leaves it as it is.
    """

    template_fields: Sequence[str] = (*ModelOperator.template_fields, "tags", "remove_tags", "description")

    def __init__(
        self, *, tags: Any = None, remove_tags: Sequence[str] = (), description: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.tags = tags
        self.remove_tags = remove_tags
        self.description = description

    def execute(self, context: Any) -> dict[str, Any]:
        name = self.begin()
        calls.change_tags(self.rest, {"name": name}, self.tags, self.remove_tags, calls.get_model(self.rest, name))
        if self.description is not None:
            self.rest.send("PATCH", "/registered-models/update", name=name, description=self.description)
        return shapes.model(calls.get_model(self.rest, name))


class RenameRegisteredModelOperator(ModelOperator):
    """Give a model another name. Done already, by an earlier try: that is success.

    Args:
        new_name: the other name.
    """

    template_fields: Sequence[str] = (*ModelOperator.template_fields, "new_name")

    def __init__(self, *, new_name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.new_name = new_name

    def execute(self, context: Any) -> dict[str, Any]:
        name, new_name = self.begin(), needed(self.new_name, "new_name", self.task_id)
        try:
            self.rest.send("POST", "/registered-models/rename", name=name, new_name=new_name)
        except (NotFoundError, RefusedError) as error:
            try:
                calls.get_model(self.rest, new_name)
                gone = conditions.ask(self.rest, ("model", name)) is None
            except (NotFoundError, RefusedError):
                raise error from None
            if not gone:
                raise
        self.note_model(new_name)
        return shapes.model(calls.get_model(self.rest, new_name))


class DeleteRegisteredModelOperator(ModelOperator):
    """Delete a model with all its versions; one that is not there is no error. Returns ``{"name", "deleted"}``."""

    def execute(self, context: Any) -> dict[str, Any]:
        name = self.begin()
        return {"name": name, "deleted": calls.delete(self.rest, "/registered-models/delete", name=name)}


class SearchOperator(MlflowOperator):
    """What the two searches share.

    Args:
        filter: MLflow's search language; templated.
        order_by: MLflow's words for the order; templated.
        max_results: at most so many, over all pages.
    """

    operator_extra_links: Any = ()
    template_fields: Sequence[str] = (*MlflowOperator.template_fields, "filter", "order_by")

    def __init__(
        self, *, filter: str | None = None, order_by: Sequence[str] = (), max_results: int = 100, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.filter = filter
        self.order_by = order_by
        self.max_results = max_results

    def found(self, path: str, key: str) -> Iterator[dict[str, Any]]:
        """Plain answers of ``path``, page by page; ``key`` is their name in one."""
        order_by = list(self.order_by) or None
        return self.rest.pages(path, key, self.max_results, filter=self.filter or None, order_by=order_by)


class SearchRegisteredModelsOperator(SearchOperator):
    """Returns a list of what ``GetRegisteredModelOperator`` returns.

    Args:
        filter: MLflow's search language, ``name LIKE 'sea%'``; templated.
        order_by: ``["name ASC"]``.
        max_results: at most so many, over all pages.
    """

    def execute(self, context: Any) -> list[dict[str, Any]]:
        return [shapes.model(plain) for plain in self.found("/registered-models/search", "registered_models")]


class SetModelAliasOperator(ModelOperator):
    """Point an alias at a version; if it does already, good. Returns ``{"name", "alias", "version", "former"}``.

    On a governed registry ``champion`` is policy's: the refusal says what is missing.

    Args:
        alias: the alias.
        version: the version's number.
    """

    operator_extra_links: Any = (RegisteredModelLink(), ModelVersionLink())
    template_fields: Sequence[str] = (*ModelOperator.template_fields, "alias", "version")

    def __init__(self, *, alias: str, version: str | int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alias = alias
        self.version = version

    def execute(self, context: Any) -> dict[str, Any]:
        name, alias = self.begin(), needed(self.alias, "alias", self.task_id)
        version = needed(self.version, "version", self.task_id)
        former = shapes.model(calls.get_model(self.rest, name))["aliases"].get(alias)
        if former != version:
            self.rest.send("POST", "/registered-models/alias", name=name, alias=alias, version=version)
        self.note_version(name, version)
        return {"name": name, "alias": alias, "version": version, "former": former}


class DeleteModelAliasOperator(ModelOperator):
    """Remove an alias; one that is not there is no error. Returns ``{"name", "alias", "former"}``.

    Args:
        alias: the alias.
    """

    template_fields: Sequence[str] = (*ModelOperator.template_fields, "alias")

    def __init__(self, *, alias: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alias = alias

    def execute(self, context: Any) -> dict[str, Any]:
        name, alias = self.begin(), needed(self.alias, "alias", self.task_id)
        former = shapes.model(calls.get_model(self.rest, name))["aliases"].get(alias)
        if former is not None:
            self.rest.send("DELETE", "/registered-models/alias", name=name, alias=alias)
        return {"name": name, "alias": alias, "former": former}
