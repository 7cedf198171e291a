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

    @property
    def sticky(self) -> bool:
        """Its users stay with one version, as far as is known."""
        return self.model is not None and self.model.serving.sticky is not None


def find_plan(given: str | None, home: Home, *, first: bool = False) -> Rehearsed:
    """The plan behind what was typed: nothing, a YAML file, ``package.module:model``, or a model of the home.

    Args:
        first: of a first release, which has no champion to be compared with.

    Raises:
        DescriptionError: there is no such thing, or it says something that cannot be done.
    """
    from windtunnel.rollout.plan import Plan
    from windtunnel.spec import Rollout
    from windtunnel.spec.load import from_python

    if given is None:
        rollout = Rollout()
        return Rehearsed("default", Plan.from_spec(rollout, first), rollout)
    if given.endswith((".yaml", ".yml")) or Path(given).is_file():
        return _from_file(Path(given), first)
    if ":" in given:
        return _of_model(given, from_python(given), first)
    return _from_home(given, home, first)


def _of_model(name: str, model: Model, first: bool) -> Rehearsed:
    from windtunnel.rollout.plan import Plan

    plan = Plan.of(model, first)
    return Rehearsed(name, _with_steps(name, plan), model.rollout, model)


def _with_steps(name: str, plan: Plan) -> Plan:
    if not plan.steps:
        raise DescriptionError(
            f"the plan of {name} promotes all at once, without a step: there is nothing to rehearse",
            hint="give it a bake time, or another strategy",
        )
    return plan


def _from_file(path: Path, first: bool) -> Rehearsed:
    """A rollout section (with or without the key ``rollout``), or a whole description."""
    from windtunnel.rollout.plan import Plan
    from windtunnel.spec import Rollout
    from windtunnel.spec.load import load_model, load_part

    rollout = load_part(Rollout, path, "rollout")
    if rollout is None:
        return _of_model(str(path), load_model(path), first)
    return Rehearsed(str(path), _with_steps(str(path), Plan.from_spec(rollout, first)), rollout)


def _from_home(name: str, home: Home, first: bool) -> Rehearsed:
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
            return _of_model(f"{name} ({path})", model, first)
    plans, why = _flown_plans(name, home)
    found = next((plan for plan in plans if plan.first == first and plan.steps), None)
    if found is not None:
        return Rehearsed(f"{name} (its {'first' if first else 'last'} release)", found)
    kind = "first release" if first else "release over a champion"
    raise DescriptionError(
        f"no description of a model {name!r} among the YAML files of {home.root}, and "
        + (why or f"the registry knows no {kind} of it with steps"),
        hint="give the YAML file itself, or 'package.module:model' for one described in Python"
        + ("; --first rehearses the first release" if plans and not first else ""),
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


def _flown_plans(name: str, home: Home) -> tuple[list[Plan], str | None]:
    """From the registry, where the stack runs, the newest first; and why it could not be asked."""
    from windtunnel.registry.connect import from_home
    from windtunnel.rollout.plan import Plan

    try:
        with from_home(home) as registry:
            records = registry.rollouts(name)
    except WindtunnelError as error:
        return [], f"the registry could not be asked: {str(error).splitlines()[0]}"
    found = []
    for record in records:
        try:
            found.append(Plan.from_dict(record.plan.get("plan", record.plan)))
        except (KeyError, TypeError, ValueError):
            continue  # of a version that wrote plans otherwise
    return found, None


def find_scenario(given: str, *, users: int | None = None, start: str | None = None) -> Scenario:
    """A scenario by name (``errors``, ``errors:x5``) or from a YAML file.

    Args:
        users, start: instead of the scenario's own.

    Raises:
        DescriptionError: there is none, or it says something that cannot be.
    """
    from pydantic import ValidationError

    from windtunnel.rehearsal.scenarios import Scenario

    found = _scenario(given)
    told = {name: value for name, value in (("users", users), ("start", start)) if value is not None}
    if not told:
        return found
    try:
        return Scenario.model_validate({**found.model_dump(), **told})
    except ValidationError as error:
        first = error.errors()[0]
        where = str(first["loc"][0])
        what = {"users": "expected a whole number from 2 to 100,000", "start": "expected a day (mon to sun) and HH:MM"}
        raise DescriptionError(
            f"--{where}: {what[where]}, found {first['input']!r}", hint="--users 5000, --start 'fri 15:30'"
        ) from None


def _scenario(given: str) -> Scenario:
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
