"""Writes ``windtunnel/safety/allowed.json``: the classes of the common libraries that a pickle may name.

Run it in an environment with a library of a newer version; what the file names already stays. Only classes that a
library defines itself are taken, from modules that hold models: a name that a module merely imported
(``sklearn.datasets._base.GzipFile`` opens files) is not on the list. Read the difference before committing it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "windtunnel/safety/allowed.json"

#: Package, parts of module names that are left out.
LIBRARIES = {
    "sklearn": (
        "tests",
        "datasets",
        "externals",
        "utils",
        "experimental",
        "inspection",
        "callback",
        "conftest",
        "_build_utils",
        "_config",
        "frozen.tests",
        "__check_build",
        "exceptions",
        "base",
        "_min_dependencies",
        "_distributor_init",
    ),
    "torch.nn.modules": ("_functions", "lazy"),
}
#: Single modules of which only named classes are taken.
SINGLE = {
    "xgboost.sklearn": ("XGB",),
    "xgboost.core": ("Booster",),
    "lightgbm.sklearn": ("LGBM", "_LGBMLabelEncoder"),
    "lightgbm.basic": ("Booster",),
    "catboost.core": ("CatBoost", "CatBoostClassifier", "CatBoostRegressor", "CatBoostRanker"),
}


def classes(name: str) -> list[str]:
    try:
        module = importlib.import_module(name)
    except Exception:
        return []
    return sorted(
        key
        for key, value in vars(module).items()
        if inspect.isclass(value)
        and value.__module__ == name
        and value.__qualname__ == key
        and not issubclass(value, BaseException)
        and not key.endswith(("Display", "Warning"))
    )


def main() -> None:
    found: dict[str, list[str]] = json.loads(TARGET.read_text()) if TARGET.exists() else {}
    for package, without in LIBRARIES.items():
        try:
            root = importlib.import_module(package)
        except ImportError:
            continue
        for info in pkgutil.walk_packages(root.__path__, package + "."):
            if any(part in without for part in info.name.split(".")):
                continue
            if names := classes(info.name):
                found[info.name] = sorted({*found.get(info.name, []), *names})
    for module, prefixes in SINGLE.items():
        if names := [name for name in classes(module) if name.startswith(prefixes)]:
            found[module] = sorted({*found.get(module, []), *names})
    lines = [f"  {json.dumps(module)}: {json.dumps(names)}" for module, names in sorted(found.items())]
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
