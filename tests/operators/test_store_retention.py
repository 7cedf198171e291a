"""The steward's task that looks after the object store. DEMAND TRN-2"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from windtunnel import canonical
from windtunnel.data.objects import FolderObjects


def test_the_steward_looks_after_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from windtunnel_airflow import steward_dag

    task = steward_dag(kubernetes_conn_id="kubernetes_default").task_dict["store"]
    assert "store" not in steward_dag().task_dict

    def connection(**extra: str) -> None:
        given = {"conn_type": "windtunnel", "host": "http://127.0.0.1:9", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(given))

    connection()
    with pytest.raises(AirflowSkipException, match="names no object store"):
        task.execute({})
    store = FolderObjects(tmp_path / "store")
    connection(store=store.url)
    for run, days in (("old", 8), ("new", 1)):
        for key, plain in (("trained/model", {}), ("attempts/1/exit.json", {"state": "succeeded"})):
            store.put_bytes(f"runs/{run}/{key}", canonical.dumps(plain))
            at = time.time() - days * 86400
            os.utime(store.root / f"runs/{run}/{key}", (at, at))
    assert task.execute({}) == {"runs": 1, "steps": 0}
    assert sorted(store.sizes("")) == [
        "runs/new/attempts/1/exit.json", "runs/new/trained/model", "runs/old/attempts/1/exit.json",
    ]  # fmt: skip
