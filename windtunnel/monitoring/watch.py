"""One round of watching: take the next window, judge it, report it, react. Steps that separate tasks can call.

    next_window -> judge_drift, judge_performance (, judge_data) -> write_report -> react

Each step takes and gives plain JSON values and may be repeated: a window's verdicts are written beside it once
and read back from then on (same verdict, same id, so the registry counts it once), and ``react`` is the only one
that closes the window. ``run`` does all of them in one process. ``kept`` says where that is (``keeping``): the home,
unless told otherwise; rows and labels are always read from the home.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from windtunnel import canonical
from windtunnel.errors import DataError
from windtunnel.evidence import Kind, Outcome, Verdict
from windtunnel.home import Home
from windtunnel.monitoring import drift, logged, performance, reaction, report, windows
from windtunnel.monitoring.keeping import InHome, Keeping
from windtunnel.spec import Model

#: With a larger share of rows lost than this, a quiet window is not called quiet.
MAX_LOSS = 0.1


@dataclass(frozen=True, slots=True)
class WatchResult:
    """What one round found.

    Attributes:
        window: as ``next_window`` gave it; None when no window could be closed yet.
        verdicts: drift and performance, as far as the description asks for them.
        report: the Evidently page's address: a path, or a URL in the store; None when none was due or it failed.
        react: ``retrain`` or None; ``cause`` says why, or why not.
    """

    window: dict[str, Any] | None
    verdicts: list[Verdict]
    report: str | None
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
    kept: Keeping | None = None,
) -> WatchResult:
    """One round: the next window, if one can be closed.

    Args:
        champion: its version; ``digest`` its content digest.
        now: seconds since the epoch.
        dag: ``dag_id``, ``dag_run_id``, ``task_id`` for the verdicts.
        pending: a version newer than the champion is not decided yet (holds back retraining).
    """
    window = next_window(home, model, champion, digest, now, correlation_id=correlation_id, kept=kept)
    if window is None:
        return WatchResult(None, [], None, None, "no window to close yet")
    found = [
        judge_drift(home, model, window, dag=dag, kept=kept),
        judge_performance(home, model, window, dag=dag, kept=kept),
    ]
    reported = write_report(home, model, window, [plain for plain in found if plain], now, kept=kept)
    reacted = react(home, model, window, reported["verdicts"], now, pending=pending, kept=kept)
    return WatchResult(
        window=window,
        verdicts=[Verdict.from_dict(plain) for plain in reported["verdicts"]],
        report=reported["report_uri"],
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
    kept: Keeping | None = None,
) -> dict[str, Any] | None:
    """The window to judge now, as JSON values, or None. Changes nothing: asked twice it is the same window.

    ``behind`` says how many more windows could be closed already, as after a downtime: ``MODEL.watch`` runs on at once.
    """
    from windtunnel.serving.predictions import PredictionLog

    log = PredictionLog(home.predictions)
    state = (kept or InHome(home)).state(model.name)
    mark = log.watermark(model.name, now)
    chosen = windows.decide(
        state,
        model.monitoring,
        watermark=mark.time,
        stale=mark.stale,
        dropped=mark.dropped,
        first_row=logged.first_time(log, model.name, state.closed_end),
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


def judge_drift(
    home: Home,
    model: Model,
    window: Mapping[str, Any],
    *,
    dag: Mapping[str, str] | None = None,
    kept: Keeping | None = None,
) -> dict[str, Any] | None:
    """Drift of features and predictions in ``window``: a verdict as a dict, None when the description wants none."""
    policy = model.monitoring.drift
    if policy is None:
        return None
    kept = kept or InHome(home)
    before = kept.read(window, "drift.json")
    if before is not None:
        return dict(before)
    per_month = drift.windows_per_month(model.monitoring.window.total_seconds())
    inputs: tuple[str, ...] = ()
    unknown = _unknown(window)
    if unknown:
        found = drift.DriftResult(Outcome.INCONCLUSIVE, unknown, numbers={"rows": 0} if window["empty"] else {})
    else:
        try:
            known = kept.reference(model.name, window["version"])
            inputs = (canonical.digest(known.to_dict()),)
            found = drift.judge(
                known,
                logged.rows(home, window),
                policy,
                model.monitoring.min_rows,
                per_month,
                champion=window["version"],
            )
        except DataError as error:
            found = drift.DriftResult(Outcome.INCONCLUSIVE, error.message)
    outcome, reason = _with_loss(window, found.outcome, found.reason, found.numbers.get("rows"))
    numbers = {**found.numbers, "dropped": window["dropped"]}
    verdict = _verdict(window, Kind.DRIFT, outcome, reason, numbers, found.thresholds, inputs, dag)
    return dict(kept.keep(window, "drift.json", verdict.to_dict()))


def judge_performance(
    home: Home,
    model: Model,
    window: Mapping[str, Any],
    *,
    dag: Mapping[str, str] | None = None,
    kept: Keeping | None = None,
) -> dict[str, Any] | None:
    """Performance on labelled rows up to ``window``: a verdict as a dict, None when the description wants none."""
    policy = model.monitoring.performance
    if policy is None:
        return None
    kept = kept or InHome(home)
    before = kept.read(window, "performance.json")
    if before is not None:
        return dict(before)
    inputs: tuple[str, ...] = ()
    unknown = _unknown(window)
    if unknown:
        found = performance.PerformanceResult(Outcome.INCONCLUSIVE, unknown)
    else:
        try:
            known = kept.reference(model.name, window["version"])
            inputs = (canonical.digest(known.to_dict()),)
            found = performance.judge(
                known.loss(policy.metric), logged.spans(home, model, window), policy, model.monitoring.min_rows
            )
        except DataError as error:
            found = performance.PerformanceResult(Outcome.INCONCLUSIVE, error.message)
    verdict = _verdict(
        window, Kind.PERFORMANCE, found.outcome, found.reason, found.numbers, found.thresholds, inputs, dag
    )
    return dict(kept.keep(window, "performance.json", verdict.to_dict()))


def judge_data(
    home: Home,
    model: Model,
    window: Mapping[str, Any],
    *,
    dag: Mapping[str, str] | None = None,
    kept: Keeping | None = None,
) -> dict[str, Any] | None:
    """The features of ``window`` held against the description by Great Expectations (MON-10); optional.

    ``run`` leaves it out: it costs six seconds of importing, and the model server has refused most of it already.
    None when the window has no rows to check.
    """
    kept = kept or InHome(home)
    before = kept.read(window, "data-check.json")
    if before is not None:
        return dict(before)
    if window["empty"]:
        return None
    from windtunnel.data import checks
    from windtunnel.monitoring.profile import category

    rows = logged.rows(home, window)
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
    uri = None
    with kept.folder(window) as folder:
        found = checks.check(data, frame, part="window", report_dir=folder / "data-check")
        if found.report_path:
            uri = kept.uri(window, found.report_path.relative_to(folder).as_posix())
    verdict = _verdict(window, Kind.DATA_CHECK, found.outcome, found.reason, found.numbers, found.thresholds, (), dag)
    return dict(kept.keep(window, "data-check.json", replace(verdict, report_uri=uri).to_dict()))


def write_report(
    home: Home,
    model: Model,
    window: Mapping[str, Any],
    verdicts: list[dict[str, Any]],
    now: float,
    *,
    kept: Keeping | None = None,
    fetch: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Write the Evidently report if one is due.

    Args:
        fetch: brings rows and labels to the home; called only where a report is due, before it is made. What it raises
            is not caught: another try may find the store well.

    Returns:
        ``{"report_uri": path, URL in the store or None, "reason": why not, "verdicts": the verdicts, with
        report_uri}``. The verdicts are to be posted from here on, so that they carry their report.
    """
    kept = kept or InHome(home)
    before = kept.read(window, "reported.json")
    if before is not None:
        return dict(before)
    state = kept.state(model.name)
    judged = [Verdict.from_dict(plain) for plain in verdicts]
    if not model.monitoring.report:
        made = report.Report(None, None, "the description asks for no reports")
    elif window["empty"]:
        made = report.Report(None, None, "the window has no rows")
    elif not report.due(judged, now=now, last_at=state.report_at, last_finding=state.report_finding):
        made = report.Report(None, None, "nothing new since the last report")
    else:
        if fetch is not None:
            fetch()
        made = _report(home, kept, model, window)
    uri = kept.uri(window, made.html.name) if made.html else None
    answer = {
        "report_uri": uri,
        "reason": made.reason,
        "finding": report.finding(judged),
        "verdicts": [replace(verdict, report_uri=uri).to_dict() for verdict in judged],
    }
    return dict(kept.keep(window, "reported.json", answer))


