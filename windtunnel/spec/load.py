"""Descriptions from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from windtunnel.spec.model import Model


def load_model(path: str | Path) -> Model:
    from ruamel.yaml import YAML

    return Model.model_validate(YAML(typ="safe").load(Path(path)))


def schema() -> dict[str, Any]:
    return Model.model_json_schema()
