"""A team's own step (PIP-9): its function in a detached run, seeing only the inputs wired to it."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from windtunnel_airflow.base import WindtunnelOperator, run_coordinates
from windtunnel_airflow.operators.podded import PodOperator
from windtunnel_airflow.steps import reference, step_name

if TYPE_CHECKING:
    from windtunnel.data.steps import Output
    from windtunnel.spec import ExtraStep, Pod
    from windtunnel.tracking.contract import RunStatus
    from windtunnel.tracking.pods.ends import PodEnd


class ExtraStepOperator(PodOperator):
    """Run ``package.module:function`` with a ``windtunnel.Run``.

    ``run.inputs`` maps the names in ``inputs`` to verified paths (``WINDTUNNEL_INPUT_{NAME}_PATH``), ``run.outputs``
    the names in ``outputs`` to paths to write, ``run.item`` is the item of a fan-out. Returns ``{"outputs": {...}}``.
    An input whose step was skipped skips this step, too.

    Args:
        step: name of the step; ``task_id`` unless told.
        run: the function.
        inputs: name -> what the step that writes it returned. For a mapped step this is the sequence of all its
            answers, and the input is then a folder with one file per item (fan-in).
        outputs: names it writes.
        when: ``package.module:function`` of the same Run; False skips the step.
        item: the item of a fan-out; use ``.expand(item=[...])``.
        time_limit: seconds.

    Where the description's step of this name says ``target: kubernetes`` it runs in a pod, and inputs and outputs go
    through the object store.
    """

    template_fields: Sequence[str] = (*PodOperator.template_fields, "inputs", "item")

    def __init__(
        self,
        *,
        run: str,
        inputs: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = (),
        when: str | None = None,
        item: Any = None,
        time_limit: float = 3600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.run = run
        self.inputs = inputs
        self.step_outputs = list(outputs)
        self.when = when
        self.item = item
        self.time_limit = time_limit

    def execute(self, context: Any) -> Any:
        absent = [name for name, result in (self.inputs or {}).items() if _nothing(result, name)]
        if absent:
            self.begin(context)
            raise AirflowSkipException(f"skipped: the step that writes {', '.join(absent)} was skipped")
        if self._described is not None and self._described.target == "kubernetes":
            return self.execute_in_pod(context)
        return super().execute(context)

    @property
    def _described(self) -> ExtraStep | None:
        """What the description says of this step; None in a DAG of somebody's own."""
        return next((step for step in self.description.steps if step.name == self.task_id), None)

    @property
    def _pod(self) -> Pod:
        own = self._described.pod if self._described is not None else None
        return own or super()._pod

    def _close_run(self, status: RunStatus, end: PodEnd, said: bool) -> None:
        """A step has no MLflow run; why it ended stands in the task's log and in the store."""

    def inputs_digest(self) -> str:
        from windtunnel import canonical

        seen = {name: _references(result, name) for name, result in (self.inputs or {}).items()}
        return canonical.digest({"run": self.run, "when": self.when, "item": self.item, "inputs": seen})

    def make_run_id(self, key: str, context: Any) -> str:
        # No MLflow run: the id is a function of the key, so making it twice makes the same.
        return f"step-{hashlib.sha256(key.encode()).hexdigest()[:32]}"

    def run_spec(self, run_id: str, context: Any) -> Any:
        from windtunnel.tracking.contract import RunSpec

        where = run_coordinates(context)
        return RunSpec(
            run_id=run_id,
            entry_point=self.run,
            kind="step",
            params=dict(self.description.training.params),
            seed=self.description.training.seed,
            inputs={name: self._input(name, result, where) for name, result in (self.inputs or {}).items()},
            outputs=self.step_outputs,
            when=self.when,
            item=self.item,
            time_limit=self.time_limit,
            python_path=self._python_path(self.run, self.when),
            publish={
                "dag": where["dag_id"],
                "run": where["dag_run_id"],
                "task": step_name(where["task_id"], where["map_index"]),
            },
            **{**self._common(context), **self._resources()},
        )

    def _resources(self) -> dict[str, Any]:
        own = self._described.resources if self._described is not None else None
        return {} if own is None else {"resources": own.model_dump(mode="json")}

    def _input(self, name: str, result: Any, where: Mapping[str, Any]) -> Output:
        if isinstance(result, Mapping):
            in_pod = self._described is not None and self._described.target == "kubernetes"
            return self.handing.named(result, name) if in_pod else self.handing.take(result, name)
        return self._folder(name, self.handing.gather(list(result), name), where)

    def _folder(self, name: str, parts: list[Output], where: Mapping[str, Any]) -> Output:
        """Fan-in: one folder with the part of each item, in their order."""
        from windtunnel.data.steps import write_output

        self.home.pipelines.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".fan-in-", dir=self.home.pipelines))
        try:
            for index, part in enumerate(parts):
                shutil.copy2(part.path, work / f"{index:05d}-{part.path.name}")
            return write_output(
                self.home, where["dag_id"], where["dag_run_id"], f"{where['task_id']}.inputs", name, work
            )
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def finish(self, result: Any, context: Any) -> dict[str, Any]:
        if result.skipped:
            raise AirflowSkipException(f"skipped: {self.when} answered False")
        return {"outputs": self.handing.over(result.outputs)}


def _nothing(result: Any, name: str) -> bool:
    return not _references(result, name)


def _references(result: Any, name: str) -> list[dict[str, Any]]:
    """References to ``name`` in one answer or in the answers of a mapped step."""
    if result is None:
        return []
    answers = [result] if isinstance(result, Mapping) else list(result)
    return [found for answer in answers if (found := reference(answer, name)) is not None]


class GoOnOperator(WindtunnelOperator):
    """Stands behind a step that is not critical: succeeds whatever became of it, so that the pipeline goes on.

    The step itself stays red in the grid; what waits for it waits for this task instead.

    Args:
        step: task id of the step that is not critical.
    """

    ui_color = "#f2f2f2"

    def __init__(self, *, step: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step = step

    def execute(self, context: Any) -> None:
        self.begin(context)
        ti = context["ti"]
        states = ti.get_task_states(dag_id=ti.dag_id, task_ids=[self.step], run_ids=[ti.run_id]).get(ti.run_id, {})
        bad = {name: str(state) for name, state in states.items() if str(getattr(state, "value", state)) != "success"}
        if bad:
            self.log.warning("Going on without %s, which is not critical: %s", self.step, bad)
