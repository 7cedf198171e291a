"""What a model answers, and which part of it is the prediction."""

from __future__ import annotations

from typing import Any

#: Column of the predictions, in an answer that says more than them.
PREDICTION = "prediction"


def prediction(answer: Any) -> Any:
    """The predictions in what ``predict`` returned for n rows.

    Args:
        answer: an array or list of n values, or a frame of n rows. One with several columns, ``prediction`` among them,
            says more of each row (``confidence``, ...), as model servers pass it on.

    Returns:
        Column ``prediction`` of such a frame; any other answer as it is.
    """
    columns = getattr(answer, "columns", None)
    if columns is None or len(columns) < 2 or PREDICTION not in columns:
        return answer
    return answer[PREDICTION]
