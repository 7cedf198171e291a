"""How long ``windtunnel demo`` takes once everything is installed (about ten minutes), and where the time goes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.table import Table

LIMIT_S = 1_800
DEMANDED_S = 720.0


def table(told: dict[str, Any]) -> Table:
    """What one flight said of itself (``windtunnel demo --json``)."""
    made = Table("A whole flight: `windtunnel demo`", ("part", "seconds"))
    for step in told["steps"]:
        made.add(step["title"], f"{step['seconds']:.0f}")
    for part, seconds in told["time"].items():
        made.add(f"of it {part}", f"{seconds:.0f}")
    made.add("in all", f"{told['seconds']:.0f}")
    made.demand(
        "about ten minutes after installation", f"{told['seconds'] / 60:.1f} minutes", told["seconds"] < DEMANDED_S
    )
    made.demand("every step proven", "yes" if told["ok"] else "no", told["ok"])
    return made


def run() -> Table:
    """Fly once in a home of its own."""
    with tempfile.TemporaryDirectory(prefix="wt-bench-") as folder:
        command = [
            str(Path(sys.executable).parent / "windtunnel"),
            "--home",
            f"{folder}/home",
            "demo",
            "--exit",
            "--json",
        ]
        flown = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S, check=False)
        return table(json.loads(flown.stdout))
