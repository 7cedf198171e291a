"""What is taken for a model's answer, and for its code, before it is served (DEMAND SRV-8)."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from windtunnel.errors import TrainingError
from windtunnel.evaluation import evaluate
from windtunnel.evidence import Outcome
from windtunnel.monitoring import reference
from windtunnel.spec import Model
from windtunnel.spec.evaluation import Evaluation, Metric
from windtunnel.tracking import packaging
from windtunnel.tracking.answers import prediction

FRAME = pd.DataFrame({"a": [0.5, -1.0, 2.0]})
SURE = pd.DataFrame({"confidence": [0.9, 0.5, np.nan], "prediction": [1.0, 2.0, 3.0]}, index=[7, 8, 9])


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (np.array([1, 0, 1]), [1, 0, 1]),
        (np.array([[1.5], [0.5], [2.5]]), [1.5, 0.5, 2.5]),
        (["high", "low", "high"], ["high", "low", "high"]),
        (pd.Series([True, False, True]), [True, False, True]),
        (pd.DataFrame({"any": [1.0, 2.0, 3.0]}), [1.0, 2.0, 3.0]),
        (pd.DataFrame({0: np.float32([1, 2, 3])}), [1.0, 2.0, 3.0]),
        (SURE, [1.0, 2.0, 3.0]),
        (pd.DataFrame({"prediction": ["x", "y", "z"], "score": [1, 2, 3]}), ["x", "y", "z"]),
    ],
)
def test_one_prediction_per_row(answer: Any, wanted: list[Any]) -> None:
    assert packaging.predictions(lambda frame: answer, FRAME, "the model").tolist() == wanted


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.ones((3, 2)), r"shape \(3, 2\)"),
        (pd.DataFrame({"label": [1, 0, 1], "score": [1.0, 2.0, 3.0]}), "in column 'prediction'"),
        (SURE.assign(prediction=[1.0, np.inf, 2.0]), "1 of 3"),
        (SURE.head(2), r"shape \(2,\)"),
    ],
)
def test_an_answer_that_is_none_says_what_was_expected(answer: Any, words: str) -> None:
    with pytest.raises(TrainingError, match=words) as found:
        packaging.predictions(lambda frame: answer, FRAME, "the model")
    assert found.value.hint


def test_a_model_that_says_more_than_its_prediction_is_judged_by_that() -> None:
    rows = pd.DataFrame({"a": np.arange(200.0), "y": np.arange(200.0)})

    def sure(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"prediction": frame["a"] + 0.5, "confidence": 1.0})

    rules = Evaluation(metrics=[Metric(name="mae", maximum=0.6, margin=0.0)], benchmark=None, leakage=False)
    found = evaluate(rules, ["a"], "y", sure, sure, rows)
    assert found.outcome == Outcome.PASS and found.numbers["metrics"]["mae"]["value"] == pytest.approx(0.5)


@pytest.mark.parametrize(("place", "copied"), [("lib/python3/dist-packages", False), ("src", True)])
def test_only_code_that_no_environment_has_travels_with_a_model(
    place: str, copied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library of an environment below this one (--system-site-packages) was taken for the team's own."""
    package = tmp_path / place / "wt_below"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(package.parent))
    importlib.import_module("wt_below")
    try:
        found = packaging.own_code(["wt_below.part"], tmp_path / "staging")
    finally:
        del sys.modules["wt_below"]
    assert [Path(path).name for path in found] == (["wt_below"] if copied else [])


def test_classes_probabilities_stay_a_column_each() -> None:
    assert prediction(pd.DataFrame({"0": [0.1, 0.9], "1": [0.9, 0.1]})).shape == (2, 2)


@pytest.mark.parametrize("one", [np.ones((50, 1), dtype="float32"), pd.DataFrame({0: np.ones(50)}), [[1.0]] * 50])
def test_a_column_of_predictions_makes_a_reference(one: Any) -> None:
    """What networks and graphs answer: a version of theirs could not be registered."""
    model = Model.model_validate(
        {
            "name": "net",
            "owner": "tests",
            "data": {"source": "rows.csv", "time": "t", "target": "y", "features": ["a"]},
            "training": {"entry_point": "team:train"},
        }
    )
    rows = pd.DataFrame({"a": np.arange(50.0), "y": 1.0})
    built = reference.build(model, "1", rows, prediction(one), {}, "sha256:" + "0" * 64)
    assert built.prediction is not None and (built.prediction.n, built.prediction.mean) == (50, 1.0)
