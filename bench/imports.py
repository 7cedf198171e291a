"""What importing ``windtunnel_airflow`` costs a DAG file, against ``airflow.sdk`` alone (at most 1.2 x)."""

from __future__ import annotations

from bench.pairs import paired, process_seconds
from bench.table import Table


def run() -> Table:
    table = Table("Import cost", ("import", "seconds", "x airflow.sdk", "range"))
    base = "import airflow.sdk"
    for name, code in (
        ("windtunnel_airflow", "import airflow.sdk, windtunnel_airflow"),
        ("windtunnel_airflow.lifecycle", "import airflow.sdk; from windtunnel_airflow import lifecycle"),
        ("windtunnel (a description)", "import airflow.sdk; from windtunnel import Model"),
    ):
        pair = paired(lambda code=code: process_seconds(code), lambda: process_seconds(base))  # type: ignore[misc]
        table.add(name, f"{pair.a:.2f}", f"{pair.ratio:.2f}", f"{pair.low:.2f} to {pair.high:.2f}")
    return table
