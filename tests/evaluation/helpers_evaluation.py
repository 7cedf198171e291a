"""Functions a user might name in a description; the tests put this folder on the import path."""

from __future__ import annotations

import numpy as np


def worst_error(y, p) -> float:
    return float(np.max(np.abs(y - p)))


def broken_metric(y, p) -> float:
    raise RuntimeError("boom")


def no_number(y, p) -> float:
    return float("nan")


def rises_with_age(predict, frame) -> bool:
    older = frame.assign(age=frame["age"] + 10)
    return bool(np.mean(predict(older)) >= np.mean(predict(frame)))


def falls_with_age(predict, frame) -> bool:
    return not rises_with_age(predict, frame)


def asserts(predict, frame) -> None:
    assert len(predict(frame)) == 0, "expected no rows"


not_a_function = 3
