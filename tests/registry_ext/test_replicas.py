"""A read replica that is a moment behind as a server starts."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from sqlalchemy import create_engine, inspect

from windtunnel_mlflow import replicas


def test_a_server_waits_for_its_replica_to_have_the_tables(tmp_path: Path) -> None:
    primary, replica = tmp_path / "primary.db", tmp_path / "replica.db"

    def arrive() -> None:
        shutil.copy(primary, tmp_path / "arriving")
        (tmp_path / "arriving").rename(replica)

    with pytest.raises(MlflowException, match=r"does not follow its primary.*revision None"):
        replicas.follow(f"sqlite:///{primary}", f"sqlite:///{replica}", 0.1)
    late = threading.Timer(1, arrive)
    late.start()
    replicas.follow(f"sqlite:///{primary}", f"sqlite:///{replica}", 60)
    late.join()
    assert "registered_models" in inspect(create_engine(f"sqlite:///{replica}")).get_table_names()


def test_a_replica_that_nobody_answers_for_is_named_without_its_password(tmp_path: Path) -> None:
    nobody = "postgresql+psycopg2://reader:quiet@127.0.0.1:1/mlflow"
    with pytest.raises(MlflowException, match="refused") as caught:
        replicas.follow(f"sqlite:///{tmp_path / 'primary.db'}", nobody, 0.1)
    assert "quiet" not in str(caught.value)
