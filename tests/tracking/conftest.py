"""A home, rows, and runs whose processes are surely gone after each test."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from windtunnel.data import steps
from windtunnel.data.steps import Output
from windtunnel.home import Home
from windtunnel.tracking import local
from windtunnel.tracking.contract import RunSpec, RunStatus

CASES = Path(__file__).parent / "cases"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "home")
    yield made
    local.stop_all(made, reason="the test is over")


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Output:
    random = np.random.default_rng(7)
    frame = pd.DataFrame({"t": np.arange(300.0), "a": random.normal(size=300), "b": random.normal(size=300)})
    frame["y"] = frame["a"] * 2 + random.normal(size=300) * 0.1
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    frame.to_parquet(path)
    return steps.describe("rows", path)


@pytest.fixture
def spec(rows: Output) -> Callable[..., RunSpec]:
    """A spec for a function of ``cases/wt_cases.py``."""

    def make(function: str, **more: Any) -> RunSpec:
        reference = function if ":" in function else f"wt_cases:{function}"
        given: dict[str, Any] = {
            "run_id": uuid.uuid4().hex,
            "model": "visits",
            "entry_point": reference,
            "inputs": {"rows": rows},
            "features": [{"name": "a"}, {"name": "b"}],
            "target": "y",
            "time": "t",
            "resources": {"cpu": 1, "memory": 2 * 2**30, "disk": 2**30},
            "time_limit": 100.0,
            "python_path": [str(CASES)],
        }
        return RunSpec(**{**given, **more})

    return make


@pytest.fixture
def run(home: Home) -> Callable[..., RunStatus]:
    """Start a run and wait for its end."""

    def go(spec: RunSpec, *, timeout: float = 90, **more: Any) -> RunStatus:
        local.start(home, spec, **more)
        found = local.wait(home, spec.run_id, timeout=timeout, every=0.05)
        assert found.ended, f"still {found.state} after {timeout} s: {local.tail(home, spec.run_id)[0][-2000:]}"
        return found

    return go


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of an MLflow store in a file, made once."""
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    MlflowClient(tracking_uri=uri).create_experiment("visits", artifact_location=(folder / "artifacts").as_uri())
    return uri
