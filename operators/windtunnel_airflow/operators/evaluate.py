"""Evaluate: the candidate against its rules and the champion on the same rows, and in its own server (EVL-1, EVL-2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from windtunnel.errors import IntegrityError, NotReadyError
from windtunnel_airflow.base import WindtunnelOperator
from windtunnel_airflow.ending import refuse_unless_pass
from windtunnel_airflow.links import MlflowRunLink
from windtunnel_airflow.plain import plain

if TYPE_CHECKING:
    from windtunnel.evidence import Outcome
    from windtunnel.home import Home
    from windtunnel.spec import Benchmark


class EvaluateOperator(WindtunnelOperator):
    """Judge the trained model; verdicts ``evaluation`` and ``benchmark`` go to the registry, bound to its content.

    Candidate and champion are loaded from private copies that were verified byte by byte, in this task's own process,
    so whatever a model does while it is loaded ends with the task. FAIL or INCONCLUSIVE ends the task for good: nothing
    is registered. Returns ``{"outcome", "numbers", "verdicts", "digest"}``.

    Args:
        data: what ``DataSnapshotOperator`` returned; ``holdout`` is judged on, ``rows`` serves the leakage check.
        trained: what ``TrainOperator`` returned.
    """

    operator_extra_links: Any = (MlflowRunLink(),)

    template_fields: Sequence[str] = (*WindtunnelOperator.template_fields, "data", "trained")

    def __init__(self, *, data: Any, trained: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data = data
        self.trained = trained

    def execute(self, context: Any) -> dict[str, Any]:
        import pandas as pd

        from windtunnel.evaluation import evaluate
        from windtunnel.evidence import Kind

        story = self.begin(context)
        model, hook, digest = self.description, self.hook, self.trained["digest"]
        if self.trained.get("experiment_id"):
            self.note_run(self.trained["run_id"], self.trained["experiment_id"])
        handing = self.handing
        holdout, rows = handing.take(self.data, "holdout"), handing.take(self.data, "rows")
        path = verified(handing.model(self.trained), digest)
        frame = pd.read_parquet(holdout.path)
        champion = hook.registry.champion(model.name)
        home = self.home
        home.pipelines.mkdir(parents=True, exist_ok=True)
        with hook.mlflow_environment(), TemporaryDirectory(prefix=".champion-", dir=home.pipelines) as place:
            result = evaluate(
                model.evaluation,
                model.data.feature_names,
                model.data.target,
                predictor(path),
                predictor(champion_copy(home, champion, Path(place))) if champion else None,
                frame,
                pd.read_parquet(rows.path),
            )
        verdicts = []
        judged = self.verdict(
            context,
            story,
            kind=Kind.EVALUATION,
            outcome=result.outcome,
            reason=result.reason,
            subject=digest,
            numbers=dict(result.numbers),
            thresholds=dict(result.thresholds),
            inputs=(holdout.digest, *((champion.digest,) if champion else ())),
        )
        verdicts.append(hook.registry.post_verdict(judged))
        refuse_unless_pass(judged, "nothing is registered")
        if model.evaluation.benchmark is not None and not self._unmeasurable(model.evaluation.benchmark):
            verdicts.append(self._benchmark(context, story, path, digest, frame, model.evaluation.benchmark))
        return {
            "outcome": str(result.outcome),
            "numbers": plain(result.numbers),
            "verdicts": verdicts,
            "digest": digest,
            "champion": str(champion.version) if champion else None,
        }

    def _unmeasurable(self, rules: Benchmark) -> bool:
        """Whether the model's servers are a cluster's, and none can be started beside this task. Where no bound is to
        be held, nothing is lost: a version that cannot be served is found by its release, before it has traffic."""
        if self.served_at != "kubernetes" or self.home.stack_file.exists():
            return False
        asked = [bound for bound in BOUNDS if getattr(rules, bound) is not None]
        if asked:
            raise AirflowFailException(
                f"evaluation.benchmark asks for {', '.join(asked)}, which are measured in a model server beside this "
                "task, and there is none: set evaluation.benchmark to null, and watch latency in rollout.gates"
            )
        self.log.info("No benchmark: this worker has no model servers; the cluster's are tried by the release")
        return True

    def _benchmark(self, context: Any, story: Any, path: Path, digest: str, frame: Any, rules: Benchmark) -> str:
        from windtunnel.evidence import Kind, Outcome
        from windtunnel.serving.local.benchmark import benchmark
        from windtunnel_airflow.samples import cell

        model = self.description
        names = model.data.feature_names
        sample = frame[names].head(256).to_dict("records")
        rows = [{str(key): cell(value) for key, value in row.items()} for row in sample]
        try:
            numbers = benchmark(self.home, path, digest, rows, rules, model.serving)
            outcome, reason = judge_benchmark(numbers, rules)
        except NotReadyError as error:  # a version that cannot be served is a finding about it, not a broken task
            numbers, outcome, reason = {}, Outcome.FAIL, error.message
        verdict = self.verdict(
            context,
            story,
            kind=Kind.BENCHMARK,
            outcome=outcome,
            reason=reason,
            subject=digest,
            numbers=dict(numbers),
            thresholds={k: v for k, v in rules.model_dump(mode="json").items() if v is not None},
        )
        identity = self.hook.registry.post_verdict(verdict)
        refuse_unless_pass(verdict, "nothing is registered")
        return str(identity)


def champion_copy(home: Home, champion: Any, place: Path) -> Path:
    """A verified copy of the champion's files below ``place``; the copy that serves is left alone."""
    from windtunnel.serving import artifacts
    from windtunnel.serving.backend import Arm

    source = f"models:/{champion.model}/{champion.version}"
    arm = Arm(str(champion.version), champion.digest, source)
    return artifacts.ensure(home, champion.model, arm, artifacts.Folder(place / "copy")).model


