"""What a model answers, and which part of it is the prediction."""

from __future__ import annotations

from typing import Any

#: Column of the predictions, in an answer that says more than them.
PREDICTION = "prediction"


def prediction(answer: Any) -> Any:
    """The predictions in what ``predict`` returned for n rows.

    Args:
        answer: an array, list, series or frame of n rows. A frame of several columns, ``prediction`` among them, says
            more of each row (``confidence``, ...), as model servers pass it on. A frame or array of one column is what
            networks and graphs give.

    Returns:
        array of shape (n,): that column; any other answer as an array of its own shape, (n, k) for several columns.
    """
    import numpy as np

    columns = getattr(answer, "columns", None)
    if columns is not None and len(columns) > 1 and PREDICTION in columns:
        answer = answer[PREDICTION]
    values = answer.to_numpy() if hasattr(answer, "to_numpy") else np.asarray(answer)
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
