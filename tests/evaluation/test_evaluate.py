"""The verdict on a version, row by row (DEMAND EVL-1)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from windtunnel.errors import DataError, EntryPointError
from windtunnel.evaluation import evaluate
from windtunnel.evidence import Outcome
from windtunnel.spec.evaluation import Evaluation, Metric, Slice

FEATURES = ["age", "plan"]


@pytest.fixture(autouse=True)
def user_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    n = 600
    age, plan = rng.integers(20, 80, n), rng.integers(0, 2, n)
    return pd.DataFrame(
        {
            "time": pd.date_range("2026-01-01", periods=n, freq="h"),
            "age": age,
            "plan": plan,
            "group": np.where(np.arange(n) < 560, np.where(plan == 1, "a", "b"), "rare"),
            "visits": rng.poisson(0.05 * age + plan),
        }
    )


def good(rows: pd.DataFrame) -> np.ndarray:
    return (0.05 * rows["age"] + rows["plan"]).to_numpy()


def bad(rows: pd.DataFrame) -> np.ndarray:
    return good(rows) * 1.6


def judge(frame, rules: dict, predict=good, champion=None, **kwargs):
    spec = Evaluation(**({"benchmark": None} | rules))
    return evaluate(spec, FEATURES, "visits", predict, champion, frame, **kwargs)


BOUND = {"metrics": [Metric(name="mae", maximum=2.0)]}


def test_pass_says_the_numbers(frame) -> None:
    result = judge(frame, BOUND)
    assert result.outcome == Outcome.PASS
    assert "within maximum 2" in result.reason
    json.dumps([result.numbers, result.thresholds], allow_nan=False)


@pytest.mark.parametrize(
    ("rules", "outcome", "words"),
    [
        ({}, Outcome.INCONCLUSIVE, "no rule to judge by"),
        ({"metrics": [Metric(name="mae")]}, Outcome.INCONCLUSIVE, "no rule to judge by"),
        ({"metrics": [Metric(name="mae", margin=0.1)]}, Outcome.INCONCLUSIVE, "no champion"),
        ({**BOUND, "min_rows": 601}, Outcome.INCONCLUSIVE, "600 holdout rows, needs 601"),
        ({"metrics": [Metric(name="mae", maximum=0.1)]}, Outcome.FAIL, "above maximum 0.1"),
        ({"metrics": [Metric(name="r2", minimum=0.9)]}, Outcome.FAIL, "below minimum 0.9"),
        ({"metrics": [Metric(name="roc_auc", minimum=0.5)]}, Outcome.INCONCLUSIVE, ""),
        ({**BOUND, "slices": [Slice(by="country", metric="mae", maximum=9)]}, Outcome.INCONCLUSIVE, "no such column"),
        ({**BOUND, "slices": [Slice(by="group", metric="mae", maximum=9)]}, Outcome.INCONCLUSIVE, "40 rows, needs 50"),
        ({**BOUND, "slices": [Slice(by="group", metric="mae", maximum=9, min_rows=5)]}, Outcome.PASS, ""),
        ({**BOUND, "slices": [Slice(by="age", metric="mae", maximum=9)]}, Outcome.PASS, ""),
        ({**BOUND, "slices": [Slice(by="plan", metric="mae", maximum=0.1)]}, Outcome.FAIL, "where plan = "),
        ({**BOUND, "slices": [Slice(by="plan", metric="mae", maximum_gap=0.001)]}, Outcome.FAIL, "gap of mae"),
        ({**BOUND, "slices": [Slice(by="plan", metric="mae", maximum_gap=3)]}, Outcome.PASS, ""),
        ({**BOUND, "tests": ["helpers_evaluation:rises_with_age"]}, Outcome.PASS, ""),
        ({**BOUND, "tests": ["helpers_evaluation:falls_with_age"]}, Outcome.FAIL, "returned False"),
        ({**BOUND, "tests": ["helpers_evaluation:asserts"]}, Outcome.FAIL, "expected no rows"),
    ],
)  # fmt: skip
def test_rules(frame, rules, outcome, words) -> None:
    result = judge(frame, rules)
    assert result.outcome == outcome, result.reason
    assert words in result.reason


@pytest.mark.parametrize("loss", ["worst_error", "broken_metric", "no_number"])
def test_metrics_of_the_users_own(frame, loss) -> None:
    rule = Metric(name=f"helpers_evaluation:{loss}", direction="lower", maximum=50)
    result = judge(frame, {"metrics": [rule]})
    assert result.outcome == (Outcome.PASS if loss == "worst_error" else Outcome.INCONCLUSIVE)
    if loss == "broken_metric":
        assert "boom" in result.reason


def test_a_metric_may_be_handed_in(frame) -> None:
    rule = Metric(name="team.code:cost", direction="lower", maximum=1)
    result = judge(frame, {"metrics": [rule]}, extra_metrics={"team.code:cost": lambda y, p: 2.0})
    assert result.outcome == Outcome.FAIL


@pytest.mark.parametrize("name", ["no_such_module:f", "helpers_evaluation:absent", "helpers_evaluation:not_a_function"])
def test_code_that_does_not_exist_is_an_error(frame, name) -> None:
    with pytest.raises(EntryPointError):
        judge(frame, {**BOUND, "tests": [name]})


def test_worse_than_the_champion_beyond_the_margin_fails_surely(frame) -> None:
    result = judge(frame, {"metrics": [Metric(name="mae", margin=0.05)]}, predict=bad, champion=good)
    assert result.outcome == Outcome.FAIL
    assert "surely worse" in result.reason
    entry = result.numbers["metrics"]["mae"]
    assert entry["low"] > 0 and entry["value"] > entry["champion"]


def test_worse_by_chance_fails_and_says_so(frame) -> None:
    def noisy(rows: pd.DataFrame) -> np.ndarray:
        return good(rows) + np.random.default_rng(0).normal(0, 0.25, len(rows))

    result = judge(frame, {"metrics": [Metric(name="rmse", margin=0.0)]}, predict=noisy, champion=good)
    assert result.outcome == Outcome.FAIL
    assert "chance could explain it" in result.reason


@pytest.mark.parametrize("name", ["mae", "r2"])
def test_as_good_as_the_champion_passes(frame, name) -> None:
    result = judge(frame, {"metrics": [Metric(name=name, margin=0.02)]}, champion=good)
    assert result.outcome == Outcome.PASS
    assert "within the margin of 2 %" in result.reason


def test_higher_is_better_turns_the_comparison_round(frame) -> None:
    rule = {"metrics": [Metric(name="r2", margin=0.05)]}
    assert judge(frame, rule, predict=bad, champion=good).outcome == Outcome.FAIL
    assert judge(frame, rule, predict=good, champion=bad).outcome == Outcome.PASS


def test_the_same_verdict_each_time(frame) -> None:
    rule = {"metrics": [Metric(name="mae", margin=0.05)]}
    assert judge(frame, rule, predict=bad, champion=good) == judge(frame, rule, predict=bad, champion=good)


def test_a_champion_that_cannot_predict_these_rows_is_no_comparison(frame) -> None:
    def old_signature(rows: pd.DataFrame) -> np.ndarray:
        raise KeyError("income")

    result = judge(frame, {"metrics": [Metric(name="mae", maximum=5, margin=0.1)]}, champion=old_signature)
    assert result.outcome == Outcome.INCONCLUSIVE
    assert "the champion cannot predict" in result.reason and "income" in result.reason


@pytest.mark.parametrize(
    ("predict", "words"),
    [
        (lambda rows: np.where(np.arange(len(rows)) == 7, np.nan, 1.0), "on 1 of 600 rows, first on row 7"),
        (lambda rows: [None] * len(rows), "NaN or infinity on 600"),
        (lambda rows: np.full(len(rows), np.inf), "NaN or infinity"),
        (lambda rows: np.ones(3), "shape (3,) for 600 rows"),
        (lambda rows: 1 / 0, "ZeroDivisionError"),
    ],
    ids=["nan", "none", "inf", "short", "raises"],
)  # fmt: skip
def test_predictions_that_cannot_be_used_fail(frame, predict, words) -> None:
    result = judge(frame, BOUND, predict=predict)
    assert result.outcome == Outcome.FAIL
    assert words in result.reason


def test_a_column_of_predictions_is_fine(frame) -> None:
    assert judge(frame, BOUND, predict=lambda rows: good(rows)[:, None]).outcome == Outcome.PASS


def test_holdout_without_target_or_feature_is_an_error(frame) -> None:
    with pytest.raises(DataError, match="visits"):
        judge(frame.drop(columns="visits"), BOUND)
    with pytest.raises(DataError, match="plan"):
        judge(frame.drop(columns="plan"), BOUND)
    holes = frame.astype({"visits": float})
    holes.loc[3, "visits"] = np.nan
    with pytest.raises(DataError, match="missing in 1 of 600"):
        judge(holes, BOUND)


def test_holdout_rows_in_training_are_leakage(frame) -> None:
    other = frame.assign(time=frame["time"] - pd.Timedelta(days=900))
    assert judge(frame, BOUND, train=other).outcome == Outcome.PASS
    leaked = pd.concat([other, frame.head(5)])
    result = judge(frame, BOUND, train=leaked)
    assert result.outcome == Outcome.FAIL
    assert "5 of 600 holdout rows are in the training rows" in result.reason
    assert judge(frame, {**BOUND, "leakage": False}, train=leaked).outcome == Outcome.PASS


def test_twins_by_nature_are_no_leakage(frame) -> None:
    """Few distinct values and no time: training rows have as many twins among themselves."""
    coarse = frame[["age", "plan", "visits"]].assign(age=frame["age"] // 20)
    assert judge(coarse.tail(200), BOUND, train=coarse.head(400)).numbers["leakage"]["shared_rows"] > 150
    assert "leakage" not in judge(coarse.tail(200), BOUND, train=coarse.head(400)).reason


@pytest.mark.parametrize(
    "giveaway",
    [
        lambda f: f["visits"] * 2.0 + 1,
        lambda f: -np.log1p(f["visits"]),
        lambda f: f["visits"].map("v{}".format),
        lambda f: (f["visits"] > 2).astype(int),
    ],
    ids=["linear", "monotone", "codes", "two-classes"],
)
def test_a_feature_that_gives_the_target_away_is_found(frame, giveaway) -> None:
    spec = Evaluation(metrics=[Metric(name="accuracy", minimum=0.0)], benchmark=None)
    told = frame.assign(code=giveaway(frame))
    target = "visits"
    if told["code"].dtype.kind == "i":
        told, target = told.assign(many=(told["visits"] > 2).astype(int)), "many"
    result = evaluate(spec, ["age", "code"], target, lambda rows: np.zeros(len(rows)), None, told)
    assert result.outcome == Outcome.FAIL
    assert "feature code alone tells" in result.reason
    assert "age" not in result.numbers["leakage"]["giveaways"]
