"""Train a boosted Poisson regression of doctor visits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windtunnel import Run


def train(run: Run) -> Any:
    """One estimator with ``predict``; ``run.params`` are the booster's, and ``remember_peers``."""
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.metrics import mean_poisson_deviance

    rows = run.rows()
    X, y = rows[run.features], rows[run.target]
    params = dict(run.params)
    kind = params.pop("remember_peers", None)
    estimator: Any = HistGradientBoostingRegressor(loss="poisson", random_state=run.seed, **params)
    if kind:
        from windtunnel_examples.visits.careless import RemembersPeers

        estimator = RemembersPeers(estimator, kind)
    estimator.fit(X, y)
    run.log(train_poisson_deviance=float(mean_poisson_deviance(y, np.maximum(estimator.predict(X), 1e-6))))
    return estimator
