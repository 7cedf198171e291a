"""The order of a model's training steps, with the team's own between ours. Pure: names in, names out.

A step of the team's own reads outputs of earlier steps by name. Of several steps that write the same name, the last
one before the reader counts, so a step after ``data`` that writes ``rows`` replaces the rows for all that follow it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from windtunnel.errors import DescriptionError
from windtunnel.spec import Model
from windtunnel.spec.model import STEPS

#: What our own steps write.
OWN_OUTPUTS: Mapping[str, tuple[str, ...]] = {"data": ("rows", "holdout")}
#: What our own steps read beyond what they are given directly.
OWN_INPUTS: Mapping[str, tuple[str, ...]] = {
    "check": ("rows",),
    "train": ("rows",),
    "evaluate": ("rows", "holdout"),
    "register": ("rows", "holdout"),
}


@dataclass(frozen=True, slots=True)
class Wiring:
    """The training pipeline of one model.

    Attributes:
        order: every step, each after all it waits for.
        waits: step -> the steps it waits for directly.
        inputs: step -> input name -> the step that writes it.
        extra_for_training: input name -> step, of the team's own steps placed before ``train``.
    """

    order: tuple[str, ...]
    waits: Mapping[str, frozenset[str]]
    inputs: Mapping[str, Mapping[str, str]]
    extra_for_training: Mapping[str, str]


def wire(model: Model) -> Wiring:
    """Order the steps and say who reads what from whom.

    Raises:
        DescriptionError: steps wait for each other, a reference names nobody, or an input is written by no step that
            comes before its reader; the message names step and reference.
    """
    where = f"model {model.name}"
    waits: dict[str, set[str]] = {name: set() for name in STEPS}
    waits |= {step.name: set() for step in model.steps}
    for before, after in pairwise(STEPS):
        waits[after].add(before)
    for step in model.steps:
        for other in (*step.after, *step.before):
            if other not in waits:
                raise DescriptionError(
                    f"{where}: steps.{step.name} names the unknown step {other!r}",
                    hint=f"expected one of {', '.join(sorted(waits))}",
                )
        waits[step.name].update(step.after)
        for other in step.before:
            waits[other].add(step.name)
    try:
        order = tuple(TopologicalSorter(waits).static_order())
    except CycleError as error:
        raise DescriptionError(
            f"{where}: these steps wait for each other: {' -> '.join(error.args[1])}",
            hint="take one of their after or before away",
        ) from None
    own = {step.name: step for step in model.steps}
    writes = {**OWN_OUTPUTS, **{step.name: tuple(step.outputs) for step in model.steps}}
    inputs: dict[str, dict[str, str]] = {}
    for name in order:
        wanted = own[name].inputs if name in own else OWN_INPUTS.get(name, ())
        earlier = _ancestors(name, waits)
        inputs[name] = {}
        for item in wanted:
            if item == "model":
                if "train" not in earlier:
                    raise _unwritten(where, name, item, "it is written by train: add after: [train]")
                inputs[name][item] = "train"
                continue
            writers = [other for other in order if other in earlier and item in writes.get(other, ())]
            if not writers:
                anywhere = sorted(other for other, names in writes.items() if item in names)
                hint = (
                    f"it is written by {', '.join(anywhere)}: add after: [{anywhere[0]}]"
                    if anywhere
                    else (f"outputs there are: {', '.join(sorted({n for names in writes.values() for n in names}))}")
                )
                raise _unwritten(where, name, item, hint)
            inputs[name][item] = writers[-1]
    extra = {
        output: step.name
        for step in sorted(model.steps, key=lambda found: order.index(found.name))
        if "train" in step.before
        for output in step.outputs
        if output not in ("rows", "holdout")
    }
    return Wiring(order, {name: frozenset(found) for name, found in waits.items()}, inputs, extra)


def _unwritten(where: str, step: str, item: str, hint: str) -> DescriptionError:
    return DescriptionError(f"{where}: no step before steps.{step} writes its input {item!r}", hint=hint)


def _ancestors(name: str, waits: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    queue = list(waits[name])
    while queue:
        one = queue.pop()
        if one not in found:
            found.add(one)
            queue += waits[one]
    return found
