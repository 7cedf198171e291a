"""``windtunnel cluster``: a cluster on this machine, by kind or minikube."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import talk
from windtunnel.cli.demo import Harm
from windtunnel.cli.options import JsonOption, YesOption

if TYPE_CHECKING:
    from windtunnel.stack.laptop import Laptop, Machine

app = typer.Typer(help="Try Windtunnel on a cluster of this machine.", no_args_is_help=True)


class Engine(StrEnum):
    """What makes the cluster."""

    KIND = "kind"
    MINIKUBE = "minikube"


EngineOption = Annotated[Engine | None, typer.Option(help="What makes it [the one that is installed].")]
NameOption = Annotated[str, typer.Option(help="Name of the cluster.")]
CheckoutOption = Annotated[Path, typer.Option(help="Checkout of Windtunnel: chart and images.")]


@app.command()
def up(
    engine: EngineOption = None,
    name: NameOption = "windtunnel",
    checkout: CheckoutOption = Path(),
    build: Annotated[bool, typer.Option(help="Build the images; else take those that Docker has.")] = True,
    dags: Annotated[Path | None, typer.Option(help="Folder with DAG files of yours.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands and do nothing.")] = False,
) -> None:
    """Make a cluster with the registry and Airflow, small, and check it.

    Every command is printed. What fails is named, and a cluster that was begun is deleted again. A second time it
    brings up to date what is there.
    """
    from windtunnel.stack import laptop

    asked, machine = _asked(engine, name, checkout, build, dags=dags)
    if dry_run:
        _print(asked)
        return
    _tell(asked, laptop.up(asked, machine))


@app.command()
def demo(
    engine: EngineOption = None,
    name: NameOption = "windtunnel",
    checkout: CheckoutOption = Path(),
    build: Annotated[bool, typer.Option(help="Build the images; else take those that Docker has.")] = True,
    harm: Annotated[Harm, typer.Option(help="What the harmful version does.")] = Harm.ERRORS,
    fly: Annotated[bool, typer.Option(help="Fly; else only install what the flight needs.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands and do nothing.")] = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Make a cluster with all a flight needs, and fly a model.

    As 'up', and besides an object store, Prometheus, Istio, Seldon Core, the collector, the guard and callers. Then a
    model is trained in pods and released on Seldon: a first version, a better one, a harmful one that is rolled back.
    """
    from importlib import import_module

    from windtunnel.stack import laptop
    from windtunnel.stack.laptop import demo as added

    asked, machine = _asked(engine, name, checkout, build, demo=True)
    talk.say(added.LICENCE)
    if dry_run:
        _print(asked)
        return
    if not yes:
        typer.confirm("Install it into the cluster?", abort=True)
    _tell(asked, laptop.up(asked, machine))
    if fly:
        flight = import_module("windtunnel_examples.visits.demo.cluster")
        raise SystemExit(flight.main(asked, machine, harm=harm.value, json_output=json))


@app.command()
def down(
    engine: EngineOption = None,
    name: NameOption = "windtunnel",
    yes: YesOption = False,
) -> None:
    """Delete the cluster with everything in it."""
    from windtunnel.stack import laptop

    asked, machine = _asked(engine, name, Path(), build=False)
    if not yes:
        typer.confirm(f"Delete the {asked.engine} cluster {name} with all models and records in it?", abort=True)
    talk.say(f"deleted: {name}" if laptop.down(asked, machine) else f"there is no {asked.engine} cluster {name}")


@app.command()
def status(engine: EngineOption = None, name: NameOption = "windtunnel", json: JsonOption = False) -> None:
    """Tell what runs in it. Exit code 1 if there is none, or not all is ready."""
    from windtunnel.stack import laptop

    asked, machine = _asked(engine, name, Path(), build=False)
    pods = laptop.status(asked, machine)
    ready = bool(pods) and all(one["ready"] for one in pods or [])
    if json:
        plain = {"engine": asked.engine, "name": name, "exists": pods is not None, "ok": ready, "pods": pods or []}
        talk.data_json("windtunnel.cluster/1", plain)
    elif pods is None:
        talk.data(f"there is no {asked.engine} cluster {name}: 'windtunnel cluster up' makes it")
    else:
        rows = [[one["name"], "ok" if one["ready"] else "fail", one["says"]] for one in pods]
        talk.table([["pod", "ready", "says"], *rows], colour_column=1)
    if not ready:
        raise SystemExit(talk.FAILED)


def _print(asked: Laptop) -> None:
    """The commands, for ``--dry-run``."""
    import shlex

    from windtunnel.stack.laptop import plan
    from windtunnel.stack.laptop.parts import GIVEN

    plan.check_checkout(asked)
    for step in plan.whole(asked):
        given = f"  < {GIVEN[step.given].replace('made now', 'made then')}" if step.given else ""
        talk.data(f"# {step.title}\n{shlex.join(step.argv)}{given}")


def _tell(asked: Laptop, made: bool) -> None:
    """Where it is, and how to reach it."""
    from windtunnel.stack.laptop.parts import NAMESPACE

    talk.say(f"{'made' if made else 'brought up to date'}: context {asked.context}, namespace {NAMESPACE}")
    inside = f"kubectl --context {asked.context} --namespace {NAMESPACE}"
    talk.say(f"the registry: {inside} port-forward service/windtunnel-registry 5000:5000")
    talk.say(f"Airflow:      {inside} port-forward service/airflow-api-server 8080:8080")
    passwords = f"{inside} exec deployment/airflow-api-server -- cat simple_auth_manager_passwords.json.generated"
    talk.say(f"              its log-in: {passwords}")
    if asked.dags is not None:
        talk.say(f"DAGs:         those of {asked.dags}; after a change 'windtunnel cluster up' again, with --dags")
    elif not asked.demo:
        talk.say("DAGs:         none yet, and no connection but windtunnel_default, the registry's; to bring yours:")
        talk.say("              docs/how-to/try-on-a-laptop-cluster.md; 'windtunnel cluster demo' brings one")


def _asked(
    engine: Engine | None, name: str, checkout: Path, build: bool, *, demo: bool = False, dags: Path | None = None
) -> tuple[Laptop, Machine]:
    """What is asked for, and what does it.

    Raises:
        StackError: no engine was named and none is installed, or the name is none.
    """
    import re
    import shutil

    from windtunnel.errors import StackError
    from windtunnel.stack.laptop import ENGINES, Laptop, Machine, plan

    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise StackError(f"{name!r} cannot name a cluster", hint="small letters, digits and '-', at most 40")
    found = str(engine) if engine else next((one for one in ENGINES if shutil.which(one)), None)
    if found is None:
        where = "; or ".join(f"{one}: {plan.TOOLS[one]}" for one in ENGINES)
        raise StackError("neither kind nor minikube is on the PATH", hint=f"install one: {where}")
    folder = None if dags is None else dags.expanduser().resolve()
    return Laptop(found, name, checkout.resolve(), build, demo, folder), Machine(talk.say, str(checkout.resolve()))
