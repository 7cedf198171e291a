"""One round of watching: take the next window, judge it, report it, react. Steps that separate tasks can call.

    next_window -> judge_drift, judge_performance (, judge_data) -> write_report -> react

Each step takes and gives plain JSON values and may be repeated: a window's verdicts are written beside it once
and read back from then on (same verdict, same id, so the registry counts it once), and ``react`` is the only one
that closes the window. ``run`` does all of them in one process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from windtunnel import canonical
from windtunnel.errors import DataError
from windtunnel.evidence import Kind, Outcome, Verdict
from windtunnel.home import Home
from windtunnel.monitoring import drift, files, performance, reaction, reference, report, windows
from windtunnel.spec import Model

#: With a larger share of rows lost than this, a quiet window is not called quiet.
MAX_LOSS = 0.1
#: HTML reports kept per model (4 MB each); their JSON stays.
KEPT_REPORTS = 48
_PERFORMANCE_COLUMNS = ("prediction_id", "time", "version", "shadow", "prediction")


@dataclass(frozen=True, slots=True)
class WatchResult:
    """What one round found.

    Attributes:
        window: as ``next_window`` gave it; None when no window could be closed yet.
        verdicts: drift and performance, as far as the description asks for them.
        report: the Evidently page, None when none was due or it failed.
        react: ``retrain`` or None; ``cause`` says why, or why not.
    """

    window: dict[str, Any] | None
    verdicts: list[Verdict]
    report: Path | None
    react: str | None
    cause: str


def run(
    home: Home,
    model: Model,
    champion: str,
    digest: str,
    now: float,
    *,
    correlation_id: str | None = None,
    dag: Mapping[str, str] | None = None,
    pending: bool = False,
) -> WatchResult:
    """One round: the next window, if one can be closed.

    Args:
        champion: its version; ``digest`` its content digest.
        now: seconds since the epoch.
        dag: ``dag_id``, ``dag_run_id``, ``task_id`` for the verdicts.
        pending: a version newer than the champion is not decided yet (holds back retraining).
    """
    window = next_window(home, model, champion, digest, now, correlation_id=correlation_id)
    if window is None:
        return WatchResult(None, [], None, None, "no window to close yet")
    found = [judge_drift(home, model, window, dag=dag), judge_performance(home, model, window, dag=dag)]
    reported = write_report(home, model, window, [plain for plain in found if plain], now)
    reacted = react(home, model, window, reported["verdicts"], now, pending=pending)
    return WatchResult(
        window=window,
        verdicts=[Verdict.from_dict(plain) for plain in reported["verdicts"]],
        report=Path(reported["report_uri"]) if reported["report_uri"] else None,
        react=reacted["react"],
        cause=reacted["cause"],
    )


def next_window(
    home: Home,
    model: Model,
    champion: str,
    digest: str,
    now: float,
    *,
    correlation_id: str | None = None,
) -> dict[str, Any] | None:
    """The window to judge now, as JSON values, or None. Changes nothing: asked twice it is the same window.

    ``behind`` says how many more windows could be closed already: after a downtime, run again at once.
    """
    from windtunnel.serving.predictions import PredictionLog

    log = PredictionLog(home.predictions)
    state = windows.load(home, model.name)
    mark = log.watermark(model.name, now)
    chosen = windows.decide(
        state,
        model.monitoring,
        watermark=mark.time,
        stale=mark.stale,
        dropped=mark.dropped,
        first_row=first_time(log, model.name, state.closed_end),
        now=now,
        reason=getattr(mark, "reason", ""),
    )
    if chosen is None:
        return None
    length = model.monitoring.window.total_seconds()
    complete = (mark.time if mark.time is not None else chosen.end) - model.monitoring.lateness.total_seconds()
    return {
        "model": model.name,
        "version": str(champion),
        "digest": digest,
        "start": chosen.start,
        "end": chosen.end,
        "stale": chosen.stale,
        "empty": chosen.empty,
        "dropped": chosen.dropped,
        "reason": chosen.reason,
        "behind": max(0, math.floor((complete - chosen.end) / length)),
        "correlation_id": correlation_id,
    }


def first_time(log: Any, model: str, after: float | None) -> float | None:
    """Time of the first row at or after ``after`` (of the whole log when None), or None."""
    start = -math.inf if after is None else after
    for folder in sorted((log.root / model).glob("date=*/hour=*")):
        try:
            hour = datetime.strptime(
                folder.parent.name.removeprefix("date=") + folder.name.removeprefix("hour="), "%Y-%m-%d%H"
            ).replace(tzinfo=UTC)
        except ValueError:
            continue  # not a partition of ours
        end = (hour + timedelta(hours=1)).timestamp()
        if end <= start:
            continue
        times = log.read(model, max(start, hour.timestamp()), end, columns=["time"])["time"]
        if len(times):
            return float(times.min().timestamp())
    return None


def judge_drift(
    home: Home, model: Model, window: Mapping[str, Any], *, dag: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """Drift of features and predictions in ``window``: a verdict as a dict, None when the description wants none."""
    policy = model.monitoring.drift
    if policy is None:
        return None
    path = _folder(home, window) / "drift.json"
    kept = files.read_json(path)
    if kept is not None:
        return dict(kept)
    per_month = drift.windows_per_month(model.monitoring.window.total_seconds())
    inputs: tuple[str, ...] = ()
    unknown = _unknown(window)
    if unknown:
        found = drift.DriftResult(Outcome.INCONCLUSIVE, unknown, numbers={"rows": 0} if window["empty"] else {})
    else:
        try:
            known = reference.load(home, model.name, window["version"])
            inputs = (canonical.digest(known.to_dict()),)
            found = drift.judge(
                known,
                _rows(home, window),
                policy,
                model.monitoring.min_rows,
                per_month,
                champion=window["version"],
            )
        except DataError as error:
            found = drift.DriftResult(Outcome.INCONCLUSIVE, error.message)
    outcome, reason = _with_loss(window, found.outcome, found.reason, found.numbers.get("rows"))
    numbers = {**found.numbers, "dropped": window["dropped"]}
    return _keep(path, _verdict(window, Kind.DRIFT, outcome, reason, numbers, found.thresholds, inputs, dag))


def judge_performance(
    home: Home, model: Model, window: Mapping[str, Any], *, dag: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """Performance on labelled rows up to ``window``: a verdict as a dict, None when the description wants none."""
    policy = model.monitoring.performance
    if policy is None:
        return None
    path = _folder(home, window) / "performance.json"
    kept = files.read_json(path)
    if kept is not None:
        return dict(kept)
    inputs: tuple[str, ...] = ()
    unknown = _unknown(window)
    if unknown:
        found = performance.PerformanceResult(Outcome.INCONCLUSIVE, unknown)
    else:
        try:
            known = reference.load(home, model.name, window["version"])
            inputs = (canonical.digest(known.to_dict()),)
            found = performance.judge(
                known.loss(policy.metric), _spans(home, model, window), policy, model.monitoring.min_rows
            )
        except DataError as error:
            found = performance.PerformanceResult(Outcome.INCONCLUSIVE, error.message)
    return _keep(
        path,
        _verdict(window, Kind.PERFORMANCE, found.outcome, found.reason, found.numbers, found.thresholds, inputs, dag),
    )


def judge_data(
    home: Home, model: Model, window: Mapping[str, Any], *, dag: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """The features of ``window`` held against the description by Great Expectations (MON-10); optional.

    ``run`` leaves it out: it costs six seconds of importing, and the model server has refused most of it already.
    None when the window has no rows to check.
    """
    path = _folder(home, window) / "data-check.json"
    kept = files.read_json(path)
    if kept is not None:
        return dict(kept)
    if window["empty"]:
        return None
    from windtunnel.data import checks
    from windtunnel.monitoring.profile import category

    rows = _rows(home, window)
    frame = rows[~rows["shadow"].fillna(False).astype(bool)]
    frame = frame[[f"feature_{name}" for name in model.data.feature_names if f"feature_{name}" in frame.columns]]
    frame = frame.rename(columns=lambda name: name.removeprefix("feature_"))
    # The log holds categories as text.
    features = [
        feature.model_copy(update={"categories": [category(value) for value in feature.categories]})
        if feature.categories is not None and feature.kind == "categorical"
        else feature
        for feature in model.data.features
    ]
    data = model.data.model_copy(update={"features": features})
    found = checks.check(data, frame, part="window", report_dir=_folder(home, window) / "data-check")
    uri = str(found.report_path) if found.report_path else None
    verdict = _verdict(window, Kind.DATA_CHECK, found.outcome, found.reason, found.numbers, found.thresholds, (), dag)
    return _keep(path, replace(verdict, report_uri=uri))


def write_report(
    home: Home, model: Model, window: Mapping[str, Any], verdicts: list[dict[str, Any]], now: float
) -> dict[str, Any]:
    """Write the Evidently report if one is due.

    Returns:
        ``{"report_uri": path or None, "reason": why not, "verdicts": the verdicts, with report_uri}``. The
        verdicts are to be posted from here on, so that they carry their report.
    """
    folder = _folder(home, window)
    kept = files.read_json(folder / "reported.json")
    if kept is not None:
        return dict(kept)
    state = windows.load(home, model.name)
    judged = [Verdict.from_dict(plain) for plain in verdicts]
    if not model.monitoring.report:
        made = report.Report(None, None, "the description asks for no reports")
    elif window["empty"]:
        made = report.Report(None, None, "the window has no rows")
    elif not report.due(judged, now=now, last_at=state.report_at, last_finding=state.report_finding):
        made = report.Report(None, None, "nothing new since the last report")
    else:
        made = _report(home, model, window, folder)
    if made.html is not None:
        _prune(home, model)
    uri = str(made.html) if made.html else None
    answer = {
        "report_uri": uri,
        "reason": made.reason,
        "finding": report.finding(judged),
        "verdicts": [replace(verdict, report_uri=uri).to_dict() for verdict in judged],
    }
    files.write_json(folder / "reported.json", answer)
    return answer


def _report(home: Home, model: Model, window: Mapping[str, Any], folder: Path) -> report.Report:
    """The report of one window; whatever goes wrong is its reason."""
    try:
        sample = reference.load_sample(home, model.name, window["version"])
        spans = _spans(home, model, window) if model.monitoring.performance else []
        return report.write(model, sample, _rows(home, window), spans[-1] if spans else None, folder)
    except Exception as error:  # reading may fail too, and a report never costs a verdict
        return report.Report(None, None, f"no report: {type(error).__name__}: {error}")


def react(
    home: Home,
    model: Model,
    window: Mapping[str, Any],
    verdicts: list[dict[str, Any]],
    now: float,
    *,
    pending: bool = False,
) -> dict[str, Any]:
    """Decide the reaction and close the window.

    Returns:
        ``{"react": "retrain" or None, "cause": why or why not}``; asked again for the same window, the same.
    """
    folder = _folder(home, window)
    state = windows.load(home, model.name)
    kept = files.read_json(folder / "reaction.json")
    if kept is None:
        decided = reaction.decide(
            model.monitoring.retrain,
            [Verdict.from_dict(plain) for plain in verdicts],
            now=now,
            retrain_at=state.retrain_at,
            pending=pending,
        )
        kept = {"react": decided.react, "cause": decided.cause, "at": now}
        # First the answer, then the state: killed in between, the same answer closes the window.
        files.write_json(folder / "reaction.json", kept)
    closing = windows.Window(float(window["start"]), float(window["end"]), dropped=int(window["dropped"]))
    if not state.is_closed(closing):
        state = state.close(closing, str(window["version"]))
        if kept["react"] == "retrain":
            state = replace(state, retrain_at=float(kept["at"]), retrain_version=str(window["version"]))
        reported = files.read_json(folder / "reported.json") or {}
        if reported.get("report_uri"):
            state = replace(state, report_at=float(kept["at"]), report_finding=reported.get("finding", ""))
        windows.save(home, model.name, state)
    return {"react": kept["react"], "cause": kept["cause"]}


# -- shared by the steps


def _folder(home: Home, window: Mapping[str, Any]) -> Path:
    return files.window_folder(home, window["model"], window["version"], float(window["start"]), float(window["end"]))


def _rows(home: Home, window: Mapping[str, Any]) -> Any:
    from windtunnel.serving.predictions import PredictionLog

    return PredictionLog(home.predictions).read(window["model"], float(window["start"]), float(window["end"]))


def _spans(home: Home, model: Model, window: Mapping[str, Any]) -> list[Any]:
    """Trailing frames of the champion's rows with their newest labels, the shortest first."""
    import pandas as pd

    from windtunnel.serving.labels import Labels, joined
    from windtunnel.serving.predictions import PredictionLog

    length = model.monitoring.window.total_seconds()
    end = float(window["end"]) - model.monitoring.label_delay.total_seconds()
    rows = joined(
        PredictionLog(home.predictions),
        Labels(home.labels),
        model.name,
        end - max(performance.SPANS) * length,
        end,
        columns=_PERFORMANCE_COLUMNS,
        versions=[window["version"]],
    ).frame
    rows = rows[~rows["shadow"].fillna(False).astype(bool)]
    since = [pd.Timestamp(end - count * length, unit="s", tz="UTC") for count in performance.SPANS]
    return [rows[rows["time"] >= moment] for moment in since]


