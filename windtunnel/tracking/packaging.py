"""From what a training function returned to a model folder that a model server can load.

Accepted: an estimator with ``predict``, an MLflow ``PythonModel``, or the path of a model folder in MLflow's format
(any flavor). Estimators are stored by skops, which runs no code when it is read but the types it names; those must be
scikit-learn's (or NumPy's, SciPy's, pandas'), the entry point's own, or listed in ``training.trust``. Pickle only where
``training.pickle`` says so. What was stored is loaded back and asked, before anybody else may.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.errors import TrainingError
from windtunnel.tracking.answers import PREDICTION, prediction

if TYPE_CHECKING:
    import pandas as pd

#: Packages whose types a stored model may name without being asked, and types that hold nothing but values.
TRUSTED = ("sklearn", "numpy", "scipy", "pandas", "xgboost", "lightgbm", "catboost")
_VALUES = ("collections.OrderedDict", "collections.defaultdict")
EXAMPLE_ROWS = 5
_INSTALLED = frozenset(("site-packages", "dist-packages"))
_PICKLED = ("pickle", "cloudpickle")
_EXPECTED = "expected an estimator with predict(), an mlflow.pyfunc.PythonModel, or the path of an MLflow model folder"


def example(rows: Path, features: list[dict[str, Any]], count: int = 100) -> pd.DataFrame:
    """The first rows' features, in the model's order, as a request would bring them: numbers as float64."""
    import pyarrow.parquet as pq

    names = [str(feature["name"]) for feature in features]
    with pq.ParquetFile(rows) as file:
        batch = next(file.iter_batches(batch_size=count, columns=names), None)
    if batch is None:
        raise TrainingError(f"{rows} holds no rows to try the model on")
    frame: pd.DataFrame = batch.to_pandas()[names]
    numeric = [str(f["name"]) for f in features if f.get("kind", "numeric") == "numeric"]
    return frame.astype(dict.fromkeys(numeric, "float64"))


def predictions(predict: Any, frame: pd.DataFrame, what: str) -> Any:
    """``predict(frame)``, checked: one finite value, or one label, per row; what a frame says besides is left out.

    Raises:
        TrainingError: it raised, gave another number of rows, no values at all, NaN or infinities (counted).
    """
    import numpy as np
    import pandas as pd

    try:
        given = predict(frame)
        values = prediction(given)
    except Exception as error:
        raise TrainingError(
            f"{what} cannot predict {len(frame)} of its own training rows: {type(error).__name__}: {error}",
            hint="predict() takes a DataFrame with exactly the described features",
        ) from error
    if values.ndim != 1 or len(values) != len(frame):
        raise TrainingError(
            f"{what} answered {len(frame)} rows with {type(given).__name__} of shape {values.shape}",
            hint=f"predict() gives one value per row, or a frame with these in column {PREDICTION!r} and more beside",
        )
    if values.dtype.kind in "iufcb":
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise TrainingError(
                f"{what} predicts NaN or infinity for {bad} of {len(frame)} of its own training rows",
                hint="look for a diverged fit, a division by zero, or features it was not trained on",
            )
    elif bool(pd.isna(values).any()):
        raise TrainingError(
            f"{what} predicts nothing (None or NaN) for {int(pd.isna(values).sum())} of {len(frame)} rows"
        )
    return values


def _installed(file: str | None) -> bool:
    """Is a module of that file part of Python or of an installed package, so that a server can have it too?"""
    # Also an environment below this one's (--system-site-packages, a user's own folder), which sysconfig does not name.
    if file is None or not _INSTALLED.isdisjoint(Path(file).parts):
        return True
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(place and Path(file).is_relative_to(place) for place in places)


def own_code(modules: Iterable[str], staging: Path) -> list[str]:
    """Copy the packages of the user's own modules for ``code_paths``: the server has no checkout."""
    out = []
    for root in sorted({name.partition(".")[0] for name in modules}):
        module = sys.modules.get(root)
        if module is None or root in ("windtunnel", "__main__"):
            continue
        file = getattr(module, "__file__", None)
        folders = list(getattr(module, "__path__", []))
        if _installed(file or (folders[0] + "/x" if folders else None)):
            continue
        target = staging / root  # under its import name: an editable install may keep it under another
        if folders:
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(
                folders[0], target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "node_modules")
            )
        else:
            staging.mkdir(parents=True, exist_ok=True)
            target = Path(shutil.copyfile(str(file), staging / f"{root}.py"))
        out.append(str(target))
    return out


