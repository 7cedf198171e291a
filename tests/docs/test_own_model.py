"""The README's own model, taken from the page: imported, trained, judged; and the tutorial's words about it."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
OWN = ROOT / "examples" / "own"
TUTORIAL = ROOT / "docs" / "tutorial" / "own-model.md"


def load(path: Path) -> Any:
    """A module from a file, under a name nobody else has."""
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def table(flying: Path) -> Path:
    """``sea.csv``, made as the README says."""
    return load(OWN / "make_csv.py").main(flying / "sea.csv")  # type: ignore[no-any-return]


def test_the_readme_shows_the_files_that_are_copied(flying: Path) -> None:
    """The reader copies ``examples/own``; what the page shows must be just that."""
    shown = {path.name: path.read_text() for path in flying.iterdir()}
    assert shown == {name: (OWN / name).read_text() for name in ("sea.py", "sea_dags.py")}
    lines = [line for text in shown.values() for line in text.splitlines() if line.strip()]
    assert len(lines) <= 20
    assert f"{len(lines)} lines" in (ROOT / "README.md").read_text()


def test_the_dag_file_gives_three_dags(flying: Path) -> None:
    """Importing it is enough: Airflow's processor finds the DAGs in the same way."""
    from airflow.sdk.definitions._internal.contextmanager import DagContext

    DagContext.autoregistered_dags.clear()
    DagContext.current_autoregister_module_name = "sea_dags"
    try:
        importlib.import_module("sea_dags")
        found = {dag.dag_id: len(dag.tasks) for dag, _ in DagContext.autoregistered_dags}
    finally:
        DagContext.current_autoregister_module_name = None
        DagContext.autoregistered_dags.clear()
    assert sorted(found) == ["sea.release", "sea.train", "sea.watch"]
    assert found["sea.train"] == 5


def test_airflow_reads_the_dag_file_and_leaves_the_others_alone() -> None:
    """Airflow's safe mode, as it decides which files hold DAGs."""
    from airflow.utils.file import might_contain_dag_via_default_heuristic

    read = {path.name for path in OWN.glob("*.py") if might_contain_dag_via_default_heuristic(str(path))}
    assert read == {"sea_dags.py"}


class Judge:
    """Training and evaluation of the README's model, by the same functions the DAG's tasks call."""

    def __init__(self, folder: Path) -> None:
        import time

        import pandas as pd

        from windtunnel.data.snapshot import snapshot

        self.folder = folder
        self.model = importlib.import_module("sea").model
        self.taken = snapshot(self.model.data, folder / "snapshot", evaluation=self.model.evaluation, now=time.time())
        self.rows, self.holdout = (pd.read_parquet(p) for p in (self.taken.rows_path, self.taken.holdout_path))

    def train(self, **params: Any) -> Any:
        from windtunnel.data.steps import describe
        from windtunnel.tracking.contract import RunSpec
        from windtunnel.tracking.entry import resolve
        from windtunnel.tracking.run import Run

        model = self.model
        spec = RunSpec(
            run_id="docs",
            model=model.name,
            entry_point=model.training.entry_point,
            params={**model.training.params, **params},
            inputs={"rows": describe("rows", self.taken.rows_path)},
            features=[feature.model_dump(mode="json") for feature in model.data.features],
            target=model.data.target,
            time=model.data.time,
        )
        return resolve(spec.entry_point)(Run(spec, self.folder / "run"))

    def evaluate(self, version: Any, champion: Any = None) -> Any:
        from windtunnel.evaluation import evaluate

        return evaluate(
            self.model.evaluation,
            self.model.data.feature_names,
            self.model.data.target,
            version.predict,
            champion.predict if champion else None,
            self.holdout,
            self.rows,
        )


def test_the_model_trains_and_passes_its_evaluation(flying: Path, table: Path) -> None:
    judge = Judge(flying)
    first = judge.train()
    assert str(judge.evaluate(first).outcome) == "PASS"
    second = judge.train(max_iter=100)
    assert str(judge.evaluate(second, first).outcome) == "PASS"


