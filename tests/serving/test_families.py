"""Models of several makers: trained by a run, looked through, stored, and served by a server of their own.

DEMAND SRV-8. The run, the model server and Envoy are real.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from windtunnel.data import steps
from windtunnel.data.steps import Output
from windtunnel.evidence import manifest
from windtunnel.home import Home
from windtunnel.safety import Allowance, scan
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.local import servers
from windtunnel.tracking import local
from windtunnel.tracking.contract import RunSpec

pytestmark = pytest.mark.real
CASES = Path(__file__).parent / "cases"
FEATURES = [{"name": "a"}, {"name": "b"}]
#: Library that must be installed, in both environments.
FAMILIES = {
    "xgboost": "xgboost",
    "xgboost_folder": "xgboost",
    "lightgbm": "lightgbm",
    "lightgbm_folder": "lightgbm",
    "onnx": "onnxruntime",
    "torch": "torch",
    "plain": "mlflow",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Output:
    random = np.random.default_rng(7)
    frame = pd.DataFrame({"t": np.arange(300.0), "a": random.normal(size=300), "b": random.normal(size=300)})
    frame["y"] = frame["a"] * 2 + random.normal(size=300) * 0.1
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    frame.to_parquet(path)
    return steps.describe("rows", path)


#: The second way to store a model of one maker waits for make test-long.
TWICE = ("xgboost_folder", "lightgbm")


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.long] if name in TWICE else []) for name in FAMILIES]
)
def test_a_model_of_each_maker_is_trained_and_served(family: str, rows: Output, served: Any, tmp_path: Path) -> None:
    pytest.importorskip(FAMILIES[family], reason=f"{FAMILIES[family]} is not installed here")
    home = Home(tmp_path / "home")
    spec = RunSpec(
        run_id=uuid.uuid4().hex,
        model=family.replace("_", "-"),
        entry_point=f"wt_families:{family}",
        inputs={"rows": rows},
        features=FEATURES,
        target="y",
        time="t",
        resources={"cpu": 1, "memory": 3 * 2**30, "disk": 2**30},
        time_limit=300.0,
        python_path=[str(CASES)],
    )
    try:
        local.start(home, spec)
        ended = local.wait(home, spec.run_id, timeout=280, every=0.05)
        assert ended.state == "succeeded", ended.message + local.tail(home, spec.run_id)[0][-2000:]
        result = local.result(home, spec.run_id)
    finally:
        local.stop_all(home, reason="the test is over")
    assert result is not None and result.model_path is not None
    folder = Path(result.model_path)

    # Code of the team's own travels with a model only where the description trusts it.
    report = scan(folder, Allowance(trust=("doubled",) if family == "plain" else ()))
    assert report.passed, [str(finding) for finding in report.findings]
    assert str(tmp_path) not in (folder / "MLmodel").read_text(encoding="utf-8")

    asked = [{"a": 0.5, "b": -1.0}, {"a": -2.0, "b": 0.25}]
    settings = {
        "serving": {"flush": "1s", "drain": "1s", "timeout": "10s", "memory": "2Gi"},
        "features": FEATURES,
        "warmup": asked,
    }
    arm = Arm("1", manifest.build(folder).content, str(folder), 100)
    served.backend.apply(Release(spec.model, arm, (), token=1, rollout_id="first", settings={"1": settings}))
    try:
        answer = served.infer(spec.model, *asked)
        assert answer.status == 200, answer.body
        given = np.ravel(next(out["data"] for out in answer.json["outputs"]))
        import mlflow.pyfunc

        wanted = np.ravel(mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame(asked)))
        np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-6)
        wrong = served.infer(spec.model, body=json.dumps({"inputs": servers.tensors([{"a": "much", "b": 1.0}])}))
        assert wrong.status == 400 and b"'a'" in wrong.body, "DEMAND SRV-5: the field is named"
    finally:
        served.backend.abort(spec.model, "the test is over", "test")
