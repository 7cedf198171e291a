"""What is kept at registration so that a version can be warmed and checked later: a few real rows, its settings.

``HOME/serving/models/MODEL/samples/VERSION.json``, and ``samples/MODEL/VERSION.json`` in the object store where the
connection names one, for workers that do not share the home; written once, read whenever the version is deployed, by
any process, with Airflow's database or MLflow gone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel import files

if TYPE_CHECKING:
    from windtunnel.data.objects import Objects
    from windtunnel.home import Home
    from windtunnel.spec import Model

#: Rows kept for warming up.
ROWS = 32


def sample_path(home: Home, model: str, version: str) -> Path:
    return home.serving_model(model) / "samples" / f"{version}.json"


def keep_sample(
    home: Home, model: Model, version: str, rows: list[Mapping[str, Any]], *, store: Objects | None = None
) -> Path:
    """Keep rows (features only) and the description's serving part for ``version``; doing it again replaces it."""
    names = model.data.feature_names
    kept = [{name: cell(row.get(name)) for name in names} for row in rows[:ROWS]]
    path = sample_path(home, model.name, version)
    path.parent.mkdir(parents=True, exist_ok=True)
    sample = {"warmup": kept, **serving_part(model)}
    files.write_json(path, sample)
    if store is not None:
        store.put_bytes(_key(model.name, version), json.dumps(sample).encode())
    return path


def _key(model: str, version: str) -> str:
    return f"samples/{model}/{version}.json"


def serving_part(model: Model) -> dict[str, Any]:
    """Serving settings and features as a version keeps them. Which API serves is nothing that it keeps."""
    return {
        "serving": model.serving.model_dump(mode="json", exclude={"api"}),
        "features": [feature.model_dump(mode="json") for feature in model.data.features],
    }


def settings_for(home: Home, model: Model, claim: Mapping[str, Any], *, store: Objects | None = None) -> dict[str, Any]:
    """``Release.settings``: for each version of the claim, what was kept at its registration.

    A version registered elsewhere has no sample here; it gets the description's settings and no warm-up rows. Which of
    Seldon's APIs serves is the description's to say, of every version: the backend of the other one refuses it.
    """
    beside = [one["version"] for one in claim.get("beside") or ()]
    versions = [claim["version"], *beside, *([claim["champion"]["version"]] if claim["champion"] else [])]
    found = {str(version): _one(home, model, str(version), store) for version in versions}
    if model.target == "kubernetes" and model.serving.api is not None:
        return {v: {**one, "serving": {**one["serving"], "api": model.serving.api}} for v, one in found.items()}
    return found


def _one(home: Home, model: Model, version: str, store: Objects | None) -> dict[str, Any]:
    try:
        text: str | bytes | None = sample_path(home, model.name, version).read_text(encoding="utf-8")
    except FileNotFoundError:
        text = None if store is None else store.get_bytes(_key(model.name, version))
    try:
        found = json.loads(text) if text else {"warmup": []}
    except ValueError:
        found = {"warmup": []}
    return {**serving_part(model), **found}


def cell(value: Any) -> Any:
    """One cell of a frame as JSON: numpy scalars become Python's, what is missing becomes None."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return None if value is not value else str(value)
