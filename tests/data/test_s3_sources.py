"""Rows in S3, read by what the store of a training in pods needs anyhow: no further package. DEMAND TRN-1"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from s3 import bucket, environment

from windtunnel.data.sources import matches, read
from windtunnel.errors import DataError
from windtunnel.spec.data import Data


@pytest.fixture(scope="module")
def levels() -> Iterator[tuple[Any, str]]:
    with bucket() as (client, name):
        rows = pd.DataFrame({"at": ["2026-01-01"], "wind": [1.0], "level": [2.0]})
        for at, key in enumerate(("levels/a.csv", "levels/b.csv", "levels/old/c.csv", "levels/_SUCCESS", "other.csv")):
            client.put_object(Bucket=name, Key=key, Body=rows.assign(level=float(at)).to_csv(index=False).encode())
        yield client, name


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("levels/b.csv", [1]),
        ("levels/*.csv", [0, 1]),
        ("levels/**/*.csv", [0, 1, 2]),
        ("levels/[b-z].csv", [1]),
        ("levels/old", [2]),
        ("levels/none.csv", None),
        ("*.parquet", None),
    ],
)
def test_a_key_a_folder_or_a_pattern(
    source: str, found: list[int] | None, levels: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, name = levels
    for variable, value in environment(client).items():
        monkeypatch.setenv(variable, value)
    data = Data(source=f"s3://{name}/{source}", format="csv", time="at", target="level", features=["wind"])
    if found is None:
        with pytest.raises(DataError, match="there is nothing at 's3://"):
            read(data)
    else:
        assert list(read(data)["level"]) == found


def test_a_star_stays_within_its_part() -> None:
    assert matches(["a", "b.csv"], ["a", "*.csv"]) and not matches(["a", "x", "b.csv"], ["a", "*.csv"])
    assert matches(["a", "b.csv"], ["**", "*.csv"]) and matches(["a", "x", "b.csv"], ["a", "**", "*.csv"])
