"""What goes from the object store, and what a run that may go on keeps. DEMAND TRN-2, TRN-3"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from windtunnel import canonical
from windtunnel.data.objects import FolderObjects, Objects, connect
from windtunnel.tracking.pods.depot import Depot
from windtunnel.tracking.pods.keeping import DAY, Ages, tidy

NOW = 2_000_000_000.0
ROWS = "pipelines/sea.train/runs/{run}/steps/data/outputs/rows"


@pytest.fixture
def store(tmp_path: Path) -> FolderObjects:
    return FolderObjects(tmp_path / "store")


def put(store: FolderObjects, days: float, *keys: str, **plain: Any) -> None:
    """Objects that many days old."""
    for key in keys:
        store.put_bytes(key, canonical.dumps(plain))
        os.utime(store.root / key, (NOW - days * DAY, NOW - days * DAY))


def a_run(store: FolderObjects, run: str, days: float, *exits: str | None, state: str = "failed") -> None:
    """A run with its inputs in the pipeline and its own, two checkpoints, one torn; how its attempts ended."""
    rows = ROWS.format(run=run)
    put(store, days, f"{rows}/rows.parquet", f"{rows}.windtunnel.json")
    put(store, days, f"runs/{run}/spec.json", inputs={"rows": {"path": rows}})
    for name in ("inputs/more", "checkpoints/0001-000000", "checkpoints/0001-000001", "trained"):
        put(store, days, f"runs/{run}/{name}/file", f"runs/{run}/{name}.windtunnel.json")
    put(store, days, f"runs/{run}/checkpoints/0001-000002/file")
    for attempt, failure in enumerate(exits, 1):
        put(store, days, f"runs/{run}/attempts/{attempt}/log.txt")
        if failure != "nothing":
            plain = {"state": state if failure is None else "failed", "failure": failure}
            put(store, days, f"runs/{run}/attempts/{attempt}/exit.json", **plain)


def left(store: Objects, run: str) -> set[str]:
    """First folders of what is left of a run, and whether its input is."""
    found = {key.split("/")[2].partition(".")[0] for key in store.sizes(f"runs/{run}/")}
    return found | ({"rows"} if store.sizes(ROWS.format(run=run)) else set())


EVERYTHING = {"spec", "inputs", "checkpoints", "trained", "attempts", "rows"}
CASES: dict[str, tuple[float, tuple[str | None, ...], set[str]]] = {
    "made its model yesterday": (1, (None,), EVERYTHING),
    "made its model": (8, (None,), {"spec", "attempts", "rows"}),
    "failed for good after a preemption": (8, ("transient", "data"), {"spec", "attempts", "rows"}),
    "long over": (100, (None,), set()),
    "over for as long as steps are kept": (31, ("code",), {"spec", "attempts"}),
    "may go on": (40, ("transient",), EVERYTHING),
    "said nothing": (40, ("nothing",), EVERYTHING),
    "never began": (40, (), EVERYTHING - {"attempts"}),
    "could go on, and nobody wants it": (91, ("transient",), set()),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_left_of_a_run(case: str, store: FolderObjects) -> None:
    days, exits, kept = CASES[case]
    a_run(store, "r", days, *exits, state="succeeded")
    done = tidy(store, NOW)
    assert left(store, "r") == kept
    assert done.running == (["r"] if "checkpoints" in kept and days > 1 else [])


def test_a_run_that_may_go_on_loses_only_what_was_never_finished(store: FolderObjects) -> None:
    """DEMAND TRN-3: the newest good checkpoint is there, and the one before it."""
    a_run(store, "r", 40, "transient")
    tidy(store, NOW)
    assert Depot(store, "r").checkpoints() == ["runs/r/checkpoints/0001-000000", "runs/r/checkpoints/0001-000001"]
    assert "runs/r/checkpoints/0001-000002/file" not in store.sizes("runs/r/")


def test_a_pod_that_was_killed_counts_by_its_evidence(store: FolderObjects) -> None:
    a_run(store, "r", 8, "nothing")
    put(store, 8, "runs/r/attempts/1/evidence.json", kind="oom-killed", failure="resource")
    tidy(store, NOW)
    assert left(store, "r") == {"spec", "attempts", "rows"}


def test_never_is_never_and_others_things_stay(store: FolderObjects) -> None:
    a_run(store, "r", 4000, None, state="succeeded")
    put(store, 4000, "archive/sea/old.parquet")
    assert tidy(store, NOW, Ages(None, None, None, None)).removed == {"runs": 0, "steps": 0}
    tidy(store, NOW)
    assert list(store.sizes("")) == ["archive/sea/old.parquet"]


def test_times_are_those_of_the_store(tmp_path: Path) -> None:
    """Also on S3; what was just written is not old."""
    import time

    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        import boto3

        host, port = server.get_host_and_port()
        keys = {"aws_access_key_id": "t", "aws_secret_access_key": "t", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys)
        client.create_bucket(Bucket="bucket")
        for objects in (connect("s3://bucket/team", client), connect((tmp_path / "folder").as_uri())):
            objects.put_bytes("runs/a/x", b"1")
            objects.put_bytes("other/x", b"1")
            times = objects.times("runs/")
            assert list(times) == ["runs/a/x"] and abs(times["runs/a/x"] - time.time()) < 600
    finally:
        server.stop()
