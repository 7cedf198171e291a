"""Real data (RAND, shipped in statsmodels) and a real prediction log on disk, with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from windtunnel.home import Home
from windtunnel.spec import Model

FEATURES = ["lncoins", "idp", "lpi", "fmde", "physlm", "disea", "hlthg", "hlthf", "hlthp"]
TARGET = "mdvis"
DIGEST = "sha256:" + "ab" * 32


@pytest.fixture(scope="session")
def visits() -> pd.DataFrame:
    from statsmodels.datasets import randhie

    return randhie.load_pandas().data[[*FEATURES, TARGET]].astype(float)


@pytest.fixture(scope="session")
def free(visits: pd.DataFrame) -> pd.DataFrame:
    """Members of the free plan, in random order."""
    return visits[visits["lncoins"] == 0].sample(frac=1.0, random_state=2).reset_index(drop=True)


@pytest.fixture(scope="session")
def paying(visits: pd.DataFrame) -> pd.DataFrame:
    """Members of the cost-sharing plans, who see doctors less, in random order."""
    return visits[visits["lncoins"] > 0].sample(frac=1.0, random_state=2).reset_index(drop=True)


@pytest.fixture(scope="session")
def predictor(free: pd.DataFrame) -> Any:
    """A boosted Poisson model trained on 4,000 members of the free plan."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    train = free.iloc[:4000]
    model = HistGradientBoostingRegressor(loss="poisson", max_iter=60, random_state=0)
    return model.fit(train[FEATURES], train[TARGET])


def describe(**monitoring: Any) -> Model:
    return Model.model_validate(
        {
            "name": "visits",
            "owner": "health",
            "data": {"source": "x.parquet", "time": "time", "target": TARGET, "features": FEATURES},
            "training": {"entry_point": "package.module:train"},
            "monitoring": {
                "window": "60s",
                "lateness": "5s",
                "min_rows": 200,
                "drift": {"false_alarms": 0.05, "min_effect": 0.1},
                "performance": {"metric": "poisson_deviance", "tolerance": 0.05},
                "report": False,
                **monitoring,
            },
        }
    )


def poisson_deviance(y: Any, p: Any) -> float:
    y, p = np.asarray(y, float), np.asarray(p, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(y > 0, y * np.log(y / p), 0.0)
    return float(2 * (logs - y + p).mean())


@dataclass
class World:
    """A home folder whose log is written as a model server would, at times the test chooses."""

    home: Home
    predictor: Any
    written: int = 0
    through: float = 0.0
    dropped: int = 0
    ids: dict[float, list[str]] = field(default_factory=dict)

    def serve(
        self, members: pd.DataFrame, start: float, end: float, *, version: str = "1", shadow: bool = False
    ) -> list[str]:
        """Rows spread evenly over [start, end), predicted and published; returns their prediction ids."""
        import pyarrow as pa

        from windtunnel.serving.predictions import publish

        n = len(members)
        seconds = start + (np.arange(n) + 0.5) * (end - start) / n
        self.written += 1
        ids = [f"p{self.written}-{i}" for i in range(n)]
        columns: dict[str, Any] = {
            "prediction_id": ids,
            "request_id": ids,
            "time": pd.to_datetime(np.round(seconds * 1e6).astype("int64"), unit="us", utc=True),
            "model": "visits",
            "version": version,
            "arm": "champion",
            "status": 200,
            "instance": "0",
            "shadow": shadow,
        }
        columns |= {f"feature_{name}": members[name].to_numpy() for name in FEATURES}
        columns["prediction"] = self.predictor.predict(members[FEATURES])
        table = pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False)
        at = table.schema.get_field_index("time")
        table = table.set_column(at, "time", table.column("time").cast(pa.timestamp("us", tz="UTC")))
        publish.publish(self.home.predictions, "visits", f"{version}-0-{self.written:06d}", [table])
        return ids

    def mark(self, through: float, *, at: float | None = None, dropped: int = 0) -> None:
        """The writer's watermark."""
        from windtunnel.serving.predictions import watermark

        mark = watermark.Mark("visits", "1", "0", through, at if at is not None else through, dropped=dropped)
        watermark.write(self.home.predictions, mark, "1-0", durable=False)

    def label(self, ids: list[str], members: pd.DataFrame, at: float, *, revision: int = 0) -> None:
        from windtunnel.serving.predictions.labels import Labels

        Labels(self.home.labels).append(
            "visits",
            pd.DataFrame(
                {
                    "prediction_id": ids,
                    "label": members[TARGET].to_numpy(),
                    "label_time": at,
                    "revision": revision,
                    "source": "test",
                }
            ),
        )


@pytest.fixture
def world(tmp_path: Path, predictor: Any, free: pd.DataFrame) -> Iterator[World]:
    """A home with the reference of version 1: free-plan members, holdout predictions, loss at evaluation."""
    from windtunnel.monitoring import reference

    made = World(Home(tmp_path), predictor)
    holdout = free.iloc[4000:5500]
    predictions = predictor.predict(holdout[FEATURES])
    numbers = {"metrics": {"poisson_deviance": poisson_deviance(holdout[TARGET], predictions)}}
    reference.save(made.home, reference.build(describe(), "1", free.iloc[:4000], predictions, numbers, DIGEST))
    yield made
