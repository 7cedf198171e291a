"""What an attempt's papers in the store say of the next; pure but for a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from windtunnel import canonical
from windtunnel.data.objects import FolderObjects
from windtunnel.tracking.contract import RunStatus
from windtunnel.tracking.pods.depot import Depot
from windtunnel_airflow.pods.attempts import unanswered


@pytest.mark.parametrize(
    ("record", "said", "evidence", "goes_on"),
    [
        ({}, ("succeeded", None), None, True),
        ({"answered": True}, ("succeeded", None), None, False),
        ({"again": True}, ("succeeded", None), None, False),
        ({}, ("failed", "data"), None, False),
        ({}, ("failed", "code"), "transient", False),
        ({}, ("cancelled", "cancelled"), None, False),
        ({}, ("failed", "transient"), "transient", True),
        ({"again": True}, ("failed", "transient"), "transient", True),
        ({}, ("failed", "transient"), "resource", False),
        ({}, None, "transient", True),
        ({}, None, "resource", False),
        ({}, None, None, False),
    ],
    ids=[
        "not returned", "returned", "not returned twice", "bad data", "a bug", "by a person", "stopped from outside",
        "stopped again", "told to stop for its own limits", "gone without a word", "out of memory", "nothing is known",
    ],
)  # fmt: skip
def test_a_cleared_task_goes_on_with_what_did_not_fail(
    record: dict[str, Any], said: Any, evidence: str | None, goes_on: bool, tmp_path: Path
) -> None:
    """DEMAND PIP-5, TRN-3: nothing is trained twice for what failed beside it; what failed for good begins anew."""
    depot = Depot(FolderObjects(tmp_path), "r")
    if said is not None:
        status = RunStatus("r", said[0], failure=said[1])
        depot.objects.put_bytes(f"{depot.key}/attempts/2/exit.json", canonical.dumps(status.to_dict()))
    if evidence is not None:
        depot.objects.put_bytes(f"{depot.key}/attempts/2/evidence.json", canonical.dumps({"failure": evidence}))
    assert unanswered(depot, {"attempt": 2, **record}) is goes_on
