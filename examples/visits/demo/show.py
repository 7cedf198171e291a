"""How the demo talks: a timeline on stderr while it runs, a table at the end, JSON on stdout for machines."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table


class Telling:
    """One line per thing that happens, with the seconds since the start; a spinner only on a terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._began = time.monotonic()
        self._status = self.console.status("") if self.console.is_terminal else None

    def chapter(self, title: str) -> None:
        self.console.rule(f"[bold]{title}", align="left")

    def say(self, text: str, mark: str = "·") -> None:
        """``mark``: ``·`` news, ``✓`` a step that is proven, ``✗`` one that is not."""
        colour = {"✓": "green", "✗": "red"}.get(mark, "cyan")
        self.console.print(f"[dim]{self.clock()}[/] [{colour}]{mark}[/] {text}")

    def waiting(self, text: str) -> None:
        """What it is waiting for right now; shown on a terminal only."""
        if self._status:
            self._status.update(f"[dim]{self.clock()}[/] {text}")
            self._status.start()

    def quiet(self) -> None:
        if self._status:
            self._status.stop()

    def clock(self) -> str:
        seconds = int(time.monotonic() - self._began)
        return f"{seconds // 60:3d}:{seconds % 60:02d}"

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


def final_tables(told: dict[str, Any], console: Console) -> None:
    """Versions, verdicts, time, and where to look."""
    versions = Table(title="Versions", title_justify="left")
    for column in ("version", "recipe", "state", "evaluation", "rollout", "answers"):
        versions.add_column(column)
    for row in told["versions"]:
        versions.add_row(
            row["semver"], row["recipe"], row["state"], row["evaluation"], row["rollout"], str(row["answers"])
        )
    console.print(versions)

    steps = Table(title="What happened", title_justify="left")
    for column in ("step", "proven", "seconds", "how we know"):
        steps.add_column(column)
    for step in told["steps"]:
        steps.add_row(
            step["title"], "yes" if step["ok"] else "[red]NO", f"{step['seconds']:.0f}", "\n".join(step["proof"])
        )
    console.print(steps)

    spent = Table(title="Where the time went", title_justify="left")
    spent.add_column("part")
    spent.add_column("seconds", justify="right")
    for name, seconds in told["time"].items():
        spent.add_row(name, f"{seconds:.0f}")
    console.print(spent)

    harmed = told.get("harmful")
    if harmed:
        share = f"{harmed['requests']} of {harmed['all_requests']}"
        console.print(
            f"The harmful version ({harmed['kind']}) answered {share} requests before its gate took it to 0; "
            f"{harmed['failed']} of those failed."
        )
    for name, url in told["urls"].items():
        console.print(f"  {name:10} {url}")
    for line in told["log_ins"]:
        console.print(f"  {line}")


def machine(told: dict[str, Any]) -> None:
    json.dump(told, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
