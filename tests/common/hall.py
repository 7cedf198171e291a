"""Which worker tests what, when two share the tests (docs/decisions/0007-tests-while-the-flight-flies.md).

By path alone: whoever hands out the tests has not collected them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

#: Tests of whole stacks, one after the other by one worker.
STACKS = "cluster_ends", "control", "postgres", "registry_event", "rehearse", "release_approval", "stack"
HALL = ("tests/flight/", *(f"tests/stack/test_{name}.py" for name in STACKS), "tests/ground/test_wheel.py")
#: Rooms whose tests share one server.
TOGETHER = ("tests/registry_ext/",)
#: A third of the processor, where both want all of it.
NICE = 5


def group(nodeid: str) -> str:
    """Tests of one group go to one worker, in their order."""
    if nodeid.startswith(HALL):
        return "hall"
    file = nodeid.partition("::")[0]
    return next((room for room in TOGETHER if file.startswith(room)), file)


def give_way(nodeid: str) -> None:
    """A worker that tests something else than the hall, and all that it starts from now on, leave the processor to who
    is in the hall: servers that come up there are waited for so long and no longer."""
    if os.environ.get("PYTEST_XDIST_WORKER") and group(nodeid) != "hall":
        os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))


def order(nodeid: str) -> int:
    """The hall first, and in it the flight."""
    return 0 if nodeid.startswith(HALL[0]) else 1 if group(nodeid) == "hall" else 2


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands out groups in the order of the tests."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return Groups(config, log)
