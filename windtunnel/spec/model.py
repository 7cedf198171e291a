"""The description of a model: one value from which its whole life follows."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from windtunnel import canonical, names
from windtunnel.errors import DescriptionError

from windtunnel.spec.base import Part
from windtunnel.spec.data import Data
from windtunnel.spec.evaluation import KNOWN_METRICS, Evaluation
from windtunnel.spec.monitoring import Monitoring
from windtunnel.spec.policy import Policy
from windtunnel.spec.rollout import Rollout
from windtunnel.spec.serving import Serving
from windtunnel.spec.training import ExtraStep, Training

STEPS = ("data", "check", "train", "evaluate", "register")


class Model(Part):
    """One model, described once.

    Attributes:
        name: ``[a-z][a-z0-9-]{0,39}``.
        schedule: cron or a duration for ``MODEL.train``; None trains on data, drift or by hand.
        target: where it trains and serves unless ``training.target`` says otherwise.
        steps: the team's own steps between ours.
    """

    name: str
    display_name: str | None = None
    owner: str
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    target: Literal["local", "kubernetes"] = "local"
    schedule: str | None = None
    data: Data
    training: Training
    evaluation: Evaluation = Evaluation()
    serving: Serving = Serving()
    rollout: Rollout = Rollout()
    monitoring: Monitoring = Monitoring()
    policy: Policy = Policy()
    steps: list[ExtraStep] = Field(default_factory=list)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            return names.check_model_name(value)
        except DescriptionError as error:
            raise ValueError(f"{error.message}; {error.hint}") from None

    @model_validator(mode="after")
    def _references_resolve(self) -> Model:
        """A reference to something that is not there is found here, when the DAG file is parsed."""
        features = set(self.data.feature_names)
        if len(features) != len(self.data.features):
            raise ValueError("data.features: a feature is named twice")
        if self.data.target in features:
            raise ValueError(f"data.features holds the target {self.data.target!r}: the model would see the answer")
        known = features | {self.data.target, self.data.time}
        for metric in self.evaluation.metrics:
            if ":" not in metric.name and metric.name not in KNOWN_METRICS:
                raise ValueError(
                    f"evaluation.metrics: unknown metric {metric.name!r}; "
                    f"expected one of {', '.join(sorted(KNOWN_METRICS))} or 'package.module:function'"
                )
            if ":" in metric.name and metric.direction is None:
                raise ValueError(f"evaluation.metrics: {metric.name!r} needs direction: lower or higher")
        for part in self.evaluation.slices:
            if part.by not in known:
                raise ValueError(f"evaluation.slices: {part.by!r} is no column of data; expected one of {sorted(known)}")
            if part.metric not in {metric.name for metric in self.evaluation.metrics}:
                raise ValueError(f"evaluation.slices: {part.metric!r} is not among evaluation.metrics")
        for name in (self.monitoring.drift.features or []) if self.monitoring.drift else []:
            if name not in features:
                raise ValueError(f"monitoring.drift.features: {name!r} is not a feature")
        if self.monitoring.performance and self.monitoring.performance.metric not in KNOWN_METRICS:
            raise ValueError(f"monitoring.performance.metric: unknown metric {self.monitoring.performance.metric!r}")
        self._check_steps()
        return self

    def _check_steps(self) -> None:
        from graphlib import CycleError, TopologicalSorter

        own = [step.name for step in self.steps]
        if len(set(own)) != len(own) or set(own) & set(STEPS):
            raise ValueError(f"steps: names must differ from each other and from {', '.join(STEPS)}; found {own}")
        graph: dict[str, set[str]] = {name: set() for name in (*STEPS, *own)}
        for before, after in zip(STEPS, STEPS[1:], strict=False):
            graph[after].add(before)
        outputs = {"rows", "holdout", "model"}
        for step in self.steps:
            for other in (*step.after, *step.before):
                if other not in graph:
                    raise ValueError(f"steps.{step.name}: unknown step {other!r}; expected one of {sorted(graph)}")
            graph[step.name].update(step.after)
            for other in step.before:
                graph[other].add(step.name)
            outputs.update(step.outputs)
        for step in self.steps:
            for name in step.inputs:
                if name not in outputs:
                    raise ValueError(f"steps.{step.name}: input {name!r} is no step's output; expected one of {sorted(outputs)}")
        try:
            tuple(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise ValueError(f"steps: these wait for each other: {' -> '.join(error.args[1])}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values that ``Model.model_validate`` reads back."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def digest(self) -> str:
        """Digest of the whole description."""
        return canonical.digest(self.to_dict())
