"""Metrics against scikit-learn where it has them, and what is not defined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from windtunnel.evaluation.metrics import _METRICS, ROW_LOSSES, compute, row_loss
from windtunnel.spec.evaluation import KNOWN_METRICS

REFERENCE = {
    "rmse": lambda y, p: math.sqrt(sk.mean_squared_error(y, p)),
    "mae": sk.mean_absolute_error,
    "poisson_deviance": sk.mean_poisson_deviance,
    "r2": sk.r2_score,
    "log_loss": lambda y, p: sk.log_loss(y, p, labels=[0, 1]),
    "brier": sk.brier_score_loss,
    "roc_auc": sk.roc_auc_score,
    "average_precision": sk.average_precision_score,
    "accuracy": lambda y, p: sk.accuracy_score(y, p >= 0.5),
    "f1": lambda y, p: sk.f1_score(y, p >= 0.5),
}
NUMBERS = ("rmse", "mae", "poisson_deviance", "r2")


def test_every_known_metric_is_here() -> None:
    assert set(KNOWN_METRICS) == set(_METRICS) == set(REFERENCE)


@pytest.mark.parametrize("name", sorted(REFERENCE))
@pytest.mark.parametrize("ties", [False, True])
def test_as_scikit_learn_has_it(name, ties) -> None:
    rng = np.random.default_rng(3)
    if name in NUMBERS:
        p = rng.gamma(2, 2, 400) + 0.1
        y = rng.poisson(p)
    else:
        p = rng.random(400)
        y = (rng.random(400) < p).astype(int)
    if ties:
        p = np.round(p, 1) + (0.05 if name in NUMBERS else 0.0)
    assert compute(name, y, p) == pytest.approx(REFERENCE[name](y, p), rel=1e-9)


def test_several_classes() -> None:
    rng = np.random.default_rng(4)
    chances = rng.dirichlet([1, 1, 1], 300)
    y = rng.integers(0, 3, 300)
    assert compute("log_loss", y, chances) == pytest.approx(sk.log_loss(y, chances))
    assert compute("accuracy", y, chances) == pytest.approx(sk.accuracy_score(y, chances.argmax(1)))
    assert compute("f1", y, chances) == pytest.approx(sk.f1_score(y, chances.argmax(1), average="macro"))
    names, guess = np.array(["a", "b", "c"])[y], np.array(["a", "b", "c"])[chances.argmax(1)]
    assert compute("accuracy", names, guess) == pytest.approx(sk.accuracy_score(names, guess))
    assert compute("f1", names, guess) == pytest.approx(sk.f1_score(names, guess, average="macro"))


@pytest.mark.parametrize(
    ("name", "y", "p"),
    [
        ("rmse", [], []),
        ("rmse", [1.0, 2.0], [1.0, math.nan]),
        ("mae", [1.0, math.inf], [1.0, 2.0]),
        ("r2", [3, 3, 3], [1, 2, 3]),
        ("roc_auc", [1, 1, 1], [0.1, 0.2, 0.3]),
        ("roc_auc", [0, 1, 2], [0.1, 0.2, 0.3]),
        ("log_loss", [0, 1, 2], [0.1, 0.2, 0.3]),
        ("average_precision", [0, 0], [0.1, 0.2]),
        ("f1", [0, 0], [0.1, 0.2]),
        ("log_loss", [0, 1], [0.2, 1.5]),
        ("brier", [0, 1], [0.2, -0.5]),
        ("poisson_deviance", [0, 1], [0.2, -0.5]),
    ],
)
def test_what_is_not_defined_is_none(name, y, p) -> None:
    assert compute(name, np.array(y, dtype=float), np.array(p, dtype=float)) is None


def test_unknown_names_and_wrong_lengths_are_refused() -> None:
    with pytest.raises(KeyError):
        compute("rmsle", [1], [1])
    with pytest.raises(KeyError):
        row_loss("rmsle", [1], [1])
    with pytest.raises(ValueError, match="one prediction per row"):
        compute("rmse", [1, 2], [1])
    with pytest.raises(ValueError, match="one prediction per row"):
        row_loss("rmse", [1, 2], [1])


@pytest.mark.parametrize("metric", sorted(set(ROW_LOSSES) - {"rmse", "accuracy"}))
def test_the_mean_of_row_losses_is_the_metric(metric) -> None:
    rng = np.random.default_rng(5)
    p = rng.random(200)
    y = (rng.random(200) < p).astype(int)
    assert row_loss(metric, y, p).mean() == pytest.approx(compute(metric, y, p))


def test_row_losses_by_hand() -> None:
    assert row_loss("squared", [1, 2], [1, 4]).tolist() == [0, 4]
    assert row_loss("absolute", [1, 2], [1, 4]).tolist() == [0, 2]
    assert row_loss("zero_one", ["a", "b"], ["a", "c"]).tolist() == [0, 1]
    assert row_loss("poisson_deviance", [0, 2], [1, 2]).tolist() == [2, 0]
    assert row_loss("log", [1, 0], [1.0, 0.5]).tolist() == pytest.approx([0, math.log(2)])


@pytest.mark.parametrize(
    ("name", "p"), [("squared", math.nan), ("poisson_deviance", -1.0), ("log", 1.2), ("zero_one", math.nan)]
)
def test_an_answer_that_cannot_be_is_nan(name, p) -> None:
    assert math.isnan(row_loss(name, np.array([1.0]), np.array([p]))[0])


losses = st.sampled_from(["squared", "absolute", "poisson_deviance", "log", "zero_one"])


@given(losses, hnp.arrays(float, 20, elements=st.floats(0, 1)), hnp.arrays(int, 20, elements=st.integers(0, 1)))
def test_losses_are_never_negative(name, p, y) -> None:
    assert (row_loss(name, y, p) >= 0).all()
