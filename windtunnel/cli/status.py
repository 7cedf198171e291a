"""``windtunnel status``: how every component is."""

from __future__ import annotations

from dataclasses import asdict

import typer

from windtunnel.cli import talk
from windtunnel.cli.options import HomeOption, JsonOption, the_stack

NAME = "status"


def command(context: typer.Context, json: JsonOption = False, home: HomeOption = None) -> None:
    """Show how each component is, and why.

    Exit code 1 unless everything is healthy or degraded.
    """
    from windtunnel.stack.health import Level

    stack = the_stack(context, home)
    status = stack.status()
    if json:
        talk.data_json("windtunnel.status/1", {"home": str(stack.home.root), **asdict(status)})
    elif not status.running:
        talk.say(f"no stack runs in {stack.home.root}; start one with 'windtunnel up'")
    else:
        rows = [["component", "health", "pid", "memory", "up", "reason"]]
        for one in status.components:
            rows.append(
                [
                    one.name,
                    one.level.value,
                    str(one.pid or "-"),
                    f"{one.memory_mb:.0f} MiB" if one.memory_mb else "-",
                    _span(one.uptime_s),
                    one.reason + (f"  {one.url}" if one.url else ""),
                ]
            )
        talk.table(rows, colour_column=1)
        talk.data("")
        talk.table(
            [["machine", "health", "reason"], *([m.name, m.level.value, m.reason] for m in status.machine)],
            colour_column=1,
        )
        total = sum(one.memory_mb or 0 for one in status.components)
        talk.data(f"\n{status.level.value}; {total:.0f} MiB in all")
    if not status.running or status.level not in (Level.HEALTHY, Level.DEGRADED):
        raise SystemExit(talk.FAILED)


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
