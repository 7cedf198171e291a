"""A recipe that looks fine offline and hurts live traffic.

It compares every member with the peers in the same batch. Offline, evaluation hands it thousands of
rows at once and there are always peers. Live, requests come one by one, and there are none. Each
``kind`` is a way in which that mistake shows in practice.
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

#: One round trip to the peer service, which the batch job pays once for thousands of rows.
PEER_LOOKUP_S = 0.25


class ComparesWithPeers(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """``inner``, fed with features relative to the batch.

    Args:
        inner: the regressor that does the work.
        kind: ``wrong`` scales by the batch's own spread, which one row does not have; ``errors`` looks up the
            healthy peers of the batch and fails when there are none; ``crash`` does the same in native code;
            ``slow`` asks a peer service once per batch.
    """

    def __init__(self, inner: Any = None, kind: str = "wrong") -> None:
        self.inner = inner
        self.kind = kind

    def fit(self, X: pd.DataFrame, y: pd.Series) -> ComparesWithPeers:
        self.inner.fit(self._relative(X), y)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray[Any, Any]:
        if self.kind == "slow":
            time.sleep(PEER_LOOKUP_S)
        return self.inner.predict(self._relative(X))

    def _relative(self, X: pd.DataFrame) -> pd.DataFrame:
        if self.kind == "wrong":
            spread = X.std(ddof=0)
            return X / spread.where(spread > 0, 1.0)
        if self.kind in ("errors", "crash") and not (X["idp"] == 0).any():
            if self.kind == "crash":
                os.abort()
            raise LookupError("no peer without a deductible plan in this batch")
        return X
