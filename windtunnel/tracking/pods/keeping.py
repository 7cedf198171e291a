"""What the object store need not keep any more of runs in pods, and of steps' outputs.

A run is over when its last attempt said so: it made its model, or failed for good. One that may go on (its last attempt
failed as transient, or never said anything) keeps all it needs: inputs, checkpoints, a trained model; but for what a
death in the middle of an upload left. Ages count from the newest thing of the run, so that one that lives is young.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from windtunnel import canonical
from windtunnel.data.objects import Objects
from windtunnel.data.parcels import SIDECAR

DAY = 86400.0
#: Of a run's objects, what is large and of no use once it is over: the registry has the model, these are its papers.
_CONTENT = ("inputs/", "checkpoints/", "trained/", "result/", f"trained{SIDECAR}", f"result{SIDECAR}")
#: pipelines/DAG/runs/RUN/steps/TASK/outputs/NAME
_OUTPUT = 8


@dataclass(frozen=True, slots=True)
class Ages:
    """Seconds after which something goes; None: never.

    Attributes:
        content: inputs, checkpoints and models of runs that are over.
        papers: all of them: logs, evidence, how they ended.
        steps: outputs of steps that no run may still need.
        abandoned: a run that could go on, and did not for so long, is over.
    """

    content: float | None = 7 * DAY
    papers: float | None = 90 * DAY
    steps: float | None = 30 * DAY
    abandoned: float | None = 90 * DAY


@dataclass(slots=True)
class Kept:
    """What was done.

    Attributes:
        removed: how many objects, by what they were of.
        running: runs that may go on.
    """

    removed: dict[str, int] = field(default_factory=lambda: {"runs": 0, "steps": 0})
    running: list[str] = field(default_factory=list)


def tidy(objects: Objects, now: float, ages: Ages | None = None) -> Kept:
    """Remove what is old enough.

    Args:
        now: seconds since the epoch.

    Raises:
        DataError, UnavailableError: the store refuses, or does not answer; what is left goes the next time.
    """
    ages, out, needed = ages or Ages(), Kept(), set[str]()
    for run, times in _by(objects.times("runs/"), 2).items():
        silent = now - max(times.values())
        over = _over(objects, run, times)
        if not over and (ages.abandoned is None or silent < ages.abandoned):
            out.running.append(run.rpartition("/")[2])
            needed |= _inputs(objects, run)
            gone = torn(run, times, now)
        else:
            gone = removable(run, times, silent, ages)
        _delete(objects, gone)
        out.removed["runs"] += len(gone)
    if ages.steps is not None:
        for output, times in _by(objects.times("pipelines/"), _OUTPUT).items():
            if output not in needed and now - max(times.values()) > ages.steps:
                _delete(objects, times)
                out.removed["steps"] += len(times)
    return out


def removable(run: str, times: Mapping[str, float], silent: float, ages: Ages) -> list[str]:
    """Keys of a run that is over which are old enough. Pure.

    Args:
        run: ``runs/RUN``.
        times: key -> when it was written.
        silent: seconds since the newest of them.
    """
    if ages.papers is not None and silent > ages.papers:
        return list(times)
    if ages.content is not None and silent > ages.content:
        return [key for key in times if key.removeprefix(f"{run}/").startswith(_CONTENT)]
    return []


def torn(run: str, times: Mapping[str, float], now: float) -> list[str]:
    """Keys of checkpoints that were never finished, a day old. Pure."""
    prefix = f"{run}/checkpoints/"
    whole = {key.removesuffix(SIDECAR) for key in times if key.startswith(prefix) and key.endswith(SIDECAR)}
    return [
        key
        for key, at in times.items()
        if key.startswith(prefix)
        and not key.endswith(SIDECAR)
        and prefix + key.removeprefix(prefix).partition("/")[0] not in whole
        and now - at > DAY
    ]


def _over(objects: Objects, run: str, times: Mapping[str, float]) -> bool:
    numbers = {part for key in times if (part := key.removeprefix(f"{run}/attempts/").partition("/")[0]).isdigit()}
    last = max(map(int, numbers), default=None)
    if last is None:
        return False
    for paper in ("exit.json", "evidence.json"):
        raw = objects.get_bytes(f"{run}/attempts/{last}/{paper}")
        if raw is not None:
            said = canonical.loads(raw)
            if paper == "exit.json" and said.get("state") == "succeeded":
                return True
            return said.get("failure") not in (None, "transient")
    return False


def _inputs(objects: Objects, run: str) -> set[str]:
    """Where the inputs of a run lie."""
    raw = objects.get_bytes(f"{run}/spec.json")
    return set() if raw is None else {str(one["path"]) for one in canonical.loads(raw).get("inputs", {}).values()}


def _by(times: Mapping[str, float], parts: int) -> dict[str, dict[str, float]]:
    """Keys by their first parts; a sidecar belongs to what it stands beside."""
    out: dict[str, dict[str, float]] = {}
    for key, at in times.items():
        first = key.split("/")[:parts]
        if len(first) == parts:
            out.setdefault("/".join(first).removesuffix(SIDECAR), {})[key] = at
    return out


def _delete(objects: Objects, keys: Iterable[str]) -> None:
    """First the word that a thing is there, then the thing."""
    found = list(keys)
    objects.delete([key for key in found if key.endswith(SIDECAR)])
    objects.delete([key for key in found if not key.endswith(SIDECAR)])
