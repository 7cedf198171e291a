"""Tasks that wait for a trigger, in Airflow's own database, without a scheduler: a process of its own keeps them.

As a deferred task leaves them: a row of the task, and one of its trigger. A triggerer finds and runs them; what it does
with the task when the trigger has said something is in the row again.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN = "bench"
#: Class path and arguments of a trigger.
Trigger = tuple[str, dict[str, Any]]


@dataclass
class Airflow:
    """A home of Airflow with DAGs of empty tasks; a task's name is ``DAG.TASK``."""

    home: Path
    pipe: Any

    def defer(self, triggers: Mapping[str, Trigger]) -> None:
        """The tasks of these names wait from now on."""
        self.pipe.send(dict(triggers))
        self.pipe.recv()

    def told(self) -> dict[str, tuple[str, float]]:
        """Task: its state, and since when (seconds since the epoch)."""
        self.pipe.send(None)
        found: dict[str, tuple[str, float]] = self.pipe.recv()
        return found

    def log(self, task: str) -> list[str]:
        """Lines of the task's log, as far as its trigger wrote them."""
        dag, _, name = task.partition(".")
        found = (self.home / "logs" / f"dag_id={dag}" / f"run_id={RUN}" / f"task_id={name}").glob("*.trigger.*")
        return [line for file in found for line in file.read_text(encoding="utf-8").splitlines()]


@contextmanager
def airflow(home: Path, database: str, dags: Sequence[str], tasks: Sequence[str]) -> Iterator[Airflow]:
    """A new one; this process' environment names it meanwhile.

    Args:
        database: URL of an empty database.
        dags, tasks: the names of the DAGs, and of the tasks that each of them has.
    """
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        (home / "dags").mkdir(parents=True)
        (home / "dags" / "deferred.py").write_text(_dags(dags, tasks), encoding="utf-8")
        for command in (["db", "migrate"], ["dags", "reserialize"]):
            argv = [sys.executable, "-m", "airflow", *command]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        child = multiprocessing.get_context("spawn").Process(target=_keep, args=(theirs, list(dags)), daemon=True)
        child.start()
        theirs.close()  # so that a child that dies ends the waiting for it
        try:
            yield Airflow(home, ours)
        finally:
            child.kill()
            child.join()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _dags(dags: Sequence[str], tasks: Sequence[str]) -> str:
    return (
        "from datetime import datetime\n"
        "from airflow.providers.standard.operators.empty import EmptyOperator\n"
        "from airflow.sdk import DAG\n"
        f"for name in {list(dags)!r}:\n"
        "    with DAG(name, schedule=None, start_date=datetime(2026, 1, 1)):\n"
        f"        for task in {list(tasks)!r}:\n"
        "            EmptyOperator(task_id=task)\n"
    )


def _keep(pipe: Any, dags: list[str]) -> None:
    """The child: makes the runs, then does what it is told, until it is ended."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Airflow tells of every run it makes
    from airflow._shared.timezones import timezone
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger as Row
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState, TaskInstanceState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType
    from sqlalchemy import select

    with create_session() as session:
        for dag in dags:
            found = SerializedDagModel.get(dag, session=session)
            assert found is not None
            found.dag.create_dagrun(
                run_id=RUN, run_type=DagRunType.MANUAL, run_after=timezone.utcnow(), state=DagRunState.RUNNING,
                triggered_by=DagRunTriggeredByType.TEST, session=session,
            )  # fmt: skip
    while True:
        asked: dict[str, Trigger] | None = pipe.recv()
        with create_session() as session:
            tasks = {f"{row.dag_id}.{row.task_id}": row for row in session.scalars(select(TaskInstance))}
            if asked is None:
                pipe.send({name: (str(row.state), row.updated_at.timestamp()) for name, row in tasks.items()})
                continue
            for name, (classpath, arguments) in asked.items():
                row = Row(classpath=classpath, kwargs=arguments)
                session.add(row)
                session.flush()
                task = tasks[name]
                task.state, task.trigger_id, task.try_number = TaskInstanceState.DEFERRED, row.id, 1
                task.next_method, task.next_kwargs = "execute_complete", {}
        pipe.send("done")
