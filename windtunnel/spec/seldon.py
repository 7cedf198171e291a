"""What a description may ask of Seldon, whose two APIs differ: one table for refusals, pages and tests. Pure.

``core1`` is SeldonDeployment, ``core2`` Experiment, Model and Server. What an API cannot do is a mistake in the
description (``target: kubernetes``), told with its line when a DAG file is read; no connection is asked. Without
``serving.api`` that is what neither can do; what only the API of the connection cannot do, or its settings do not
allow, the release's first task refuses (``windtunnel.serving.seldon.limits``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from windtunnel.spec.mistakes import Path
from windtunnel.spec.serving import SeldonApi

if TYPE_CHECKING:
    from windtunnel.spec.model import Model

APIS: tuple[SeldonApi, ...] = ("core1", "core2")
TITLES: dict[SeldonApi, str] = {"core1": "Core 1", "core2": "Core 2"}

#: Gates that compare rows of the prediction log.
_ROWS = frozenset({"quality", "prediction"})


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that a description may ask for.

    Attributes:
        name: as the pages of the reference call it.
        asked: where a description asks for it; nothing where it does not.
        core1, core2: why that API cannot, and what to do; None where it can.
        settings: APIs that can where the connection's settings let them.
    """

    name: str
    asked: Callable[[Model], list[Path]]
    core1: str | None = None
    core2: str | None = None
    settings: tuple[SeldonApi, ...] = ()

    def why_not(self, api: SeldonApi) -> str | None:
        """Why that API cannot; None where it can."""
        return self.core1 if api == "core1" else self.core2

    def told(self, api: SeldonApi) -> str:
        """``yes``, ``by settings`` or ``refused``, as the pages say it."""
        if self.why_not(api) is not None:
            return "refused"
        return "by settings" if api in self.settings else "yes"


def unable(model: Model, api: SeldonApi | None) -> Iterator[tuple[Path, str]]:
    """What ``model`` asks for and ``api`` cannot do: where it stands, why not, and what to do.

    Args:
        api: None: only what neither can do.
    """
    for feature in FEATURES:
        reasons = {one: feature.why_not(one) for one in (APIS if api is None else (api,))}
        found = [reason for reason in reasons.values() if reason is not None]
        if len(found) < len(reasons):
            continue
        same = len(set(found)) == 1
        text = found[0] if same else "; ".join(f"{TITLES[one]}: {reason}" for one, reason in reasons.items())
        for path in feature.asked(model):
            yield path, text


def _strategy(name: str) -> Callable[[Model], list[Path]]:
    return lambda model: [("rollout", "strategy")] if model.rollout.strategy == name else []


def _where(path: Path, holds: Callable[[Model], object]) -> Callable[[Model], list[Path]]:
    return lambda model: [path] if holds(model) else []


def _copies(model: Model) -> list[Path]:
    if model.rollout.strategy == "shadow":
        return [("rollout", "strategy")]
    return [("rollout", "steps", at) for at, step in enumerate(model.rollout.steps) if step.mirror]


def _copies_with_rows(model: Model) -> list[Path]:
    return _copies(model) if model.serving.log else []


def _row_gates(model: Model) -> list[Path]:
    asked = (gate.metric in _ROWS or gate.figure is not None for gate in model.rollout.gates)
    return [("rollout", "gates", at) for at, rows in enumerate(asked) if rows]


def _row_gates_without_rows(model: Model) -> list[Path]:
    return [] if model.serving.log else _row_gates(model)


def _row_gates_with_rows(model: Model) -> list[Path]:
    return _row_gates(model) if model.serving.log else []


def _measured(model: Model) -> bool:
    return bool(model.serving.scale and model.serving.scale.measured)


_BY_WEIGHT = "Seldon divides requests by weight alone, not by a header of theirs; leave it out"
_NO_KEY = "Seldon cannot keep a user on one version; leave it out"
_NO_AB = "ab keeps each user on one version, which Seldon cannot; use canary, where a gate may ask for superior as well"
_NO_SEGMENTS = (
    "Seldon's metrics do not count by a header's value; leave it out, or let gates compare all requests of the model"
)
_NO_ROWS = (
    "it compares rows of the prediction log, and the pods' rows are not collected; set serving.log: true where a "
    "collector writes them into the workers' prediction log, or leave it out"
)
_NO_DASH = "Kubernetes has no object whose name ends with '-'; give the model another name"
_NO_SCALE = "Core 2 scales by requests that wait, and by nothing else; leave it out, minimum and maximum are the bounds"

FEATURES: tuple[Feature, ...] = (
    Feature("strategy canary", _strategy("canary")),
    Feature("strategy blue_green", _strategy("blue_green")),
    Feature("strategy rolling", _strategy("rolling")),
    Feature("strategy all_at_once", _strategy("all_at_once")),
    Feature("strategy ab", _strategy("ab"), _NO_AB, _NO_AB),
    Feature("strategy shadow, mirrored steps", _copies, settings=("core2",)),
    Feature(
        "mirrored steps with serving.log",
        _copies_with_rows,
        settings=("core1",),
        core2="Core 2's collector cannot tell rows of copied requests from users' own; leave copies or serving.log out",
    ),
    Feature(
        "rollout.audience",
        _where(("rollout", "audience"), lambda model: model.rollout.audience),
        _BY_WEIGHT,
        "an Experiment sends no header of the caller's own to one version; leave it out, testers may send "
        "'seldon-model: MODEL-vVERSION'",
    ),
    Feature(
        "rollout.segments",
        _where(("rollout", "segments"), lambda model: model.rollout.segments),
        _NO_SEGMENTS,
        _NO_SEGMENTS,
    ),
    Feature("gates on quality, prediction or a figure", _row_gates_without_rows, _NO_ROWS, _NO_ROWS),
    Feature("the same with serving.log", _row_gates_with_rows, settings=APIS),
    Feature("serving.sticky", _where(("serving", "sticky"), lambda model: model.serving.sticky), _NO_KEY, _NO_KEY),
    Feature("serving.maximum", _where(("serving", "maximum"), lambda model: model.serving.maximum)),
    Feature(
        "serving.scale by the CPU",
        _where(("serving", "scale"), lambda model: model.serving.scale and not _measured(model)),
        core2=_NO_SCALE,
    ),
    Feature(
        "serving.scale by queue, rate or latency",
        _where(("serving", "scale"), _measured),
        core2=_NO_SCALE,
        settings=("core1",),
    ),
    Feature(
        "serving.gpu of a type or a slice, serving.pod",
        _where(("serving",), lambda model: model.serving.gpu or model.serving.pod),
    ),
    Feature(
        "serving.environment",
        _where(("serving", "environment"), lambda model: model.serving.environment),
        settings=APIS,
    ),
    Feature("a name that ends with -", _where(("name",), lambda model: model.name.endswith("-")), _NO_DASH, _NO_DASH),
)
