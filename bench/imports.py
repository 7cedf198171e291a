"""What importing ``windtunnel_airflow`` costs a DAG file, against ``airflow.sdk`` alone (at most 1.2 x)."""

from __future__ import annotations

from bench.pairs import paired, process_seconds
from bench.table import Table


def run() -> Table:
    table = Table("Import cost", ("import", "seconds", "x airflow.sdk", "range"))
    base = "import airflow.sdk"
    worst = 0.0
    for name, code in (
        ("windtunnel_airflow", "import airflow.sdk, windtunnel_airflow"),
        ("windtunnel_airflow.lifecycle", "import airflow.sdk; from windtunnel_airflow import lifecycle"),
        ("windtunnel (a description)", "import airflow.sdk; from windtunnel import Model"),
    ):
        pair = paired(lambda code=code: process_seconds(code), lambda: process_seconds(base))  # type: ignore[misc]
        worst = max(worst, pair.ratio)
        table.add(name, f"{pair.a:.2f}", f"{pair.ratio:.2f}", f"{pair.low:.2f} to {pair.high:.2f}")
    table.demand("at most 1.2 x importing airflow.sdk", f"{worst:.2f} x", worst <= 1.2)
    table.note = "Fresh interpreters, each beside one that imports `airflow.sdk` alone, in turn."
    return table
