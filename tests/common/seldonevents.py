"""Events as Seldon Core 1's executor sends them: by the names of its logger, halves of one prediction apart."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime
from typing import Any

TYPES = {"request": "io.seldon.serving.inference.request", "response": "io.seldon.serving.inference.response"}


def headers(what: str, request_id: str, *, model: str = "visits", predictor: str = "v3", **more: str) -> dict[str, str]:
    """Headers of one half; ``more`` by attribute, such as ``time``; an empty one is left out."""
    told = {
        "specversion": "1.0",
        "id": uuid.uuid4().hex,
        "source": f"http://{model}-{predictor}.models:8000/",
        "type": TYPES.get(what, what),
        "time": datetime.fromtimestamp(time.time(), UTC).isoformat().replace("+00:00", "123Z"),
        "requestid": request_id,
        "modelid": model,
        "inferenceservicename": model,
        "namespace": "models",
        "endpoint": predictor,
        "protocol": "v2",
    } | more
    found = {f"ce-{name}": value for name, value in told.items() if value and name != "content"}
    return found | {"content-type": more.get("content", "application/json")}


def asks(*ages: float, names: tuple[str, ...] = ("age",)) -> bytes:
    """A request of the Open Inference Protocol: the same values for each feature."""
    tensor = {"shape": [len(ages)], "datatype": "FP64", "data": list(ages)}
    return json.dumps({"inputs": [{"name": name, **tensor} for name in names]}).encode()


def answers(*values: float, ids: list[str] | None = None, **more: Any) -> bytes:
    """Its answer."""
    plain: dict[str, Any] = {
        "model_name": "visits",
        "model_version": "3",
        "outputs": [{"name": "predictions", "shape": [len(values)], "datatype": "FP64", "data": list(values)}],
    }
    if ids is not None:
        plain["parameters"] = {"prediction_ids": ids}
    return json.dumps(plain | more).encode()
