"""Write ``sea.csv``: monthly sea surface temperatures off Peru, 1950 to 2010, one row per month.

The data is in the public domain (NOAA, region Nino 1+2) and ships inside statsmodels.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(path: Path) -> Path:
    """Each row tells what was known a month and a year before, and the temperature that came."""
    import pandas as pd
    from statsmodels.datasets import elnino

    wide = elnino.load_pandas().data.set_index("YEAR")
    temperature = pd.Series(
        wide.to_numpy().ravel(), index=pd.date_range("1950-01-01", periods=wide.size, freq="MS"), name="temperature"
    )
    table = pd.DataFrame(
        {
            "month": temperature.index.month,
            "month_ago": temperature.shift(1),
            "year_ago": temperature.shift(12),
            "temperature": temperature,
        }
    )
    table.dropna().to_csv(path, index_label="time")
    return path


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else "sea.csv")))
