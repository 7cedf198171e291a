"""The order of a model's training steps, with the team's own between ours. Pure: names in, names out.

The description has been checked (``windtunnel.spec.model``): references resolve, nothing waits in a circle, every name
is written by one step that comes before its readers. Here it is put into the form the DAG is built from, and one more
thing is refused: needing what may fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import pairwise

from windtunnel.errors import DescriptionError
from windtunnel.spec import Model
from windtunnel.spec.model import STEPS

#: What our own steps write.
OWN = {"rows": "data", "holdout": "data", "model": "train"}


@dataclass(frozen=True, slots=True)
class Wiring:
    """The training pipeline of one model.

    Attributes:
        order: every step, each after all it waits for.
        waits: step -> the steps it waits for directly.
        inputs: step of the team's own -> input name -> the step that writes it.
        for_training: input name -> step: outputs of the team's own steps placed before ``train``.
    """

    order: tuple[str, ...]
    waits: Mapping[str, frozenset[str]]
    inputs: Mapping[str, Mapping[str, str]]
    for_training: Mapping[str, str]


def wire(model: Model) -> Wiring:
    """Order the steps and say who reads what from whom.

    Raises:
        DescriptionError: a step reads what a step that is not critical writes; the message names both.
    """
    waits: dict[str, set[str]] = {name: set() for name in (*STEPS, *(step.name for step in model.steps))}
    for before, after in pairwise(STEPS):
        waits[after].add(before)
    for step in model.steps:
        waits[step.name].update(step.after)
        for other in step.before:
            waits[other].add(step.name)
    order = tuple(TopologicalSorter(waits).static_order())
    writes = OWN | {output: step.name for step in model.steps for output in step.outputs}
    inputs = {step.name: {name: writes[name] for name in step.inputs} for step in model.steps}
    for_training = {output: step.name for step in model.steps if "train" in step.before for output in step.outputs}
    critical = {step.name: step.critical for step in model.steps}
    for reader, names in {**inputs, "train": for_training}.items():
        for name, who in names.items():
            if not critical.get(who, True):
                raise DescriptionError(
                    f"model {model.name}: step {reader!r} reads {name!r} of step {who!r}, which is not critical",
                    hint="a step may fail only if nobody needs what it writes: set critical: true, or do not read it",
                )
    return Wiring(order, {name: frozenset(found) for name, found in waits.items()}, inputs, for_training)
