"""The description of a model: one value from which its whole life follows."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from windtunnel import canonical, names
from windtunnel.errors import DescriptionError
from windtunnel.spec.base import Part, parse_duration
from windtunnel.spec.card import Card
from windtunnel.spec.data import Data
from windtunnel.spec.evaluation import KNOWN_METRICS, Evaluation
from windtunnel.spec.mistakes import DescriptionWarning, Path, nearest, several
from windtunnel.spec.monitoring import Monitoring
from windtunnel.spec.pod import Pod
from windtunnel.spec.policy import Policy
from windtunnel.spec.rollout import Rollout
from windtunnel.spec.seldon import unable
from windtunnel.spec.serving import Serving
from windtunnel.spec.training import ExtraStep, Training

STEPS = ("data", "check", "train", "evaluate", "register")
PRESETS = ("@hourly", "@daily", "@weekly", "@monthly", "@yearly", "@continuous")
_CRON = re.compile(r"[0-9A-Za-z*/,?#-]+")


def _ancestors(graph: Mapping[str, set[str]], name: str) -> set[str]:
    found: set[str] = set()
    queue = [name]
    while queue:
        new = graph[queue.pop()] - found
        found |= new
        queue += new
    return found


class Model(Part):
    """One model, described once.

    Attributes:
        name: ``[a-z][a-z0-9-]{0,39}``; fits DAG ids and Kubernetes names.
        display_name: what people call it.
        owner: the team or person who answers for it.
        description: what it is for.
        tags: words for searching.
        target: where it trains and serves unless ``training.target`` says otherwise.
        schedule: cron or a duration for ``MODEL.train``; null trains on data, drift or by hand.
        data: what it learns from.
        training: how it is trained.
        evaluation: what a version must show before it is registered.
        serving: how a version is served.
        rollout: how a version is released.
        monitoring: how the champion is watched.
        policy: what the registry demands before a version may become champion.
        card: what people need to know of it before they use it; kept in the registry.
        steps: the team's own steps between ours.
    """

    name: str
    display_name: str | None = None
    owner: str = Field(min_length=1)
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
    card: Card | None = None
    steps: list[ExtraStep] = Field(default_factory=list)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            return names.check_model_name(value)
        except DescriptionError as error:
            raise ValueError(f"{error.message}; {error.hint}") from None

    @field_validator("schedule")
    @classmethod
    def _schedule(cls, value: str | None) -> str | None:
        if value is None or value in PRESETS:
            return value
        if len(value.split()) == 5 and all(_CRON.fullmatch(part) for part in value.split()):
            return value
        try:
            parse_duration(value)
        except ValueError:
            raise ValueError(
                f"expected cron with five fields, a duration such as '1d', or one of {', '.join(PRESETS)}; "
                f"found {value!r}"
            ) from None
        return value

    @model_validator(mode="after")
    def _references_resolve(self) -> Model:
        """A reference to something that is not there is found when the DAG file is parsed; all of them at once."""
        problems = [
            *self._data_problems(),
            *self._rule_problems(),
            *self._release_problems(),
            *self._step_problems(),
            *self._node_problems(),
        ]
        if problems:
            raise several(problems)
        self._say_what_is_not_used()
        return self

    @property
    def training_target(self) -> Literal["local", "kubernetes"]:
        """Where it trains: ``training.target``, else ``target``."""
        return self.training.target or self.target

    def _say_what_is_not_used(self) -> None:
        """One description may fly on both targets, so this is no mistake; it must not look as if it counted, either."""
        training = self.training
        if self.training_target == "kubernetes":
            self._say_what_makes_no_nodes()
            return
        given = {
            "training.pod": None
            if any(s.target == "kubernetes" and s.pod is None for s in self.steps)
            else training.pod,
            "training.resources.mig": training.resources.mig,
            "training.resources.shared_memory": training.resources.shared_memory,
            "training.nodes": training.nodes if training.nodes > 1 else None,
        }
        unused = [key for key, value in given.items() if value is not None]
        if unused:
            warnings.warn(
                f"model {self.name} trains locally: {', '.join(unused)} is for target kubernetes and not used",
                DescriptionWarning,
                stacklevel=2,
            )

    def _say_what_makes_no_nodes(self) -> None:
        pods: dict[str, Pod | None] = {f"steps.{step.name}.pod.trainjob": step.pod for step in self.steps}
        if self.training.nodes == 1:
            pods["training.pod.trainjob"] = self.training.pod
        unused = [key for key, pod in pods.items() if pod is not None and pod.trainjob is not None]
        if unused:
            warnings.warn(
                f"model {self.name}: {', '.join(unused)} is for a training with nodes of 2 or more and not used",
                DescriptionWarning,
                stacklevel=2,
            )

    def _node_problems(self) -> Iterator[tuple[Path, str]]:
        """What a TrainJob cannot say of its pods: its runtime does, for all who train by it."""
        pod = self.training.pod
        if pod is None or pod.trainjob is None or self.training.nodes == 1 or self.training_target != "kubernetes":
            return
        theirs = {
            "pull": (pod.pull, "imagePullPolicy of container node"),
            "priority_class": (pod.priority_class, "priorityClassName of the pod"),
            "runtime_class": (pod.runtime_class, "runtimeClassName of the pod"),
            "secrets_from": (pod.secrets_from, "envFrom of container node"),
        }
        for key, (value, field) in theirs.items():
            if value:
                yield (
                    ("training", "pod", key),
                    f"a TrainJob cannot say this: set {field} in the runtime {pod.trainjob.runtime}, or leave trainjob "
                    "out for a JobSet of our own",
                )

    def _data_problems(self) -> Iterator[tuple[Path, str]]:
        data, seen = self.data, set()
        for at, feature in enumerate(data.features):
            if feature.name in seen:
                yield ("data", "features", at), f"feature {feature.name!r} is named twice"
            seen.add(feature.name)
            if feature.name == data.target:
                yield (
                    ("data", "features", at),
                    f"this is the target, {data.target!r}: the model would see the answer",
                )
        if data.time == data.target:
            yield ("data", "time"), f"time and target are the same column, {data.time!r}"

    def _rule_problems(self) -> Iterator[tuple[Path, str]]:
        features = set(self.data.feature_names)
        known = features | {self.data.target, self.data.time}
        metrics = {metric.name for metric in self.evaluation.metrics}
        for at, metric in enumerate(self.evaluation.metrics):
            here: Path = ("evaluation", "metrics", at)
            if ":" in metric.name:
                if metric.direction is None:
                    yield here, f"{metric.name!r} needs direction: lower or higher"
            elif metric.name not in KNOWN_METRICS:
                yield (
                    (*here, "name"),
                    f"unknown metric {metric.name!r}; {nearest(metric.name, KNOWN_METRICS)}; "
                    "or name your own as 'package.module:function'",
                )
        for at, part in enumerate(self.evaluation.slices):
            here = ("evaluation", "slices", at)
            if part.by not in known:
                yield (*here, "by"), f"{part.by!r} is no column of data; {nearest(part.by, known)}"
            if part.metric not in metrics:
                yield (*here, "metric"), f"{part.metric!r} is not among evaluation.metrics: {sorted(metrics)}"
        drift, performance = self.monitoring.drift, self.monitoring.performance
        for at, name in enumerate((drift.features or []) if drift else []):
            if name not in features:
                yield ("monitoring", "drift", "features", at), f"{name!r} is no feature; {nearest(name, features)}"
        if performance and performance.metric not in KNOWN_METRICS:
            yield (
                ("monitoring", "performance", "metric"),
                f"unknown metric {performance.metric!r}; {nearest(performance.metric, KNOWN_METRICS)}",
            )

    def _release_problems(self) -> Iterator[tuple[Path, str]]:
        """What a strategy needs of the servers, and what Seldon cannot do."""
        strategy, replicas = self.rollout.strategy, self.serving.replicas
        if strategy == "rolling" and not 2 <= replicas <= 100:
            yield (
                ("rollout", "strategy"),
                f"rolling goes replica by replica: expected serving.replicas of 2 to 100, found {replicas}",
            )
        if self.target == "kubernetes":
            yield from unable(self, self.serving.api)
        else:
            yield from self._local_serving_problems()
        chosen = self.serving.sticky is not None or self.rollout.audience is not None
        if self.target == "local" and strategy == "ab" and not chosen:
            yield (
                ("rollout", "strategy"),
                "ab keeps each user on one version: set serving.sticky to the header that names them, or an audience",
            )

    def _local_serving_problems(self) -> Iterator[tuple[Path, str]]:
        """A server of this machine has no GPU of its own, and no node to choose: what asks for one would be served
        without it, and nobody would know why it is slow."""
        serving = self.serving
        asked = {"gpu": serving.gpu, "gpu_type": serving.gpu_type, "mig": serving.mig, "pod": serving.pod}
        for key, value in asked.items():
            if value:
                yield (
                    ("serving", key),
                    "servers of this machine (target: local) are given no GPU and no node; leave it out, or serve with "
                    "target: kubernetes",
                )

    def _step_problems(self) -> Iterator[tuple[Path, str]]:
        """Names, references, cycles and wiring of the team's own steps (PIP-1, PIP-9)."""
        graph: dict[str, set[str]] = {name: set() for name in STEPS}
        for before, after in pairwise(STEPS):
            graph[after].add(before)
        maker = {"rows": "data", "holdout": "data", "model": "train"}
        for at, step in enumerate(self.steps):
            if step.name in graph:
                yield ("steps", at, "name"), f"there is already a step {step.name!r}; choose another name"
            graph.setdefault(step.name, set())
            for name in step.outputs:
                if name in maker:
                    yield ("steps", at, "outputs"), f"output {name!r} is written by {maker[name]!r} already"
                maker.setdefault(name, step.name)
        yield from self._pod_problems()
        for at, step in enumerate(self.steps):
            for key in ("after", "before"):
                for place, other in enumerate(getattr(step, key)):
                    if other not in graph:
                        yield ("steps", at, key, place), f"unknown step {other!r}; {nearest(other, graph)}"
                    elif key == "after":
                        graph[step.name].add(other)
                    else:
                        graph[other].add(step.name)
        try:
            tuple(TopologicalSorter(graph).static_order())
        except CycleError as error:
            yield ("steps",), f"these wait for each other: {' -> '.join(reversed(error.args[1]))}"
            return
        for at, step in enumerate(self.steps):
            earlier = _ancestors(graph, step.name)
            for place, name in enumerate(step.inputs):
                if name not in maker:
                    yield ("steps", at, "inputs", place), f"{name!r} is no step's output; {nearest(name, maker)}"
                elif maker[name] not in earlier:
                    yield (
                        ("steps", at, "inputs", place),
                        f"{name!r} is written by {maker[name]!r}, which does not come before; add it to after",
                    )

    def _pod_problems(self) -> Iterator[tuple[Path, str]]:
        """A step in a pod needs an image."""
        for at, step in enumerate(self.steps):
            pod = step.pod or self.training.pod
            if step.target == "kubernetes" and (pod is None or pod.image is None):
                yield ("steps", at, "target"), "a step in a pod needs an image: set pod.image, here or in training"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values that ``Model.model_validate`` reads back."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def digest(self) -> str:
        """Digest of the whole description."""
        return canonical.digest(self.to_dict())
