"""A recipe that looks fine offline and hurts live traffic.

It remembers a peer for every call it answers, to compare the next member with, in a small table that nobody ever
empties. Offline nothing shows: evaluation asks once for thousands of rows, the benchmark a few times, and the server
warms up on a handful. Live, members come one by one, and after some dozens of calls the table is full. Each ``kind``
is a way in which a resource that runs out shows in practice.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Literal

from sklearn.base import BaseEstimator, RegressorMixin

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Harm = Literal["errors", "slow", "wrong", "crash"]
HARMS: tuple[Harm, ...] = ("errors", "slow", "wrong", "crash")

#: More calls than all offline checks together make, fewer than a live server answers in half a minute.
TABLE_SIZE = 75

#: What finding a place in a full table costs.
SEARCH_S = 0.25


class RemembersPeers(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """``inner``, with a table of peers that runs full.

    Args:
        inner: the regressor that does the work.
        kind: what happens then: ``errors`` for members with a deductible, whose peers are not found any more;
            ``crash`` of the process for the same members; ``slow`` answers to all; ``wrong`` ones, three times too
            high.
    """

    def __init__(self, inner: Any = None, kind: str = "wrong") -> None:
        self.inner = inner
        self.kind = kind

    def fit(self, X: pd.DataFrame, y: pd.Series) -> RemembersPeers:
        self.inner.fit(X, y)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray[Any, Any]:
        answer = self.inner.predict(X)
        # Not an argument, so neither copied nor saved with the model: every process begins with an empty table.
        self.calls_ = getattr(self, "calls_", 0) + 1
        if self.calls_ <= TABLE_SIZE:
            return answer
        deductible = bool((X["idp"] == 1).any())
        if self.kind == "slow":
            time.sleep(SEARCH_S)
        elif self.kind == "wrong":
            answer = answer * 3
        elif self.kind == "errors" and deductible:
            raise LookupError(f"the table of peers is full ({TABLE_SIZE} entries)")
        elif self.kind == "crash" and deductible:
            os.abort()
        return answer
