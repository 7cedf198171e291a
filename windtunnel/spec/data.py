"""The data a model learns from and is watched against."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from windtunnel.spec.base import Duration, Part


class Feature(Part):
    """One input of the model.

    ``minimum``, ``maximum``, ``categories`` and ``nullable`` become data checks and request checks.
    """

    name: str
    kind: Literal["numeric", "categorical", "boolean"] = "numeric"
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    categories: list[str | int | float] | None = None
    importance: float | None = Field(None, ge=0)


class Check(Part):
    """One Great Expectations expectation: ``expect`` is its name, ``with_`` its arguments."""

    expect: str = Field(pattern=r"expect_[a-z0-9_]+", description="e.g. expect_column_values_to_be_between")
    column: str | None = None
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    critical: bool = True

    model_config = Part.model_config | {"populate_by_name": True}


class Data(Part):
    """Where rows come from and what their columns mean.

    Attributes:
        source: path, glob or URI of CSV or Parquet, or SQL text when ``connection`` is given.
        connection: Airflow connection id; ``source`` is then a SELECT.
        time: column with the time of each row; splits and windows follow it.
        target: column to predict.
        features: names, or Features with kinds and bounds.
        id: column that names the row, where there is one.
        newest: learn from at most this many of the newest rows.
        since: learn from rows no older than this before the newest.
        min_rows: fewer than this is an error, not a small model.
        checks: expectations beyond those that follow from the features.
    """

    source: str
    format: Literal["csv", "parquet", "sql"] | None = None
    connection: str | None = None
    time: str
    target: str
    features: list[Feature] = Field(min_length=1)
    id: str | None = None
    newest: int | None = Field(None, gt=0)
    since: Duration | None = None
    min_rows: int = Field(100, gt=0)
    checks: list[Check] = Field(default_factory=list)

    @field_validator("features", mode="before")
    @classmethod
    def _names_are_features(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [{"name": item} if isinstance(item, str) else item for item in value]
        return value

    @property
    def feature_names(self) -> list[str]:
        return [feature.name for feature in self.features]

    @property
    def resolved_format(self) -> str:
        """``format``, or what connection and file name say."""
        if self.format:
            return self.format
        if self.connection:
            return "sql"
        return "csv" if ".csv" in self.source.rsplit("/", 1)[-1] else "parquet"
