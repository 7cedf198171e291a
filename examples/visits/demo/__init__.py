"""``windtunnel demo``: a real Airflow, MLflow, Envoy and model servers fly ``visits`` through its whole life."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from windtunnel.errors import StackError, WindtunnelError
from windtunnel.home import ENV_HOME, Home

#: Written first into a home the demo made, so that a later demo may begin again there, and nowhere else.
MARKER = "demo/begun"
DEFAULT_HOME = "~/.windtunnel-demo"


def main(
    *, home: Path | str | None = None, harm: str = "errors", json_output: bool = False, exit_after: bool = False
) -> int:
    """Tell the whole story; the exit code is 0 only if every step of it was read back as true.

    Args:
        home: where the stack lives; ``$WINDTUNNEL_HOME``, else ``~/.windtunnel-demo``. A home of an earlier demo
            is emptied first; any other home with something in it is refused.
        harm: ``errors``, ``slow``, ``wrong`` or ``crash``: how the harmful version hurts.
        json_output: print what happened as JSON on stdout.
        exit_after: stop the stack at the end.
    """
    from windtunnel_examples.visits.demo.show import Telling, final_tables, machine

    place = Home.find(home or os.environ.get(ENV_HOME) or DEFAULT_HOME)
    os.environ[ENV_HOME] = str(place.root)
    tell = Telling()
    began = time.monotonic()
    told: dict[str, Any] = {"ok": False, "steps": [], "versions": [], "time": {}, "urls": {}, "log_ins": []}
    stop = exit_after
    try:
        _begin_again(place, tell)
        told = _fly(place, harm, tell, told)
    except KeyboardInterrupt:
        tell.quiet()
        tell.say("interrupted: stopping everything", "✗")
        stop = True
        told["error"] = "interrupted"
    except WindtunnelError as error:
        tell.quiet()
        tell.say(str(error), "✗")
        told["error"] = str(error)
    finally:
        tell.quiet()
        if stop:
            _down(place, tell)
    told["seconds"] = round(time.monotonic() - began, 1)
    if told["versions"]:
        final_tables(told, tell.console)
    if json_output:
        machine(told)
    if not stop and told["urls"]:
        tell.say(f"the stack stays up; stop it with: windtunnel --home {place.root} down")
    if told["ok"]:
        tell.say(f"every step proven in {told['seconds'] / 60:.1f} minutes", "✓")
        return 0
    return 130 if told.get("error") == "interrupted" else 1


def _fly(place: Home, harm: str, tell: Any, told: dict[str, Any]) -> dict[str, Any]:
    from windtunnel.stack.stack import Stack
    from windtunnel.stackfile import StackFile, read_secret
    from windtunnel_examples.visits import data, traffic
    from windtunnel_examples.visits.careless import HARMS
    from windtunnel_examples.visits.demo.airflow_api import AirflowApi
    from windtunnel_examples.visits.demo.facts import Facts
    from windtunnel_examples.visits.demo.story import RELEASE, TRAIN, WATCH, Story

    if harm not in HARMS:
        raise StackError(f"unknown harm {harm!r}", hint=f"expected one of {', '.join(HARMS)}")
    tell.chapter("A stack starts: Airflow, MLflow, Envoy")
    began = time.monotonic()
    data.begin_table(traffic.table_folder(place), time.time())
    Stack(place).up(tell=tell.say)
    started = time.monotonic() - began
    stack = StackFile.read(place)
    told["urls"] = stack.urls
    told["log_ins"] = [
        f"Airflow: admin, password in {place.secrets / 'airflow-admin'}",
        f"MLflow:  admin, password in {place.secrets / 'mlflow-admin'}",
    ]
    api = AirflowApi(stack.urls["airflow"], "admin", read_secret(place, "airflow-admin"))
    facts = Facts(place)
    story = Story(api, facts, tell, harm)
    try:
        for dag_id in (TRAIN, RELEASE, WATCH):
            api.wait_for_dag(dag_id, 120)
            api.unpause(dag_id)
        with _traffic(place):
            try:
                story.fly()
            except WindtunnelError as error:
                told["error"] = str(error)
        return told | story.told() | {"time": {"starting the stack": started} | story.time}
    finally:
        api.close()
        facts.close()


@contextmanager
def _traffic(place: Home) -> Iterator[None]:
    """The members' requests, in a process of their own."""
    log = place.logs / "traffic.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "windtunnel_examples.visits.traffic"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, ENV_HOME: str(place.root), "OMP_NUM_THREADS": "1"},
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _begin_again(place: Home, tell: Any) -> None:
    """An empty home; one of an earlier demo is stopped and emptied."""
    marker = place.root / MARKER
    if place.root.exists() and any(place.root.iterdir()):
        if not marker.exists():
            raise StackError(
                f"{place.root} holds something that is not from a demo",
                hint="choose an empty folder with --home, so that nothing of yours is touched",
            )
        tell.say(f"an earlier demo lives in {place.root}: stopping and emptying it")
        _down(place, tell)
        shutil.rmtree(place.root)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text("a demo may begin again here\n", encoding="utf-8")


def _down(place: Home, tell: Any) -> None:
    from windtunnel.stack.stack import Stack

    Stack(place).down(tell=tell.say)
