"""What every Windtunnel operator and sensor shares: the description, the hook, the story, verdicts, links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperator

from windtunnel.errors import DescriptionError
from windtunnel.spec import Model
from windtunnel_airflow.hook import WindtunnelHook
from windtunnel_airflow.story import Story, story_of

if TYPE_CHECKING:
    from windtunnel.evidence import Verdict
    from windtunnel.home import Home
    from windtunnel_airflow.handing import Handing

#: A data set's name and the version of it, None where it has none.
Used = tuple[str, str | None]


def describe(model: Model | Mapping[str, Any] | str | Path) -> Model:
    """The description behind what a DAG file may give: a Model, plain values, or the path of a YAML file.

    Raises:
        DescriptionError: it cannot be read, or says something that cannot be done.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, (str, Path)):
        from windtunnel.spec.load import load_model

        return load_model(Path(model))
    if isinstance(model, Mapping):
        from pydantic import ValidationError

        try:
            return Model.model_validate(dict(model))
        except ValidationError as error:
            raise DescriptionError(f"the description of {model.get('name')!r} is wrong: {error}") from error
    raise DescriptionError(
        f"expected a windtunnel.Model or the path of a YAML file, found {type(model).__name__}",
        hint="from windtunnel import Model",
    )


def run_coordinates(context: Mapping[str, Any]) -> dict[str, Any]:
    """dag, run, task and try of the running task, by the names Verdict and tags use."""
    ti = context["ti"]
    return {
        "dag_id": ti.dag_id,
        "dag_run_id": ti.run_id,
        "task_id": ti.task_id,
        "map_index": getattr(ti, "map_index", -1),
        "try_number": getattr(ti, "try_number", 1),
    }


class Windtunnel:
    """Mixed into operators and sensors: all state is in ``model``, ``windtunnel_conn_id`` and the context."""

    model: Any
    windtunnel_conn_id: str
    links_found: dict[str, str]
    #: Only buttons that have a target: each class names its own.
    operator_extra_links: Any = ()
    ui_color = "#dcebf7"

    @property
    def description(self) -> Model:
        return describe(self.model)

    @property
    def hook(self) -> WindtunnelHook:
        return WindtunnelHook(self.windtunnel_conn_id, target=self.served_at)

    @property
    def served_at(self) -> str:
        """Where the model is served: its description's ``target``."""
        return str(self.description.target)

    @property
    def home(self) -> Home:
        return self.hook.home

    @property
    def handing(self) -> Handing:
        """Step data, from and to workers with other disks."""
        from windtunnel_airflow.handing import Handing

        return Handing(self.hook, self.description)

    def begin(self, context: Mapping[str, Any], story: Story | None = None) -> Story:
        """Call first in ``execute``: finds the story and puts it on every log line of the task (OPS-7)."""
        import structlog

        self.links_found = {}
        found = story or story_of(context)
        where = run_coordinates(context)
        structlog.contextvars.bind_contextvars(
            component="airflow",
            operation=f"{where['dag_id']}.{where['task_id']}",
            correlation_id=found.correlation_id,
            cause=found.cause,
        )
        return found

    def note_run(self, run_id: str, experiment_id: str) -> None:
        self.links_found["run"] = self.hook.run_url(run_id, experiment_id)

    def note_version(self, model: str, version: str) -> None:
        self.links_found["version"] = self.hook.version_url(model, version)

    def note_report(self, uri: str | None) -> None:
        """A report below the home, or in the object store, is shown by our pages in Airflow's UI; elsewhere its own
        URI is the link."""
        if not uri:
            return
        path, address = Path(uri), None
        if path.is_absolute():
            if path.is_relative_to(self.home.root):
                address = path.relative_to(self.home.root).as_posix()
        else:
            store = self.hook.object_store
            if store is not None and uri.startswith(f"{store.url}/"):
                address = uri.removeprefix(f"{store.url}/")
        if address is not None:
            from airflow.sdk.configuration import conf

            base = conf.get("api", "base_url", fallback="").rstrip("/")
            self.links_found["report"] = f"{base}/windtunnel/reports/{quote(address)}"
        else:
            self.links_found["report"] = path.as_uri() if path.is_absolute() else uri

    def verdict(self, context: Mapping[str, Any], story: Story, **fields: Any) -> Verdict:
        """A verdict of this model, bound to this DAG run and story."""
        from windtunnel.evidence import Verdict

        where = run_coordinates(context)
        return Verdict(
            model=self.description.name,
            dag_id=where["dag_id"],
            dag_run_id=where["dag_run_id"],
            task_id=where["task_id"],
            correlation_id=story.correlation_id,
            **fields,
        )


class WindtunnelOperator(Windtunnel, BaseOperator):
    """Base of the operators.

    Args:
        model: a ``windtunnel.Model``, its plain values, or the path of a YAML file.
        windtunnel_conn_id: connection to the MLflow server with the governed registry.
    """

    template_fields: Sequence[str] = ("windtunnel_conn_id",)

    def __init__(
        self,
        *,
        model: Model | Mapping[str, Any] | str | Path,
        windtunnel_conn_id: str = WindtunnelHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.windtunnel_conn_id = windtunnel_conn_id
        self.links_found = {}
        self.lineage_found: tuple[list[Used], list[Used]] = ([], [])

    def note_lineage(self, used: Sequence[Used], made: Sequence[Used]) -> None:
        """What this task read and what it made, each as (name, version); called by ``execute`` at its end.

        Names are those of the assets: ``MODEL/data``, ``MODEL/version``; one with ``://`` or an absolute path is
        outside.
        """
        self.lineage_found = (list(used), list(made))

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """For Airflow's OpenLineage provider, which asks when it is on; None leaves it to inlets and outlets."""
        from windtunnel_airflow.lineage import operator_lineage

        used, made = self.lineage_found
        return operator_lineage(used, made) if used or made else None
