"""What parsing the DAGs of 1, 100 and 1,000 models costs, against as many plain DAGs with as many tasks."""

from __future__ import annotations

from bench.pairs import paired, process_seconds
from bench.table import Table

OURS = """
from windtunnel import Model
from windtunnel_airflow import lifecycle
for i in range({n}):
    lifecycle(Model(name=f"m{{i}}", owner="x", data=dict(source="a.parquet", time="t", target="y", features=["a", "b"]),
                    training=dict(entry_point="a.b:c")))
"""
PLAIN = """
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator
for i in range({n}):
    for stage, tasks in {shape!r}.items():
        with DAG(f"m{{i}}.{{stage}}", schedule=None):
            before = None
            for k in range(tasks):
                task = EmptyOperator(task_id=f"t{{k}}")
                if before is not None:
                    before >> task
                before = task
"""


def shape() -> dict[str, int]:
    """Tasks per DAG of one model, as the factory makes them."""
    from windtunnel import Model
    from windtunnel_airflow import lifecycle

    dags = lifecycle(
        Model(
            name="m",
            owner="x",
            data={"source": "a.parquet", "time": "t", "target": "y", "features": ["a"]},
            training={"entry_point": "a.b:c"},
        )
    )
    return {dag_id.split(".")[-1]: len(dag.tasks) for dag_id, dag in dags.items()}


def run() -> Table:
    table = Table(
        "Parsing the DAGs of N models in one file, beside N x 3 plain DAGs of the same number of empty tasks",
        ("models", "seconds", "plain, seconds", "ratio", "range"),
    )
    counts = shape()
    for n, rounds in ((1, 5), (100, 3), (1000, 2)):
        pair = paired(
            lambda n=n: process_seconds(OURS.format(n=n)),  # type: ignore[misc]
            lambda n=n: process_seconds(PLAIN.format(n=n, shape=counts)),  # type: ignore[misc]
            rounds,
        )
        table.add(str(n), f"{pair.a:.2f}", f"{pair.b:.2f}", f"{pair.ratio:.2f}", f"{pair.low:.2f} to {pair.high:.2f}")
    table.note = "Fresh interpreters in turn, with the import of Airflow and of the factory in both times."
    return table