def verified(path: Path, digest: str) -> Path:
    """``path``, after its content was found to be ``digest``.

    Raises:
        IntegrityError: it is not.
    """
    from windtunnel.evidence import manifest

    found = manifest.build(path).content
    if found != digest:
        raise IntegrityError(
            f"the model at {path} has content {found[:19]}..., training wrote {digest[:19]}...",
            hint="it was changed after training: train again",
        )
    return path


def predictor(path: Path) -> Callable[[Any], Any]:
    """``predict`` of the MLflow model at ``path``."""
    import warnings

    import mlflow.pyfunc

    with warnings.catch_warnings():
        # Unpickling a ufunc asks every module for its name, and Airflow's old modules answer with a warning each.
        warnings.simplefilter("ignore")
        predict: Callable[[Any], Any] = mlflow.pyfunc.load_model(str(path)).predict
    return predict


#: Which measured number each bound of the benchmark holds.
BOUNDS = {"p99_ms": "p99_ms", "memory_mb": "memory_mb", "load_s": "load_s"}


def judge_benchmark(numbers: Mapping[str, Any], rules: Benchmark) -> tuple[Outcome, str]:
    """(outcome, reason) of measured numbers against the bounds; a bound without its number is INCONCLUSIVE."""
    import math

    from windtunnel.evidence import Outcome

    errors = numbers.get("errors")
    if errors:
        return Outcome.FAIL, f"{errors} of {numbers.get('requests', '?')} requests failed in its own server"
    over, unknown, fine = [], [], []
    for bound, key in BOUNDS.items():
        limit = getattr(rules, bound)
        if limit is None:
            continue
        value = numbers.get(key)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            unknown.append(bound)
        elif value > limit:
            over.append(f"{bound} {value:.4g} is above {limit:.4g}")
        else:
            fine.append(f"{bound} {value:.4g} within {limit:.4g}")
    if over:
        return Outcome.FAIL, "; ".join(over)
    if unknown:
        return Outcome.INCONCLUSIVE, f"not measured: {', '.join(unknown)}"
    p99 = numbers.get("p99_ms")
    said = f"p99 {p99:.4g} ms in its own server" if isinstance(p99, (int, float)) else "it answered in its own server"
    return Outcome.PASS, "; ".join(fine) or f"{said}; no bounds asked for"
