"""Rounds of watching over a real prediction log and real labels on disk, on the RAND data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from windtunnel.evidence import Kind, Outcome, Verdict
from windtunnel.monitoring import performance, watch, windows

DIGEST = "sha256:" + "ab" * 32
T0 = 1_800_000_000.0  # a multiple of 60
DAG = {"dag_id": "visits.watch", "dag_run_id": "r1", "task_id": "drift"}


def describe(**monitoring: Any) -> Any:
    from windtunnel.spec import Model

    features = ["lncoins", "idp", "lpi", "fmde", "physlm", "disea", "hlthg", "hlthf", "hlthp"]
    return Model.model_validate(
        {
            "name": "visits",
            "owner": "health",
            "data": {"source": "x.parquet", "time": "time", "target": "mdvis", "features": features},
            "training": {"entry_point": "package.module:train"},
            "monitoring": {
                "window": "60s",
                "lateness": "5s",
                "min_rows": 200,
                "performance": {"metric": "poisson_deviance", "tolerance": 0.05},
                "report": False,
                **monitoring,
            },
        }
    )


MODEL = describe()


def run(world: Any, now: float, model: Any = MODEL, **more: Any) -> watch.WatchResult:
    return watch.run(world.home, model, "1", DIGEST, now, correlation_id="c" * 32, dag=DAG, **more)


def outcomes(found: watch.WatchResult) -> dict[str, str]:
    return {str(verdict.kind): str(verdict.outcome) for verdict in found.verdicts}


def test_nothing_to_do_before_there_is_traffic(world: Any) -> None:
    found = run(world, T0)
    assert (found.window, found.verdicts, found.react) == (None, [], None)


def test_quiet_then_drift_then_loss(world: Any, free: pd.DataFrame, paying: pd.DataFrame) -> None:
    """DEMAND MON-1, MON-2, MON-5, MON-7: the story of the demo, window by window."""
    same = free.iloc[5500:6100]
    ids = world.serve(same, T0 + 1, T0 + 60)
    world.label(ids, same, T0 + 62)
    world.mark(T0 + 64)
    assert run(world, T0 + 64).window is None  # lateness has not passed
    world.mark(T0 + 66)
    quiet = run(world, T0 + 66)
    assert quiet.window is not None
    assert (quiet.window["start"], quiet.window["end"]) == (T0, T0 + 60)
    assert outcomes(quiet) == {"drift": "PASS", "performance": "PASS"}, [v.reason for v in quiet.verdicts]
    assert quiet.react is None

    ids = world.serve(paying.iloc[:600], T0 + 60, T0 + 120)
    world.mark(T0 + 126)
    drifted = run(world, T0 + 126)
    assert outcomes(drifted)["drift"] == "FAIL"
    verdict = drifted.verdicts[0]
    assert verdict.kind is Kind.DRIFT
    assert verdict.window == (T0 + 60, T0 + 120)
    assert (verdict.subject, verdict.version, verdict.dag_run_id) == (DIGEST, "1", "r1")
    assert verdict.correlation_id == "c" * 32
    assert "lncoins" in verdict.numbers["drifted"]
    assert drifted.react == "retrain"
    assert "covariate" in drifted.cause
    json.dumps([v.to_dict() for v in drifted.verdicts])

    # The labels of the drifted window come only now; the loss is judged over trailing rows.
    world.label(ids, paying.iloc[:600], T0 + 130)
    more = paying.iloc[600:3600]
    world.label(world.serve(more, T0 + 120, T0 + 180), more, T0 + 182)
    world.mark(T0 + 186)
    lost = run(world, T0 + 186)
    assert outcomes(lost) == {"drift": "FAIL", "performance": "FAIL"}, [v.reason for v in lost.verdicts]
    assert lost.react is None  # damped
    assert "cooldown" in lost.cause


def test_a_repeated_round_is_the_same_round(world: Any, paying: pd.DataFrame) -> None:
    """Killed before the window was closed, it is judged again: the same verdicts with the same ids."""
    world.serve(paying.iloc[:500], T0, T0 + 60)
    world.mark(T0 + 66)
    window = watch.next_window(world.home, MODEL, "1", DIGEST, T0 + 66)
    assert window is not None
    first = watch.judge_drift(world.home, MODEL, window, dag=DAG)
    assert first is not None
    world.serve(paying.iloc[500:900], T0, T0 + 60)  # late rows change nothing any more
    assert watch.next_window(world.home, MODEL, "1", DIGEST, T0 + 70) == window
    again = watch.judge_drift(world.home, MODEL, window, dag={**DAG, "dag_run_id": "r2"})
    assert again is not None
    assert Verdict.from_dict(again).id == Verdict.from_dict(first).id
    reported = watch.write_report(world.home, MODEL, window, [again], T0 + 70)
    reacted = watch.react(world.home, MODEL, window, reported["verdicts"], T0 + 70)
    assert reacted["react"] == "retrain"
    state = windows.load(world.home, "visits")
    assert watch.react(world.home, MODEL, window, reported["verdicts"], T0 + 900) == reacted  # a retried task
    assert windows.load(world.home, "visits") == state
    assert len(state.closed) == 1
    assert watch.next_window(world.home, MODEL, "1", DIGEST, T0 + 70) is None


def test_after_a_downtime_every_window_comes_once_and_in_order(world: Any, free: pd.DataFrame) -> None:
    rest = free.iloc[5500:]
    for number, minute in enumerate((0, 1, 2, 10)):
        world.serve(rest.iloc[number * 300 : (number + 1) * 300], T0 + 60 * minute, T0 + 60 * minute + 60)
    world.mark(T0 + 700)
    seen = []
    while (found := run(world, T0 + 700)).window is not None:
        seen.append(
            (found.window["start"] - T0, found.window["end"] - T0, found.window["empty"], found.window["behind"])
        )
        if found.window["empty"]:
            assert outcomes(found) == {"drift": "INCONCLUSIVE", "performance": "INCONCLUSIVE"}
            assert "no traffic for 420 s" in found.verdicts[0].reason
    assert seen == [
        (0, 60, False, 10),
        (60, 120, False, 9),
        (120, 180, False, 8),
        (180, 600, True, 1),
        (600, 660, False, 0),
    ]


def test_a_silent_writer_makes_the_window_inconclusive(world: Any, paying: pd.DataFrame) -> None:
    """DEMAND MON-9. Even rows that look like drift prove nothing when others are missing."""
    world.serve(paying.iloc[:500], T0, T0 + 60)
    world.mark(T0 + 40)
    assert run(world, T0 + 70).window is None
    found = run(world, T0 + 200)
    assert outcomes(found) == {"drift": "INCONCLUSIVE", "performance": "INCONCLUSIVE"}
    assert "went silent: writer 1-0" in found.verdicts[0].reason
    assert found.react is None


def test_lost_rows_take_the_pass_away(world: Any, free: pd.DataFrame) -> None:
    world.serve(free.iloc[5500:6000], T0, T0 + 60)
    world.mark(T0 + 66, dropped=400)
    found = run(world, T0 + 66)
    assert outcomes(found)["drift"] == "INCONCLUSIVE"
    assert "400 rows were lost" in found.verdicts[0].reason


def test_without_a_reference_it_says_so(world: Any, free: pd.DataFrame) -> None:
    shutil.rmtree(world.home.monitoring / "visits")
    world.serve(free.iloc[5500:6000], T0, T0 + 60)
    world.mark(T0 + 66)
    found = run(world, T0 + 66)
    assert set(outcomes(found).values()) == {"INCONCLUSIVE"}
    assert "no reference for visits version 1" in found.verdicts[0].reason


def test_corrected_labels_count(world: Any, free: pd.DataFrame) -> None:
    """DEMAND MON-5: the newest revision is what is judged."""
    rows = free.iloc[5500:6500]
    ids = world.serve(rows, T0, T0 + 60)
    world.label(ids, rows.assign(mdvis=rows["mdvis"] + 40), T0 + 61)
    world.mark(T0 + 66)
    window = watch.next_window(world.home, MODEL, "1", DIGEST, T0 + 66)
    assert window is not None
    world.label(ids, rows, T0 + 62, revision=1)
    found = watch.judge_performance(world.home, MODEL, window)
    assert found is not None
    assert found["outcome"] == str(Outcome.PASS), found["reason"]
    assert found["numbers"]["spans"][0]["labelled"] == 1_000


def test_shadow_rows_and_other_versions_do_not_count_for_the_champion(
    world: Any, free: pd.DataFrame, paying: pd.DataFrame
) -> None:
    world.serve(free.iloc[5500:6000], T0, T0 + 60)
    world.serve(paying.iloc[:500], T0, T0 + 60, version="2", shadow=True)
    world.mark(T0 + 66)
    found = run(world, T0 + 66)
    assert outcomes(found)["drift"] == "PASS", found.verdicts[0].reason
    assert found.verdicts[0].numbers["rows"] == 500


def test_labels_are_waited_for(world: Any, free: pd.DataFrame) -> None:
    """Spans end ``label_delay`` before the window's end, so rows too young to have labels do not spoil coverage."""
    model = describe(label_delay="60s")
    rows = free.iloc[5500:6000]
    ids = world.serve(rows, T0, T0 + 60)
    world.label(ids, rows, T0 + 100)
    world.serve(free.iloc[6000:6500], T0 + 60, T0 + 120)
    world.mark(T0 + 126)
    assert outcomes(run(world, T0 + 126, model))["performance"] == "INCONCLUSIVE"
    later = run(world, T0 + 126, model)
    assert outcomes(later)["performance"] == "PASS", later.verdicts[1].reason
    assert later.verdicts[1].numbers["spans"][0]["coverage"] == 1.0
    assert len(later.verdicts[1].numbers["spans"]) == len(performance.SPANS)