def test_the_refusal_of_the_tutorial_comes_in_these_words(flying: Path, table: Path) -> None:
    judge = Judge(flying)
    result = judge.evaluate(judge.train(max_iter=1))
    said = f"evaluation {result.outcome}: {result.reason}; nothing is registered"
    assert str(result.outcome) == "FAIL"
    number = r"\d+\.\d+"  # another scikit-learn may count a little differently
    shown = re.search(r"^    (evaluation FAIL: .*)$", TUTORIAL.read_text(), re.M)
    assert shown and re.sub(number, "N", shown[1]) == re.sub(number, "N", said)


def test_the_tutorial_shows_the_training_function_of_the_readme(blocks: Callable[[Path], list[Any]]) -> None:
    shown = [block.code for block in blocks(TUTORIAL) if block.language == "python"]
    source = (OWN / "sea.py").read_text()
    assert shown[0] in source
    assert shown[2] == (OWN / "sea_dags.py").read_text()


def test_the_tutorials_quick_plan_works_as_it_says(blocks: Callable[[Path], list[Any]]) -> None:
    """Ten requests a second, as ``ask.py`` sends them, are enough; six requests in ten minutes are not."""
    import numpy as np

    from windtunnel.rollout import Plan
    from windtunnel.rollout.simulate import Behaviour, Scenario, simulate

    space: dict[str, Any] = {}
    exec(next(b.code for b in blocks(TUTORIAL) if "quick = Rollout(" in b.code), space)
    good = Behaviour(errors=0.0)
    for first in (True, False):
        plan = Plan.from_spec(space["quick"], first)
        run = simulate(plan, Scenario(10.0, good, good, history=300), np.random.default_rng(0))
        assert run.decision.action == "promote" and run.seconds < 180
    plan = Plan.from_spec(space["quick"], True)
    run = simulate(plan, Scenario(0.02, good, good, history=0), np.random.default_rng(1))
    assert run.decision.action == "withdraw"
    words = "requests to the candidate in this step, needs 20; the step has waited 330 s, at most 330 s"
    said = re.search(rf"\*(\d+)\s+({words})\*", TUTORIAL.read_text())
    assert said and said[2] in run.decision.reason


def test_the_yaml_of_the_tutorial_describes_the_same_model(flying: Path, blocks: Callable[[Path], list[Any]]) -> None:
    from windtunnel.spec.load import loads

    ours = importlib.import_module("sea").model.to_dict()
    theirs = loads(next(b.code for b in blocks(TUTORIAL) if b.language == "yaml")).to_dict()
    ours["data"].pop("source"), theirs["data"].pop("source")
    assert theirs == ours


def test_the_mistake_of_the_tutorial_is_told_in_these_words(blocks: Callable[[Path], list[Any]]) -> None:
    from windtunnel.errors import DescriptionError
    from windtunnel.spec.load import loads

    text = next(b.code for b in blocks(TUTORIAL) if b.language == "yaml").replace("features:", "featurs:")
    with pytest.raises(DescriptionError) as found:
        loads(text, "sea.yaml")
    shown = re.search(r"^    (sea\.yaml:\d+: .*)$", TUTORIAL.read_text(), re.M)
    assert shown and shown[1] in str(found.value)


def test_the_traffic_script_asks_what_the_model_understands(flying: Path) -> None:
    """The body of ``ask.py`` through the model server's own check of requests."""
    from windtunnel.serving.modelserver.signature import Tensor, contract

    ask, model = load(OWN / "ask.py"), importlib.import_module("sea").model
    assert list(ask.FEATURES) == model.data.feature_names
    row = {"month": 1, "month_ago": 21.8, "year_ago": 23.11, "temperature": 24.19}
    tensors = [Tensor(**tensor) for tensor in ask.body(row)["inputs"]]
    features = [feature.model_dump(mode="json") for feature in model.data.features]
    columns, rows = contract(None, features).decode(tensors)
    assert rows == 1 and columns == {"month": [1.0], "month_ago": [21.8], "year_ago": [23.11]}
