"""The whole embedded stack, idle: memory, and how long ``windtunnel up`` takes, cold and warm.

Demanded: less than 3 GiB, ready in less than 60 s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import rig
from bench.table import Table
from windtunnel.home import Home
from windtunnel.loopback import any_free

IDLE_S = 60.0
LIMIT_MIB = 3 * 1024
READY_S = 60.0
WINDTUNNEL = str(Path(sys.executable).parent / "windtunnel")


def ask(home: Home, *words: str) -> Any:
    """One command on this home; what it says as JSON.

    Raises:
        RuntimeError: it failed.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith("WINDTUNNEL_HOME")}
    done = subprocess.run(
        [WINDTUNNEL, *words, "--home", str(home.root)],
        capture_output=True, text=True, timeout=300, check=False, env=env,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"windtunnel {words[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout) if "--json" in words else None


def start(home: Home, ports: list[str]) -> float:
    """Seconds until ``windtunnel up`` says that everything is healthy."""
    began = time.monotonic()
    ask(home, "up", "--json", *ports)
    return time.monotonic() - began


def processor_s(pid: int) -> float:
    """Processor time of a program and everything below it."""
    import psutil

    root = psutil.Process(pid)
    return float(sum(sum(one.cpu_times()[:4]) for one in (root, *root.children(recursive=True))))


def run() -> Table:
    table = Table("The embedded stack, idle", ("program", "memory, MiB", "processor, % of a core"))
    with rig.temporary_home() as home:
        ports = [word for server in ("airflow", "mlflow", "envoy") for word in (f"--{server}-port", str(any_free()))]
        try:
            cold = start(home, ports)
            pids = {one["name"]: one["pid"] for one in ask(home, "status", "--json")["components"] if one["pid"]}
            before = {name: processor_s(pid) for name, pid in pids.items()}
            time.sleep(IDLE_S)
            busy = {name: (processor_s(pid) - before[name]) / IDLE_S * 100 for name, pid in pids.items()}
            components = ask(home, "status", "--json")["components"]
            ask(home, "down")
            warm = start(home, [])
        finally:
            ask(home, "down")
    total = sum(one["memory_mb"] or 0 for one in components)
    for one in sorted(components, key=lambda one: -(one["memory_mb"] or 0)):
        if one["memory_mb"]:
            table.add(one["name"], f"{one['memory_mb']:,.0f}", f"{busy[one['name']]:.1f}")
    table.add("in all", f"{total:,.0f}", f"{sum(busy.values()):.1f}")
    table.demand("less than 3 GiB, idle", f"{total / 1024:.2f} GiB", total < LIMIT_MIB)
    table.demand("ready in less than 60 s, from nothing", f"{cold:.0f} s", cold < READY_S)
    table.demand("ready in less than 60 s, again", f"{warm:.0f} s", warm < READY_S)
    table.note = (
        f"Proportional set size, so that shared pages count once, {IDLE_S:g} s after everything was healthy; "
        "each model server adds about 300 MiB. Times are of `windtunnel up` until every part is healthy: from an empty "
        "home with its databases made, and from a home that was up before."
    )
    return table
