"""``windtunnel cluster``: a cluster on this machine, by kind or minikube."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import talk
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands and do nothing.")] = False,
) -> None:
    """Make a cluster with the registry and Airflow, small, and check it.

    Every command is printed. What fails is named, and a cluster that was begun is deleted again. A second time it
    brings up to date what is there.
    """
    import shlex

    from windtunnel.stack import laptop
    from windtunnel.stack.laptop import plan

    asked, machine = _asked(engine, name, checkout, build)
    if dry_run:
        plan.check_checkout(asked)
        for step in plan.whole(asked):
            talk.data(f"# {step.title}\n{shlex.join(step.argv)}{'  < secrets made then' if step.secrets else ''}")
        return
    made = laptop.up(asked, machine)
    talk.say(f"{'made' if made else 'brought up to date'}: context {asked.context}, namespace {plan.NAMESPACE}")
    inside = f"kubectl --context {asked.context} --namespace {plan.NAMESPACE}"
    talk.say(f"the registry: {inside} port-forward service/windtunnel-registry 5000:5000")
    talk.say(f"Airflow:      {inside} port-forward service/airflow-api-server 8080:8080")


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


def _asked(engine: Engine | None, name: str, checkout: Path, build: bool) -> tuple[Laptop, Machine]:
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
    return Laptop(found, name, checkout.resolve(), build), Machine(talk.say, str(checkout.resolve()))
