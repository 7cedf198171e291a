"""A table that prints the same on the terminal and in docs/benchmarks.md."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass
class Table:
    """Rows of text under a title, what was demanded of them, and how they were measured (``note``)."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    demands: list[tuple[str, str, bool | None]] = field(default_factory=list)
    note: str = ""

    def add(self, *row: str) -> None:
        """One more row.

        Raises:
            ValueError: it has too few cells or too many.
        """
        if len(row) != len(self.columns):
            raise ValueError(f"{self.title}: a row has {len(self.columns)} cells, found {row}")
        self.rows.append(row)
        if os.environ.get("BENCH_TELL"):
            print(" | ".join(row), flush=True)

    def demand(self, wanted: str, found: str, met: bool | None) -> None:
        """What was to be shown, and whether it was; None when it could not be measured."""
        self.demands.append((wanted, found, met))

    @property
    def met(self) -> bool:
        return all(met is True for _, _, met in self.demands)

    def markdown(self) -> str:
        lines = [f"## {self.title}", ""]
        lines += [f"| {' | '.join(self.columns)} |", f"|{'---|' * len(self.columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        if self.demands:
            lines.append("")
        words = {True: "Met", False: "**Missed**", None: "**Not shown**, the machine was not quiet"}
        lines += [f"- {words[met]}: {wanted}: {found}." for wanted, found, met in self.demands]
        return "\n".join(lines + (["", self.note] if self.note else []) + [""])
