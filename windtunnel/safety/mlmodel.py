"""What an ``MLmodel`` file, and the requirements beside it, would run when the model is loaded. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from windtunnel.safety.allowed import Allowance

#: Loaders of MLflow whose files are looked into; any other module named here would be imported and run.
LOADERS = frozenset(
    f"mlflow.{name}"
    for name in (
        *(
            "sklearn",
            "xgboost",
            "lightgbm",
            "catboost",
            "onnx",
            "pytorch",
            "statsmodels",
            "prophet",
            "pmdarima",
            "keras",
        ),
        *("tensorflow", "tensorflow.keras", "pyfunc.model", "pyfunc.loaders.code_model"),
    )
)
_PICKLED = {"pickle", "cloudpickle", "dill", "joblib"}
_PATHS = ("data", "code", "model_path", "pickled_model", "python_model", "model_data", "model_code_path", "path", "uri")
_TORCH_MODULES = {"pickle", "mlflow.pytorch.pickle_module"}
_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[A-Za-z0-9._,\s-]*\])?\s*\(?([<>=!~]=?=?\s*[A-Za-z0-9.*+!_-]+\s*,?\s*)*\)?\s*"
    r"(;[\w\s.'\"<>=!()+-]*)?(\s*--hash=sha\d+:[0-9a-f]+)*\s*"
)
_OTHER = re.compile(r"(-r|-c|--requirement|--constraint)[ =]?\s*[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Described:
    """What an ``MLmodel`` file says that matters to a scan.

    Attributes:
        problems: reasons not to load it.
        pickled: files that its loaders unpickle, relative to the model.
        code: folders put in front of Python's path.
    """

    problems: list[str] = field(default_factory=list)
    pickled: set[str] = field(default_factory=set)
    code: set[str] = field(default_factory=set)


def describe(text: str, allowance: Allowance) -> Described:
    """Look at the text of an ``MLmodel`` file."""
    import yaml

    out = Described()
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        out.problems.append(f"it is no YAML ({type(error).__name__})")
        return out
    flavors = plain.get("flavors") if isinstance(plain, dict) else None
    for name, conf in (flavors if isinstance(flavors, dict) else {}).items():
        if isinstance(conf, dict):
            _flavor(str(name), conf, allowance, out)
    return out


def _flavor(flavor: str, conf: dict[str, Any], allowance: Allowance, out: Described) -> None:
    loader = conf.get("loader_module")
    if loader is not None and loader not in LOADERS and not (isinstance(loader, str) and allowance.trusts(loader)):
        out.problems.append(
            f"loading it would import and run the module {loader!r}, which is none of MLflow's known loaders"
        )
    for key, value in _walk(conf):
        if flavor == "python_function" and key == "model_code_path":
            continue  # where it was saved from: MLflow takes the file of that name in the folder, which is looked at
        if key in _PATHS and isinstance(value, str) and (value.startswith(("/", "~")) or ".." in value.split("/")):
            out.problems.append(f"{flavor}.{key} leads out of the model's folder ({value})")
        if key == "code" and isinstance(value, str):
            out.code.add(value.strip("/"))
        if key == "model_class" and isinstance(value, str) and not allowance.allows_type(value):
            out.problems.append(f"it names the class {value}, which is not on the list of types that may be loaded")
        if key in ("pickled_model", "python_model", "model_path") and isinstance(value, str):
            pickled = conf.get("serialization_format") in _PICKLED or key == "python_model"
            if pickled and not value.endswith((".py", ".skops")):
                out.pickled.add(value)
    trusted = conf.get("skops_trusted_types")
    for name in trusted if isinstance(trusted, list) else []:
        if not allowance.allows_type(str(name)):
            out.problems.append(f"it lets skops load {name}, which is not on the list of types that may be loaded")


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key), inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def torch_module(text: str) -> str | None:
    """Why the module that MLflow would unpickle a torch model with may not be; None where it may."""
    if text.strip() in _TORCH_MODULES:
        return None
    return f"MLflow would import and run {text.strip()[:80]!r} to unpickle the model"


def requirement(line: str) -> str | None:
    """Why one requirement runs code when it is installed; None for a plain name with versions."""
    bare = line.split(" #")[0].strip()
    if not bare or bare.startswith("#") or _NAME.fullmatch(bare) or _OTHER.fullmatch(bare):
        return None
    return f"{bare[:80]!r} is more than a name with versions: installing it could run code from anywhere"


def requirements(name: str, text: str) -> list[str]:
    """Reasons against a requirements file, or a conda or ``python_env`` file."""
    if not name.endswith((".yaml", ".yml")):
        joined = text.replace("\\\r\n", " ").replace("\\\n", " ")
        return [why for line in joined.splitlines() if (why := requirement(line))]
    import yaml

    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return [f"it is no YAML ({type(error).__name__})"]
    lines = []
    for key in ("dependencies", "build_dependencies"):
        found = plain.get(key) if isinstance(plain, dict) else None
        for entry in found if isinstance(found, list) else []:
            if isinstance(entry, dict):
                lines += [str(inner) for value in entry.values() if isinstance(value, list) for inner in value]
            else:
                # conda's own: name=version=build, with a channel in front
                lines.append(re.sub(r"^[\w.-]+::", "", re.sub(r"(?<![=<>!~])=(?!=)", "==", str(entry), count=1)))
    return [why for line in lines if (why := requirement(line))]
