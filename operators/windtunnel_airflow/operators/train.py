"""Train: the entry point of the description in a detached run or a pod, with an MLflow run made beforehand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from windtunnel.errors import DescriptionError
from windtunnel_airflow.links import MlflowRunLink
from windtunnel_airflow.operators.gang import GangOperator
from windtunnel_airflow.plain import plain


class TrainOperator(GangOperator):
    """Train the model and keep it in the MLflow run; never inside the task's process.

    The MLflow run exists before training starts, made by key, so a retry, a restart or a killed worker finds the same
    run. Kinds of failure become the matching errors, which the retry policy knows (PIP-3). Returns ``{"run_id",
    "experiment_id", "model_uri", "model_path", "digest", "manifest", "metrics", "params", "recipe"}``.

    Args:
        data: what ``DataSnapshotOperator`` returned; ``rows`` is the training input.
        extra: name of an input -> what the step that writes it returned (the team's own steps before training).
        params: override of ``training.params``: a mapping, or JSON text of one (templated).
        recipe: a name for this way of training, recorded with the version (templated).
        entry_point: instead of ``training.entry_point`` (templated; empty: the description's).
        experiment: MLflow experiment; the model's name unless told (templated).
    """

    operator_extra_links: Any = (MlflowRunLink(),)

    template_fields: Sequence[str] = (
        *GangOperator.template_fields,
        "data",
        "extra",
        "params_override",
        "recipe",
        "entry_point",
        "experiment",
    )

    def __init__(
        self,
        *,
        data: Any,
        extra: Mapping[str, Any] | None = None,
        params_override: Mapping[str, Any] | str | None = None,
        recipe: str | None = None,
        entry_point: str | None = None,
        experiment: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.data = data
        self.extra = extra
        self.params_override = params_override
        self.recipe = recipe
        self.entry_point = entry_point
        self.experiment = experiment

    # -- what is trained
    def chosen(self) -> dict[str, Any]:
        """Entry point, recipe and parameters of this run: the description's, with the run's overrides."""
        training = self.description.training
        return {
            "entry_point": self.entry_point or training.entry_point,
            "recipe": self.recipe or None,
            "params": {**training.params, **parse_params(self.params_override)},
        }

    def inputs_digest(self) -> str:
        from windtunnel import canonical

        extra = {name: (result or {}).get("outputs") for name, result in (self.extra or {}).items()}
        return canonical.digest(
            {
                "data": self.data["digest"],
                "extra": extra,
                **self.chosen(),
            }
        )

    def make_run_id(self, key: str, context: Any) -> str:
        from windtunnel.tracking.server import connect
        from windtunnel_airflow.base import run_coordinates
        from windtunnel_airflow.story import story_of

        model, story, where = self.description, story_of(context), run_coordinates(context)
        tags = {
            "correlation_id": story.correlation_id,
            "cause": story.cause,
            "model": model.name,
            "data_digest": self.data["digest"],
            **{f"airflow.{name}": str(value) for name, value in where.items() if name != "map_index"},
        }
        if recipe := self.chosen()["recipe"]:
            tags["recipe"] = recipe
        hook = self.hook
        with hook.mlflow_environment():
            tracking = connect(hook.url, timeout=hook.timeout)
            return tracking.create_run(self.experiment or model.name, f"{model.name} ({story.cause})", tags, key)

    def run_spec(self, run_id: str, context: Any) -> Any:
        from windtunnel.tracking.contract import RunSpec
        from windtunnel_airflow.pods.charging import prices_of

        training, chosen = self.description.training, self.chosen()
        # A pod's hours are not its process's: they are counted where the pod is looked at.
        in_pod = self.description.training_target == "kubernetes"
        prices = None if in_pod else prices_of(self.hook, self.description)
        take = self.handing.named if in_pod else self.handing.take
        inputs = {"rows": take(self.data, "rows")}
        inputs |= {name: take(result, name) for name, result in (self.extra or {}).items()}
        return RunSpec(
            run_id=run_id,
            entry_point=chosen["entry_point"],
            kind="train",
            params=chosen["params"],
            seed=training.seed,
            inputs=inputs,
            time_limit=training.time_limit.total_seconds(),
            trust=list(training.trust),
            pickle=training.pickle,
            tracking_uri=self.hook.url,
            data_digest=self.data["digest"],
            prices=prices.model_dump() if prices is not None else None,
            python_path=self._python_path(chosen["entry_point"]),
            **self._common(context),
        )

    def finish(self, result: Any, context: Any) -> dict[str, Any]:
        from windtunnel.data.steps import describe

        hook = self.hook
        experiment_id = ""
        try:
            with hook.mlflow_environment():
                from windtunnel_airflow.mlflowrest import experiment_of

                experiment_id = experiment_of(hook.url, result.run_id)
        except Exception as error:  # a link is not worth a failed training
            self.log.warning("No link to the MLflow run: %s", error)
        if experiment_id:
            self.note_run(result.run_id, experiment_id)
        name = self.description.name
        self.note_lineage([(f"{name}/data", self.data["digest"])], [(f"{name}/trained/{result.run_id}", result.digest)])
        return {
            "outputs": {"model": describe("model", Path(result.model_path)).to_dict()},
            "run_id": result.run_id,
            "experiment_id": experiment_id,
            "model_uri": result.model_uri,
            "model_path": result.model_path,
            "digest": result.digest,
            "manifest": result.manifest,
            "metrics": plain(result.metrics),
            "seed": self.description.training.seed,
            **self.chosen(),
        }

    def _settle(
        self, context: Any, flight: Any, depot: Any, record: Mapping[str, Any], status: Any, end: Any
    ) -> dict[str, Any]:
        from windtunnel.tracking.server import connect
        from windtunnel_airflow.pods.charging import bill_of, charge

        try:
            hook = self.hook
            if (bill := bill_of(hook, self.description)) is not None:
                cost = charge(connect(hook.url, timeout=hook.timeout), bill, depot, int(record["attempt"]))
                self.log.info("Cost so far: %s", cost.tags()["wt.cost"])
        except Exception as error:  # the bill is not worth a training
            self.log.warning("The run does not say what it cost: %s", error)
        made: dict[str, Any] = super()._settle(context, flight, depot, record, status, end)
        return made

    def _whose(self, record: Mapping[str, Any]) -> dict[str, Any]:
        from windtunnel_airflow.pods.charging import bill_of

        try:
            bill = bill_of(self.hook, self.description)
        except DescriptionError as error:
            self.log.warning("The run will not say what it cost: %s", error)
            bill = None
        return {**super()._whose(record), **({} if bill is None else {"bill": bill})}

    def execute(self, context: Any) -> Any:
        with self.hook.mlflow_environment():
            if self.description.training_target == "kubernetes":
                return self.execute_in_pod(context)
            return super().execute(context)


def parse_params(given: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Parameters from a mapping, JSON text, or nothing.

    Raises:
        DescriptionError: the text is no JSON object.
    """
    if not given:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    try:
        parsed = json.loads(given)
    except ValueError as error:
        raise DescriptionError(f"params are no JSON: {error}; found {given[:80]!r}") from None
    if parsed in (None, "", []):
        return {}
    if not isinstance(parsed, dict):
        raise DescriptionError(f'params must be a JSON object such as {{"depth": 3}}, found {given[:80]!r}')
    return parsed
