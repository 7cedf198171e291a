"""Register: the judged model becomes a version of the governed registry; what watching and warming need is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from windtunnel.errors import IntegrityError
from windtunnel.events import Event
from windtunnel_airflow.base import WindtunnelOperator, run_coordinates
from windtunnel_airflow.links import MlflowRunLink, ModelVersionLink, dag_run_url
from windtunnel_airflow.operators.announcing import announce
from windtunnel_airflow.operators.evaluate import predictor, verified
from windtunnel_airflow.samples import keep_sample


class RegisterOperator(WindtunnelOperator):
    """Register the trained model, idempotently by its MLflow run, and wake ``MODEL.release``.

    The registry reads the files itself, writes the manifest and seals the version (READY). Then the monitoring
    reference and the warm-up rows of this version are written. The description's policy and card are pushed when they
    changed.
    Outlet ``windtunnel://MODEL/version`` carries the event. Returns the version as a dictionary.

    Args:
        data: what ``DataSnapshotOperator`` returned.
        trained: what ``TrainOperator`` returned.
        evaluated: what ``EvaluateOperator`` returned; None registers without a reference's loss (own DAGs).
    """

    operator_extra_links: Any = (
        MlflowRunLink(),
        ModelVersionLink(),
    )

    template_fields: Sequence[str] = (*WindtunnelOperator.template_fields, "data", "trained", "evaluated")

    def __init__(
        self,
        *,
        data: Any,
        trained: Any,
        evaluated: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.data = data
        self.trained = trained
        self.evaluated = evaluated

    def execute(self, context: Any) -> dict[str, Any]:
        story = self.begin(context)
        model, registry, trained = self.description, self.hook.registry, self.trained
        handing = self.handing
        holdout, rows = handing.take(self.data, "holdout"), handing.take(self.data, "rows")
        path = verified(handing.model(trained), trained["digest"])
        policy = model.policy.model_dump(mode="json")
        champion = registry.champion(model.name)
        record = registry.register(
            model.name,
            source=trained["model_uri"],
            run_id=trained["run_id"],
            recipe=self.recipe(context),
            correlation_id=story.correlation_id,
            cause=story.cause,
            parent=str(champion.version) if champion else None,
        )
        if record.digest != trained["digest"]:
            raise IntegrityError(
                f"the registry sealed {record.digest} for version {record.version}, training wrote {trained['digest']}",
                hint="the files were changed on their way: train again",
            )
        if registry.policy(model.name) != policy:
            registry.set_policy(model.name, policy)
        registry.pass_on_card(model)
        self._keep(model, record, path, rows.path, holdout.path)
        self.note_version(model.name, str(record.version))
        if trained.get("experiment_id"):
            self.note_run(trained["run_id"], trained["experiment_id"])
        event = Event(model.name, story.correlation_id, story.cause, str(record.version), record.digest)
        announce(self, context, "version", event)
        made_of = [
            (f"{model.name}/data", self.data["digest"]),
            (f"{model.name}/trained/{trained['run_id']}", record.digest),
        ]
        self.note_lineage(made_of, [(f"{model.name}/version", str(record.version))])
        self.log.info("Registered %s %s as version %s", model.name, record.semver, record.version)
        return {
            "model": model.name,
            "version": str(record.version),
            "semver": record.semver,
            "digest": record.digest,
            "run_id": trained["run_id"],
            "correlation_id": story.correlation_id,
            "cause": story.cause,
        }

    def recipe(self, context: Any) -> dict[str, Any]:
        """What a MINOR version is told by (REG-1): name, code, parameters, features; its data; where it came from."""
        model, trained, where = self.description, self.trained, run_coordinates(context)
        return {
            "recipe": trained.get("recipe"),
            "code": trained["entry_point"],
            "params": {**trained["params"], "seed": trained.get("seed")},
            "features": [feature.model_dump(mode="json") for feature in model.data.features],
            "target": model.data.target,
            "data": self.data["digest"],
            "description": model.digest,
            "formats": {
                "pickle": model.training.pickle,
                "trust": [trained["entry_point"].partition(":")[0].partition(".")[0], *model.training.trust],
            },
            "data_source": self.data.get("source"),
            "dag_id": where["dag_id"],
            "dag_run_id": where["dag_run_id"],
            "dag_run_url": dag_run_url(where["dag_id"], where["dag_run_id"]),
        }

    def _keep(self, model: Any, record: Any, path: Path, rows: Path, holdout: Path) -> None:
        """The monitoring reference and the warm-up rows; written again with the same content in a second try."""
        import pandas as pd

        from windtunnel.monitoring import keeping, reference
        from windtunnel.tracking.answers import prediction

        seen, unseen = pd.read_parquet(rows), pd.read_parquet(holdout)
        names = model.data.feature_names
        with self.hook.mlflow_environment():
            predictions = prediction(predictor(path)(unseen[names]))
        numbers = dict((self.evaluated or {}).get("numbers") or {})
        built = reference.build(
            model, str(record.version), seen, predictions, numbers, record.digest, created_at=time.time()
        )
        store = self.hook.object_store
        keeping.of(self.home).keep_reference(built)
        if store is not None:  # for workers that do not share the home
            keeping.of(self.home, store).keep_reference(built)
        keep_sample(self.home, model, str(record.version), unseen[names].head(32).to_dict("records"), store=store)
