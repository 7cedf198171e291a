"""The data a model learns from and is watched against."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from windtunnel.spec.base import Duration, Part


class Feature(Part):
    """One input of the model. Bounds, categories and ``nullable`` become data checks and request checks.

    Attributes:
        name: its column.
        kind: numeric columns are read as floating point, booleans as booleans, categories as they are.
        nullable: missing values are allowed.
        minimum, maximum: bounds of a numeric feature, both allowed values themselves.
        categories: allowed values of a categorical feature.
        importance: weight in the drift score of the whole data set.
    """

    name: str
    kind: Literal["numeric", "categorical", "boolean"] = "numeric"
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    categories: list[str | int | float] | None = None
    importance: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _bounds(self) -> Feature:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} is above maximum {self.maximum:g}")
        if self.kind != "numeric" and (self.minimum is not None or self.maximum is not None):
            raise ValueError(f"only numeric features have minimum and maximum; {self.name!r} is {self.kind}")
        if self.kind != "categorical" and self.categories is not None:
            raise ValueError(f"only categorical features have categories; {self.name!r} is {self.kind}")
        return self


class Check(Part):
    """One Great Expectations expectation.

    Attributes:
        expect: its name, e.g. ``expect_column_values_to_be_between``.
        column: the column it is about, where it is about one.
        with_: its other arguments.
        critical: False turns a failure into a remark.
    """

    expect: str = Field(pattern=r"^expect_[a-z0-9_]+$")
    column: str | None = None
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    critical: bool = True

    model_config = Part.model_config | {"populate_by_name": True}


class Data(Part):
    """Where rows come from and what their columns mean.

    Attributes:
        source: path, glob or URI of CSV or Parquet, or SQL text when ``connection`` is given.
        format: what ``source`` is; told by its name or ``connection`` unless given.
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

    source: str = Field(min_length=1)
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

    @field_validator("features", mode="before", json_schema_input_type=list[str | Feature])
    @classmethod
    def _names_are_features(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [{"name": item} if isinstance(item, str) else item for item in value]
        return value

    @model_validator(mode="after")
    def _sql_has_a_connection(self) -> Data:
        if self.format == "sql" and not self.connection:
            raise ValueError("format sql needs connection: the id of an Airflow connection")
        if self.connection and self.format in ("csv", "parquet"):
            raise ValueError(f"connection is for SQL; found format {self.format}")
        return self

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