def requirements(modules: Iterable[str]) -> list[str]:
    """Pinned requirements for the roots of ``modules`` and what every model server needs; nothing is inferred."""
    from importlib.metadata import PackageNotFoundError, packages_distributions, version

    names = {"mlflow", "pandas", "numpy"}
    known = packages_distributions()
    for root in {name.partition(".")[0] for name in modules}:
        names.update(known.get(root, [])[:1])
    out = []
    for name in sorted(names - {"windtunnel"}):
        try:
            out.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            continue
    return out


def _trusted(types: Iterable[str], allowed: tuple[str, ...]) -> list[str]:
    bad = [name for name in types if not any(name == a or name.startswith(f"{a}.") for a in allowed)]
    if bad:
        raise TrainingError(
            f"the model holds types a model server may not load unasked: {', '.join(sorted(bad)[:8])}",
            hint="list their module in training.trust if you know it",
        )
    return sorted(types)


def save(
    made: Any,
    target: Path,
    frame: pd.DataFrame,
    *,
    entry_point: str,
    trust: Iterable[str] = (),
    pickle: bool = False,
    staging: Path,
) -> None:
    """Store what the training function returned at ``target``, load it back and try it on ``frame``.

    Args:
        frame: rows of features as requests bring them; the first few become the input example.
        staging: scratch folder.

    Raises:
        TrainingError: it is nothing that can be served, cannot be stored safely, cannot be loaded, or predicts
            NaN or something else after loading.
    """
    import numpy as np

    shutil.rmtree(target, ignore_errors=True)
    own = entry_point.partition(":")[0]
    if made is None:
        raise TrainingError(f"{entry_point} returned None: {_EXPECTED}", hint="is a return missing?")
    before: Any = None
    if isinstance(made, (str, Path)):
        _save_folder(Path(made), target, entry_point, pickle)
    elif _is_python_model(made):
        _save_python_model(made, target, frame, own, pickle, staging)
    elif hasattr(made, "predict") and not isinstance(made, type):
        before = predictions(made.predict, frame, "the model")
        _save_estimator(made, target, frame, before, own, tuple(trust), pickle, staging)
    else:
        shown = f"the class {made.__name__}" if isinstance(made, type) else f"{type(made).__name__}: {made!r}"[:200]
        raise TrainingError(f"{entry_point} returned {shown}; {_EXPECTED}")
    after = _load_back(target, frame)
    if before is not None:
        same = (
            np.allclose(before, after, rtol=1e-6, atol=1e-9)
            if before.dtype.kind in "iuf"
            else list(map(str, before)) == list(map(str, after))
        )
        if not same:
            raise TrainingError(
                "the model predicts something else after it was stored and loaded",
                hint="does it hold state that is not stored (open files, globals, random state)?",
            )


def _is_python_model(made: Any) -> bool:
    # Nobody holds a PythonModel without having imported mlflow.pyfunc.
    pyfunc = sys.modules.get("mlflow.pyfunc")
    return pyfunc is not None and isinstance(made, pyfunc.PythonModel)


def _need_pickle(pickle: bool, what: str) -> None:
    if not pickle:
        raise TrainingError(
            f"{what} can only be stored by pickle, which runs any code when it is loaded",
            hint="return an estimator, a model folder saved from code, or set training.pickle: true",
        )


