"""Formats that name types in JSON: skops' ``schema.json`` and Keras' ``config.json``. Pure: text in, reasons out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from windtunnel.safety.allowed import Allowance

_UFUNCS = frozenset(
    (
        "log",
        "log1p",
        "log2",
        "log10",
        "exp",
        "expm1",
        "sqrt",
        "square",
        "abs",
        "absolute",
        "sin",
        "cos",
        "tan",
        "tanh",
        "sign",
        "expit",
        "logit",
        "cbrt",
        "reciprocal",
    )
)
_MORE_SKOPS = {"numpy.random.mtrand.RandomState", "numpy.random._generator.Generator", "operator.itemgetter"}
_KERAS_LAMBDA = {"Lambda", "TFOpLambda", "SlicingOpLambda", "__lambda__", "ClassMethod", "InstanceMethod"}
_KERAS_BACKEND = re.compile(r"keras\.src\.backend\.(torch|tensorflow|jax)\.optimizers\.\w+")
_KERAS = (
    "keras.layers",
    "keras.src.layers",
    "keras.models",
    "keras.src.models",
    "keras.initializers",
    "keras.optimizers",
    "keras.losses",
    "keras.metrics",
    "keras.regularizers",
    "keras.constraints",
    "keras.activations",
    "keras.dtype_policies",
    "keras.src.initializers",
    "keras.src.optimizers",
    "keras.src.engine",
    "keras.optimizers.schedules",
    "keras",
)


def _of_keras(module: Any, allowance: Allowance) -> bool:
    if not isinstance(module, str):
        return False
    return module in _KERAS or bool(_KERAS_BACKEND.fullmatch(module)) or allowance.trusts(module)


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield found
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


def skops(text: str, allowance: Allowance) -> list[str]:
    """Types in a skops file that are not on the list."""
    try:
        plain = json.loads(text)
    except ValueError:
        return ["its schema.json is no JSON"]
    out = set()
    for node in _nodes(plain):
        if "__class__" not in node and "__loader__" not in node:
            continue
        loader, module, name = node.get("__loader__"), str(node.get("__module__")), str(node.get("__class__"))
        content = node.get("content")
        if loader == "FunctionNode" and isinstance(content, dict):
            module, name = str(content.get("module_path")), str(content.get("function"))
            if module.partition(".")[0] in ("numpy", "scipy") and name in _UFUNCS:
                continue
        elif loader == "MethodNode":
            out.add("it holds a bound method, which skops looks up by name")
            continue
        elif loader == "TypeNode" and isinstance(content, dict):
            module, name = str(content.get("__module__")), str(content.get("__class__"))
        if loader in ("JsonNode", "SliceNode") or f"{module}.{name}" in _MORE_SKOPS:
            continue
        if not allowance.allows(module, name):
            out.add(f"{module}.{name} is not on the list of types that may be loaded")
    return sorted(out)


def keras(text: str, allowance: Allowance) -> list[str]:
    """Layers of a Keras configuration that run code, or come from elsewhere than Keras."""
    if allowance.trusts("keras"):
        return []
    try:
        plain = json.loads(text)
    except ValueError:
        return ["its config.json is no JSON"]
    out = set()
    for node in _nodes(plain):
        name, module = node.get("class_name"), node.get("module")
        if name is None:
            continue
        if name in _KERAS_LAMBDA or not isinstance(name, str):
            out.add(f"a layer of the kind {name} holds code")
        plain_type = module == "builtins" and name in ("dict", "list", "tuple")
        if module is not None and not plain_type and not _of_keras(module, allowance):
            out.add(f"{module}.{name} is none of Keras' own")
        if node.get("registered_name") not in (None, "", name) and not allowance.trusts(str(node["registered_name"])):
            out.add(f"{node['registered_name']} is a type of somebody's own")
    return sorted(out)