def _unknown(window: Mapping[str, Any]) -> str | None:
    """Why nothing can be said about a window, whatever is in it."""
    if window["stale"]:
        return f"the prediction log went silent: {window['reason'] or 'its writers stopped reporting'}"
    if window["empty"]:
        return f"no traffic for {float(window['end']) - float(window['start']):.0f} s"
    return None


def _with_loss(window: Mapping[str, Any], outcome: Outcome, reason: str, rows: Any) -> tuple[Outcome, str]:
    lost = int(window["dropped"])
    if outcome is Outcome.PASS and lost > MAX_LOSS * (lost + int(rows or 0)):
        return Outcome.INCONCLUSIVE, f"{lost} rows were lost beside the {rows} that were logged; in those: {reason}"
    return outcome, reason


def _verdict(
    window: Mapping[str, Any],
    kind: Kind,
    outcome: Outcome,
    reason: str,
    numbers: Mapping[str, Any],
    thresholds: Mapping[str, Any],
    inputs: tuple[str, ...],
    dag: Mapping[str, str] | None,
) -> Verdict:
    where = dag or {}
    return Verdict(
        model=window["model"],
        kind=kind,
        outcome=outcome,
        reason=reason,
        subject=window["digest"],
        version=window["version"],
        numbers=dict(numbers),
        thresholds=dict(thresholds),
        window=(float(window["start"]), float(window["end"])),
        inputs=inputs,
        dag_id=where.get("dag_id"),
        dag_run_id=where.get("dag_run_id"),
        task_id=where.get("task_id"),
        correlation_id=window.get("correlation_id"),
    )


def _keep(path: Path, verdict: Verdict) -> dict[str, Any]:
    """Write the verdict beside its window and give what a later reader gets."""
    files.write_json(path, verdict.to_dict())
    return dict(files.read_json(path))  # type: ignore[arg-type]


def _prune(home: Home, model: Model) -> None:
    pages = sorted((files.folder(home, model.name) / "windows").glob("*/report.html"), key=lambda p: p.stat().st_mtime)
    for page in pages[:-KEPT_REPORTS]:
        for old in (page, page.with_name("performance.html")):
            old.unlink(missing_ok=True)