def _save_estimator(
    made: Any,
    target: Path,
    frame: pd.DataFrame,
    before: Any,
    own: str,
    trust: tuple[str, ...],
    pickle: bool,
    staging: Path,
) -> None:
    import mlflow
    import mlflow.sklearn
    import skops.io
    from mlflow.models import infer_signature

    staging.mkdir(parents=True, exist_ok=True)
    probe = staging / "probe.skops"
    root = own.partition(".")[0]
    types: list[str] | None
    try:
        skops.io.dump(made, probe)
        types = _trusted(skops.io.get_untrusted_types(file=probe), (*TRUSTED, *_VALUES, root, *trust))
        skops.io.load(probe, trusted=types)
    except TrainingError:
        raise
    except Exception as error:
        _need_pickle(pickle, f"a {type(made).__module__}.{type(made).__qualname__} (skops: {error})")
        types = None
    finally:
        probe.unlink(missing_ok=True)
    modules = {type(made).__module__, *(name.rpartition(".")[0] for name in types or [])}
    if types is None:
        modules.add(own)
    mlflow.sklearn.save_model(
        made,
        str(target),
        serialization_format="skops" if types is not None else "cloudpickle",
        skops_trusted_types=types,
        signature=infer_signature(frame, before),
        input_example=frame.head(EXAMPLE_ROWS),
        pip_requirements=requirements([*modules, "sklearn", "scipy", "skops" if types is not None else "cloudpickle"]),
        code_paths=own_code(modules, staging / "code") or None,
    )


def _save_python_model(made: Any, target: Path, frame: pd.DataFrame, own: str, pickle: bool, staging: Path) -> None:
    import mlflow.pyfunc

    _need_pickle(pickle, f"the PythonModel {type(made).__qualname__}")
    modules = {type(made).__module__, own}
    mlflow.pyfunc.save_model(
        str(target),
        python_model=made,
        input_example=frame.head(EXAMPLE_ROWS),
        pip_requirements=requirements([*modules, "cloudpickle"]),
        code_paths=own_code(modules, staging / "code") or None,
    )


def _save_folder(source: Path, target: Path, entry_point: str, pickle: bool) -> None:
    import yaml

    source = source.absolute()
    if not (source / "MLmodel").is_file():
        there = "a folder without MLmodel" if source.is_dir() else "a file" if source.exists() else "nothing"
        raise TrainingError(f"{entry_point} returned the path {source}, where {there} lies; {_EXPECTED}")
    flavors = yaml.safe_load((source / "MLmodel").read_text(encoding="utf-8")).get("flavors") or {}
    by_pickle = any(conf.get("serialization_format") in _PICKLED or "python_model" in conf for conf in flavors.values())
    if by_pickle:
        _need_pickle(pickle, f"the model in {source}")
    if "python_function" not in flavors:
        raise TrainingError(
            f"the model in {source} has flavors {', '.join(flavors) or 'none'}; expected python_function among them",
            hint="a model server loads that flavor; save it with a predict function",
        )
    shutil.copytree(source, target)
    saved_from = flavors["python_function"].get("model_code_path")
    if saved_from:
        # MLflow reads the file of this name in the folder; where it lay on this machine is nobody's business.
        described = yaml.safe_load((target / "MLmodel").read_text(encoding="utf-8"))
        described["flavors"]["python_function"]["model_code_path"] = Path(saved_from).name
        (target / "MLmodel").write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")


def _load_back(target: Path, frame: pd.DataFrame) -> Any:
    """Load as a server would; give it a signature of the features if it came without one, or with one of a tensor.

    A network that was exported by a tensor says how the tensor looks. Requests come by the features' names.
    """
    from mlflow.models import infer_signature, set_signature

    loaded = _loaded(target)
    inputs = loaded.metadata.get_input_schema()
    if inputs is not None and inputs.is_tensor_spec():
        set_signature(str(target), infer_signature(frame))
        loaded, inputs = _loaded(target), None
    after = predictions(loaded.predict, frame, "the stored model")
    if inputs is None:
        set_signature(str(target), infer_signature(frame, after))
    return after


def _loaded(target: Path) -> Any:
    import mlflow.pyfunc

    try:
        return mlflow.pyfunc.load_model(str(target))
    except Exception as error:
        raise TrainingError(
            f"the model was stored but cannot be loaded: {type(error).__name__}: {error}",
            hint="classes and functions it uses must be importable at the top level of a module",
        ) from error
