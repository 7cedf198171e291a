"""How Airflow tasks name step data (PIP-2): XCom carries references, ``windtunnel.data.steps`` holds the bytes.

What a step returns is ``{"outputs": {name: reference}, ...}``; the next step is given that whole answer and takes
from it what is wired to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.errors import DataError

if TYPE_CHECKING:
    from windtunnel.data.steps import Output


def step_name(task_id: str, map_index: int = -1) -> str:
    """Folder name of a task; each index of a mapped task has its own."""
    return task_id if map_index < 0 else f"{task_id}.{map_index}"


def reference(result: Any, name: str) -> dict[str, Any] | None:
    """The reference ``name`` in what a step returned; None when it was skipped or has no such output."""
    if not isinstance(result, Mapping):
        return None
    ref = (result.get("outputs") or {}).get(name)
    return dict(ref) if ref else None


def take(result: Any, name: str) -> Output:
    """The output ``name`` of a step, after its bytes were found to be the ones that were written.

    Raises:
        DataError: it is missing, cut short or changed; nothing may start then.
    """
    from windtunnel.data.steps import Output, verify_input

    ref = reference(result, name)
    if ref is None:
        raise DataError(f"input {name!r} is missing", hint="the step that writes it gave no such output")
    found = Output.from_dict(ref)
    verify_input(found)
    return found


def gather(results: Iterable[Any], name: str) -> list[Output]:
    """The output ``name`` of every run of a mapped step that was not skipped, verified (fan-in)."""
    return [take(result, name) for result in results if reference(result, name) is not None]


def publish(home: Any, where: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Move files into the step's outputs and return their references.

    Args:
        where: ``dag_id``, ``dag_run_id``, ``task_id``, ``map_index`` of the running task.

    Raises:
        DataError: one of them was not written.
    """
    from windtunnel.data.steps import write_output

    step = step_name(str(where["task_id"]), int(where.get("map_index", -1)))
    return {
        name: write_output(home, where["dag_id"], where["dag_run_id"], step, name, path, move=True).to_dict()
        for name, path in outputs.items()
    }