def _report(home: Home, kept: Keeping, model: Model, window: Mapping[str, Any]) -> report.Report:
    """The report of one window; whatever goes wrong is its reason."""
    try:
        sample = kept.sample(model.name, window["version"])
        spans = logged.spans(home, model, window) if model.monitoring.performance else []
        with kept.folder(window) as folder:
            return report.write(model, sample, logged.rows(home, window), spans[-1] if spans else None, folder)
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
    kept: Keeping | None = None,
) -> dict[str, Any]:
    """Decide the reaction and close the window.

    Returns:
        ``{"react": "retrain" or None, "cause": why or why not}``; asked again for the same window, the same.
    """
    kept = kept or InHome(home)
    answer = kept.read(window, "reaction.json")
    if answer is None:
        decided = reaction.decide(
            model.monitoring.retrain,
            [Verdict.from_dict(plain) for plain in verdicts],
            now=now,
            retrain_at=kept.state(model.name).retrain_at,
            pending=pending,
        )
        # First the answer, then the state: killed in between, the same answer closes the window.
        answer = kept.keep(window, "reaction.json", {"react": decided.react, "cause": decided.cause, "at": now})
    reported = kept.read(window, "reported.json") or {}
    closing = windows.Closing(
        windows.Window(float(window["start"]), float(window["end"]), dropped=int(window["dropped"])),
        str(window["version"]),
        float(answer["at"]),
        retrain=answer["react"] == "retrain",
        finding=reported.get("finding", "") if reported.get("report_uri") else None,
    )
    kept.close(window, closing)
    return {"react": answer["react"], "cause": answer["cause"]}


# -- shared by the steps


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
