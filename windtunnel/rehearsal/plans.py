"""Plans and scenarios behind what a user types: files, code, models of a home."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from windtunnel.errors import DescriptionError, WindtunnelError
from windtunnel.home import Home

if TYPE_CHECKING:
    from windtunnel.rehearsal.scenarios import Scenario
    from windtunnel.rollout.plan import Plan
    from windtunnel.spec import Model, Rollout


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A plan to rehearse: by which name, what it says, and of which model if it is one's.

    ``rollout`` is None when only the plan of an earlier release is known.
    """

    name: str
    plan: Plan
    rollout: Rollout | None = None
    model: Model | None = None


def find_plan(given: str | None, home: Home) -> Rehearsed:
    """The plan behind what was typed: nothing, a YAML file, ``package.module:model``, or a model of the home.

    Raises:
        DescriptionError: there is no such thing, or it says something that cannot be done.
    """
    from windtunnel.rollout.plan import Plan
    from windtunnel.spec import Rollout
    from windtunnel.spec.load import from_python

    if given is None:
        rollout = Rollout()
        return Rehearsed("default", Plan.from_spec(rollout, False), rollout)
    if given.endswith((".yaml", ".yml")) or Path(given).is_file():
        return _from_file(Path(given))
    if ":" in given:
        return _of_model(given, from_python(given))
    return _from_home(given, home)


def _of_model(name: str, model: Model) -> Rehearsed:
    from windtunnel.rollout.plan import Plan

    plan = Plan.from_spec(model.rollout, False, model.serving.replicas)
    return Rehearsed(name, _with_steps(name, plan), model.rollout, model)


def _with_steps(name: str, plan: Plan) -> Plan:
    if not plan.steps:
        raise DescriptionError(
            f"the plan of {name} promotes all at once, without a step: there is nothing to rehearse",
            hint="give it a bake time, or another strategy",
        )
    return plan


def _from_file(path: Path) -> Rehearsed:
    """A rollout section (with or without the key ``rollout``), or a whole description."""
    from windtunnel.rollout.plan import Plan
    from windtunnel.spec import Rollout
    from windtunnel.spec.load import load_model, load_part

    rollout = load_part(Rollout, path, "rollout")
    if rollout is None:
        return _of_model(str(path), load_model(path))
    return Rehearsed(str(path), _with_steps(str(path), Plan.from_spec(rollout, False)), rollout)


def _from_home(name: str, home: Home) -> Rehearsed:
    """A model's description among the YAML files of the DAG folders, else the plan of its last release."""
    from windtunnel.names import check_model_name
    from windtunnel.spec.load import load_model

    check_model_name(name)
    for path in _descriptions(home):
        try:
            model = load_model(path)
        except DescriptionError:
            continue  # another model's, or no description at all
        if model.name == name:
            return _of_model(f"{name} ({path})", model)
    plan = _last_plan(name, home)
    if plan is not None:
        return Rehearsed(f"{name} (its last release)", plan)
    raise DescriptionError(
        f"no description of a model {name!r} among the YAML files of {home.root}, and no earlier release is known",
        hint="give the YAML file itself, or 'package.module:model' for one described in Python",
    )


def _descriptions(home: Home) -> Iterator[Path]:
    from windtunnel.errors import StackError
    from windtunnel.stackfile import StackFile

    folders = [home.dags]
    try:
        folders += [Path(folder) for folder in StackFile.read(home).extra.get("dags", [])]
    except StackError:
        pass
    for folder in folders:
        if folder.is_dir():
            yield from sorted(path for path in folder.rglob("*.y*ml") if path.is_file())


def _last_plan(name: str, home: Home) -> Plan | None:
    """From the registry, where the stack runs; None where it cannot tell."""
    from windtunnel.registry.connect import from_home
    from windtunnel.rollout.plan import Plan

    try:
        with from_home(home) as registry:
            records = registry.rollouts(name)
    except WindtunnelError:
        return None
    for record in records:
        try:
            plan = Plan.from_dict(record.plan.get("plan", record.plan))
        except (KeyError, TypeError, ValueError):
            continue
        if not plan.first and plan.steps:
            return plan
    return None


def find_scenario(given: str) -> Scenario:
    """A scenario by name (``errors``, ``errors:x5``) or from a YAML file.

    Raises:
        DescriptionError: there is none.
    """
    from windtunnel.rehearsal.scenarios import NAMED, Scenario, named
    from windtunnel.spec.load import load_part
    from windtunnel.spec.mistakes import nearest

    found = named(given)
    if found is not None:
        return found
    path = Path(given)
    if not path.is_file() and not given.endswith((".yaml", ".yml")):
        raise DescriptionError(f"there is no scenario {given!r}; {nearest(given, NAMED)}", hint="or give a YAML file")
    scenario = load_part(Scenario, path, "scenario")
    if scenario is None:
        raise DescriptionError(f"{path} describes a model, no scenario", hint="keys of a scenario: errors, harm, ...")
    return scenario


def rollout_yaml(rollout: Rollout) -> str:
    """The section of a description, as ``rehearse`` and a description read it back."""
    from windtunnel.spec.load import dumps_part

    return dumps_part(rollout, "rollout")
