"""Step data between workers that share no disk (PIP-2), as in Airflow's KubernetesExecutor, where each task is a pod.

Where training runs in pods, what a task writes goes to the connection's object store as well, and a task that does not
find its input here fetches it from there. Elsewhere nothing of this is done: a training on this machine needs its home.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel_airflow import steps

if TYPE_CHECKING:
    from windtunnel.data.objects import Objects
    from windtunnel.data.steps import Output
    from windtunnel.spec import Model
    from windtunnel_airflow.hook import WindtunnelHook


class Handing:
    """Of one task."""

    def __init__(self, hook: WindtunnelHook, model: Model) -> None:
        self.hook = hook
        self.in_pods = model.training_target == "kubernetes"

    @cached_property
    def store(self) -> Objects | None:
        """Where workers meet; None where they need no such place, or the connection names none."""
        return self.hook.object_store if self.in_pods else None

    def over(self, outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Hand over what this task wrote; the same references.

        Raises:
            DataError: something is missing or changed, or the store refuses.
            UnavailableError: the store does not answer.
        """
        if self.store is not None:
            from windtunnel.data import handover
            from windtunnel.data.steps import Output

            for reference in outputs.values():
                handover.hand_over(self.store, self.hook.home, Output.from_dict(reference))
        return {name: dict(reference) for name, reference in outputs.items()}

    def take(self, result: Any, name: str) -> Output:
        """The output ``name`` of a step, here and verified.

        Raises:
            DataError: it is missing, cut short or changed; nothing may start then.
            UnavailableError: the store does not answer.
        """
        reference = steps.reference(result, name)
        if reference is not None:
            self.bring(reference)
        return steps.take(result, name)

    def named(self, result: Any, name: str) -> Output:
        """The output ``name`` of a step, for a pod, which fetches and verifies it itself: it need not be here."""
        from windtunnel.data.steps import Output

        reference = steps.reference(result, name)
        if reference is None:
            return steps.take(result, name)  # says what is missing
        given = Output.from_dict(reference)
        if not given.path.is_relative_to(self.hook.home.pipelines):
            self.bring(reference)
        return given

    def gather(self, results: Iterable[Any], name: str) -> list[Output]:
        """The output ``name`` of every run of a mapped step that was not skipped, verified (fan-in)."""
        return [self.take(result, name) for result in results if steps.reference(result, name) is not None]

    def model(self, trained: Mapping[str, Any]) -> Path:
        """The folder of the model that ``TrainOperator`` returned, here; its content is for the caller to verify."""
        path = Path(trained["model_path"])
        if not path.exists() and self.store is not None:
            from windtunnel.tracking.pods.depot import Depot

            made = Depot(self.store, str(trained["run_id"])).collect(self.hook.home)
            path = Path(str(made.model_path))
        return path

    def bring(self, reference: Mapping[str, Any]) -> None:
        """Fetch what a reference names, where it is not here and the store may have it."""
        from windtunnel.data.steps import Output

        given = Output.from_dict(reference)
        if given.path.exists() or self.store is None:
            return
        from windtunnel.data import handover

        home = self.hook.home
        if (key := handover.key_of(home, given.path)) is not None:
            handover.fetch(self.store, key, given)
        elif given.path.is_relative_to(home.runs):  # a trained model lies with its run
            self.model({"model_path": given.path, "run_id": given.path.relative_to(home.runs).parts[0]})