def test_windows_can_be_held_against_the_description(world: Any, free: pd.DataFrame) -> None:
    """DEMAND MON-10."""
    world.serve(free.iloc[5500:6000].assign(disea=-1.0), T0, T0 + 60)
    world.mark(T0 + 66)
    window = watch.next_window(world.home, MODEL, "1", DIGEST, T0 + 66)
    assert window is not None
    fine = watch.judge_data(world.home, MODEL, window)
    assert fine is not None
    assert fine["outcome"] == "PASS", fine["reason"]
    shutil.rmtree(world.home.monitoring / "visits" / "windows")
    features = [{"name": f.name, "minimum": 0} for f in MODEL.data.features]
    strict = type(MODEL).model_validate(MODEL.to_dict() | {"data": MODEL.to_dict()["data"] | {"features": features}})
    found = watch.judge_data(world.home, strict, window)
    assert found is not None
    assert found["kind"] == "data-check"
    assert "disea: 500 of 500 values" in found["reason"]
    assert watch.judge_data(world.home, strict, window) == found


@pytest.mark.timeout(180)
def test_the_report_is_written_for_a_new_finding(world: Any, free: pd.DataFrame, paying: pd.DataFrame) -> None:
    """DEMAND MON-4: Evidently for the eyes. Once for a finding; not again for the same one in the next window."""
    model = describe(report=True, label_delay="0s")
    rows = paying.iloc[:500]
    world.label(world.serve(rows, T0, T0 + 60), rows, T0 + 61)
    world.serve(paying.iloc[500:1000], T0 + 60, T0 + 120)
    world.mark(T0 + 126)
    found = run(world, T0 + 66, model)
    assert found.report is not None
    assert found.verdicts[0].report_uri == found.report
    html = Path(found.report)
    page = html.read_text(encoding="utf-8")
    assert "lncoins" in page
    plain = json.loads(html.with_suffix(".json").read_text(encoding="utf-8"))
    drifted = [entry for entry in plain["metrics"] if entry["metric_name"].startswith("ValueDrift(column=lncoins")]
    assert drifted
    assert html.with_name("performance.html").exists()
    again = run(world, T0 + 126, model)
    assert again.report is None
    assert outcomes(again)["drift"] == "FAIL"


def test_a_broken_report_costs_no_verdict(world: Any, paying: pd.DataFrame) -> None:
    sample = next((world.home.monitoring / "visits").glob("*.parquet"))
    sample.write_bytes(b"not parquet")
    world.serve(paying.iloc[:500], T0, T0 + 60)
    world.mark(T0 + 66)
    found = run(world, T0 + 66, describe(report=True))
    assert outcomes(found)["drift"] == "FAIL"
    assert found.report is None
    assert found.verdicts[0].report_uri is None
    assert found.react == "retrain"
