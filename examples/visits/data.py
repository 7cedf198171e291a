"""The RAND Health Insurance Experiment, and the table a team would keep of it.

20,190 person-years, public domain, shipped inside statsmodels (``statsmodels.datasets.randhie``). Members
of the free plan come first; members of the cost-sharing plans, who see doctors less, join later.
The table is a folder of Parquet files: one with the history, then one per batch of rows whose
outcome has become known.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from windtunnel import files

if TYPE_CHECKING:
    import pandas as pd

TARGET = "mdvis"
FEATURES = ("lncoins", "idp", "lpi", "fmde", "physlm", "disea", "hlthg", "hlthf", "hlthp")
HISTORY_ROWS = 5_000
HISTORY_SPAN_S = 30 * 86_400.0


def person_years() -> pd.DataFrame:
    """All rows: the features and the number of visits, as floats."""
    from statsmodels.datasets import randhie

    return randhie.load_pandas().data[[*FEATURES, TARGET]].astype(float)


def populations(seed: int = 7) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(history, free, cost_sharing): what is known at the start, and the members yet to come, in random order."""
    rows = person_years()
    free = rows[rows["lncoins"] == 0].sample(frac=1.0, random_state=seed)
    cost_sharing = rows[rows["lncoins"] > 0].sample(frac=1.0, random_state=seed)
    return free.iloc[:HISTORY_ROWS], free.iloc[HISTORY_ROWS:], cost_sharing


def begin_table(folder: Path, now: float) -> Path:
    """Write the history, stamped evenly over the month before ``now``; keeps a table that is there."""
    import numpy as np
    import pandas as pd

    path = folder / "history.parquet"
    if not path.exists():
        history = populations()[0].copy()
        seconds = now - HISTORY_SPAN_S + np.arange(len(history)) * (HISTORY_SPAN_S / len(history))
        history["time"] = pd.to_datetime(seconds, unit="s", utc=True)
        _publish(history, path)
    return path


def append_outcomes(folder: Path, rows: pd.DataFrame) -> Path:
    """Add rows (features, target, ``time``) whose outcome has become known."""
    path = folder / f"outcomes-{time.time_ns()}.parquet"
    _publish(rows, path)
    return path


def _publish(rows: pd.DataFrame, path: Path) -> None:
    files.write_with(path, lambda hidden: rows.to_parquet(hidden, index=False), parents=True)
