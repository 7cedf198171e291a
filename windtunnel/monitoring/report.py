"""The Evidently report of a window against its reference: for the eyes, never for the verdict.

Whatever goes wrong in here is told and costs nothing else. Rows are capped, so the time is bounded (about a
second, and five to seven for importing Evidently). The page holds its own scripts; nothing is sent anywhere.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.evidence import Outcome, Verdict
from windtunnel.files import write_with
from windtunnel.spec import Model
from windtunnel.spec.evaluation import KNOWN_METRICS

MAX_ROWS = 5_000
#: A quiet model gets a report this often.
EVERY_S = 3600.0
_CLASSIFICATION = {"log_loss", "brier", "accuracy", "f1", "roc_auc", "average_precision"}


@dataclass(frozen=True, slots=True)
class Report:
    """Paths of what was written, or None and the reason."""

    html: Path | None
    json: Path | None
    reason: str = ""


def finding(verdicts: Sequence[Verdict]) -> str:
    """What a report would be about: the same text for the same finding, empty when nothing failed."""
    parts = []
    for verdict in verdicts:
        if verdict.outcome is Outcome.FAIL:
            what = ",".join(sorted(verdict.numbers.get("drifted") or []))
            parts.append(f"{verdict.version}:{verdict.kind}:{what}")
    return "|".join(parts)


def due(verdicts: Sequence[Verdict], *, now: float, last_at: float | None, last_finding: str | None) -> bool:
    """A report is due for every new finding, and once an hour; not for the same finding in every window."""
    if last_at is None or now - last_at >= EVERY_S:
        return True
    current = finding(verdicts)
    return bool(current) and current != last_finding


def write(model: Model, sample: Any | None, frame: Any, labelled: Any | None, folder: Path, *, seed: int = 0) -> Report:
    """Write ``report.html`` and ``report.json`` into ``folder``. Raises nothing: what went wrong is in ``reason``.

    Args:
        sample: the reference's rows (features, ``prediction``), None when none was kept.
        frame: rows of the prediction log.
        labelled: champion's rows with ``prediction`` and ``label``, None or empty when there are none.
    """
    if sample is None:
        return Report(None, None, "no sample of the reference was kept")
    if not len(frame):
        return Report(None, None, "the window has no rows")
    try:
        return _write(model, sample, frame, labelled, folder, seed)
    except Exception as error:  # for the eyes only: nothing in here may cost a verdict
        return Report(None, None, f"Evidently failed: {type(error).__name__}: {error}")


def _write(model: Model, sample: Any, frame: Any, labelled: Any | None, folder: Path, seed: int) -> Report:
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset
        from evidently import Report as Page
        from evidently.presets import DataDriftPreset, DataSummaryPreset

        current = _capped(_plain_names(model, frame), seed)
        names = [feature.name for feature in model.data.features if feature.name in current and feature.name in sample]
        numeric = [f.name for f in model.data.features if f.kind == "numeric" and f.name in names]
        categorical = [name for name in names if name not in numeric]
        if "prediction" in current and "prediction" in sample:
            (numeric if _is_number(sample["prediction"]) else categorical).append("prediction")
        columns = [*numeric, *categorical]
        current, reference = _cast(current[columns], numeric), _cast(_capped(sample[columns], seed), numeric)
        usable = [name for name in columns if current[name].notna().any() and reference[name].notna().any()]
        definition = DataDefinition(
            numerical_columns=[name for name in numeric if name in usable],
            categorical_columns=[name for name in categorical if name in usable],
        )
        page = Page([DataDriftPreset(), DataSummaryPreset()]).run(
            Dataset.from_pandas(current[usable], data_definition=definition),
            Dataset.from_pandas(reference[usable], data_definition=definition),
        )
        html = _save(page, folder, "report")
        reason = ""
        if labelled is not None and model.monitoring.performance is not None:
            known = labelled[labelled["label"].notna() & labelled["prediction"].notna()]
            if len(known) >= 2:
                try:
                    _save(_performance(known, model.monitoring.performance.metric, seed), folder, "performance")
                except Exception as error:
                    reason = f"no performance page: {type(error).__name__}: {error}"
    return Report(html, html.with_suffix(".json"), reason)


def _performance(known: Any, metric: str, seed: int) -> Any:
    """Evidently's own page for labelled rows; there is no reference beside it (labels are not kept)."""
    import pandas as pd
    from evidently import BinaryClassification, DataDefinition, Dataset, MulticlassClassification, Regression
    from evidently import Report as Page
    from evidently.presets import ClassificationPreset, RegressionPreset

    rows = _capped(known, seed)
    assert metric in KNOWN_METRICS
    if metric not in _CLASSIFICATION:
        rows = pd.DataFrame(
            {
                "target": rows["label"].astype(float).to_numpy(),
                "prediction": rows["prediction"].astype(float).to_numpy(),
            }
        )
        definition = DataDefinition(
            numerical_columns=["target", "prediction"],
            regression=[Regression(target="target", prediction="prediction")],
        )
        return Page([RegressionPreset()]).run(Dataset.from_pandas(rows, data_definition=definition), None)
    if _is_number(rows["prediction"]) and set(rows["label"].astype(float).unique()) <= {0.0, 1.0}:
        rows = pd.DataFrame(
            {
                "target": rows["label"].astype(float).astype(int).to_numpy(),
                "prediction": rows["prediction"].astype(float).to_numpy(),
            }
        )
        definition = DataDefinition(
            classification=[BinaryClassification(target="target", prediction_probas="prediction", pos_label=1)]
        )
    else:
        rows = pd.DataFrame(
            {"target": rows["label"].astype(str).to_numpy(), "prediction": rows["prediction"].astype(str).to_numpy()}
        )
        definition = DataDefinition(
            classification=[MulticlassClassification(target="target", prediction_labels="prediction")]
        )
    return Page([ClassificationPreset()]).run(Dataset.from_pandas(rows, data_definition=definition), None)


def _save(page: Any, folder: Path, name: str) -> Path:
    # Evidently's .dict() holds NumPy scalars; save_json writes plain JSON.
    write_with(folder / f"{name}.json", lambda hidden: page.save_json(str(hidden)), parents=True)
    return write_with(folder / f"{name}.html", lambda hidden: page.save_html(str(hidden)))


def _plain_names(model: Model, frame: Any) -> Any:
    if "shadow" in frame.columns:
        frame = frame[~frame["shadow"].fillna(False).astype(bool)]
    return frame.rename(columns={f"feature_{name}": name for name in model.data.feature_names})


def _capped(frame: Any, seed: int) -> Any:
    return frame.sample(n=MAX_ROWS, random_state=seed) if len(frame) > MAX_ROWS else frame


def _cast(frame: Any, numeric: list[str]) -> Any:
    import pandas as pd

    from windtunnel.monitoring.profile import category

    made = {}
    for name in frame.columns:
        if name in numeric:
            made[name] = pd.to_numeric(frame[name], errors="coerce").astype(float).to_numpy()
        else:
            made[name] = [None if pd.isna(value) else category(value) for value in frame[name]]
    return pd.DataFrame(made)


def _is_number(values: Any) -> bool:
    from windtunnel.monitoring.profile import kind_of

    return kind_of(values) == "numeric"
