"""What the nodes of a training leave in the object store beside node 0, which speaks for the run.

runs/RUN/attempts/N/nodes/R/log.txt
runs/RUN/attempts/N/nodes/R/exit.json   how node R's part ended: written last
"""

from __future__ import annotations

from pathlib import Path

from windtunnel import canonical
from windtunnel.tracking.contract import RunStatus
from windtunnel.tracking.pods.depot import WORDS, Depot


def _key(depot: Depot, attempt: int, rank: int) -> str:
    return f"{depot.key}/attempts/{attempt}/nodes/{rank}"


def leave(depot: Depot, folder: Path, attempt: int, rank: int, status: RunStatus) -> None:
    """Store the log of a node other than 0, and how its part ended."""
    key = _key(depot, attempt, rank)
    if (folder / "log.txt").exists():
        depot.objects.put(f"{key}/log.txt", folder / "log.txt")
    depot.objects.put_bytes(f"{key}/exit.json", canonical.dumps(status.to_dict()))


def forget_words(folder: Path) -> None:
    """Of what came back with node 0's checkpoint, its metrics and facts: they are node 0's to deliver."""
    for name in WORDS:
        (folder / name).unlink(missing_ok=True)


def said(depot: Depot, attempt: int) -> dict[int, RunStatus]:
    """Rank -> how it ended by its own word, node 0 included; who said nothing is left out."""
    out: dict[int, RunStatus] = {}
    if (word := depot.outcome(attempt)) is not None:
        out[0] = word
    prefix = f"{depot.key}/attempts/{attempt}/nodes/"
    for key in depot.objects.sizes(prefix):
        rank, _, what = key.removeprefix(prefix).partition("/")
        raw = depot.objects.get_bytes(key) if what == "exit.json" else None
        if raw is not None and rank.isdigit():
            out[int(rank)] = RunStatus.from_dict(canonical.loads(raw))
    return out
