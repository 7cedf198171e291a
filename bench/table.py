"""A table that prints the same on the terminal and in docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Table:
    """Rows of text under a title; ``note`` says how it was measured."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    note: str = ""

    def add(self, *row: str) -> None:
        if len(row) != len(self.columns):
            raise ValueError(f"{self.title}: a row has {len(self.columns)} cells, found {row}")
        self.rows.append(row)

    def markdown(self) -> str:
        lines = [f"## {self.title}", ""]
        lines += [f"| {' | '.join(self.columns)} |", f"|{'---|' * len(self.columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join(lines + (["", self.note] if self.note else []) + [""])
