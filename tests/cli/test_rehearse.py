"""``windtunnel rehearse`` as a user types it. DEMAND ROL-9."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windtunnel.rehearsal.summary import KEYS
from windtunnel.serving.predictions.labels import Labels
from windtunnel.serving.predictions.writer import PredictionWriter
from windtunnel.spec import Rollout
from windtunnel.spec.load import load_part

WINDTUNNEL = str(Path(sys.executable).parent / "windtunnel")
#: A plan of six minutes, so that a rehearsal of it takes a second.
SHORT = """\
steps:
- {weight: 20, hold: 2m, min_requests: 50}
- {weight: 50, hold: 4m, min_requests: 50}
gates:
- {metric: errors, margin: 0.0, within: 0.01}
"""


def run(*words: str, home: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    where = {"WINDTUNNEL_HOME": str(home or "/nonexistent/home")}
    return subprocess.run(
        [WINDTUNNEL, "rehearse", *words], capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, **where, **env},
    )  # fmt: skip


def plain(*words: str, home: Path | None = None) -> dict[str, Any]:
    done = run(*words, "--json", home=home)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def short(tmp_path: Path) -> str:
    (tmp_path / "short.yaml").write_text(SHORT)
    return str(tmp_path / "short.yaml")


def test_the_default_plan_as_a_user_runs_it() -> None:
    done = run("--runs", "40", "--compare", "argo,flagger")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["gate", "windtunnel", "argo", "flagger"]
    assert "plan default, scenario errors, 20 requests/s, 40 rollouts of each kind" in done.stderr
    assert re.search(r"^\d+\.\d s$", done.stderr, re.M)


def test_the_json_is_what_the_docs_say(short: str) -> None:
    found = plain(
        short, "--runs", "50", "--rate", "50", "--scenario", "errors:x10", "--compare", "argo,kayenta,fixed,peeking"
    )
    assert found["schema"] == "windtunnel.rehearsal/1"
    assert set(found["gates"]) == {"windtunnel", "argo", "kayenta", "fixed", "peeking"}
    for numbers in found["gates"].values():
        assert tuple(numbers) == KEYS
        for number in numbers.values():
            assert set(number) == {"value", "low", "high"}
            if number["value"] is None:
                assert number["low"] is None or number["low"] >= 0
            else:
                assert number["low"] is None or number["low"] <= number["value"]
                assert number["high"] is None or number["high"] >= number["value"]
    assert found["plan"]["name"] == short and [s["weight"] for s in found["plan"]["steps"]] == [20, 50]
    assert found["scenario"]["harm"]["errors"] == 10 and found["scenario"]["harmful"]
    assert (found["runs"], found["seed"], found["traffic"]["requests_per_second"]) == (50, 1, 50)
    for ends in found["ends"].values():
        for kind in ("harmless", "scenario"):
            assert ends[kind]["promoted"] + ends[kind]["rolled_back"] + ends[kind]["inconclusive"] == 50


def test_a_harmless_scenario_has_no_missed(short: str) -> None:
    numbers = plain(short, "--runs", "30", "--scenario", "none")["gates"]["windtunnel"]
    assert numbers["missed"] == {"value": None, "low": None, "high": None}
    assert numbers["users_exposed_p50"]["value"] is None
    assert numbers["false_rollback"]["value"] is not None


def test_the_result_is_the_same_with_one_process_and_two(short: str) -> None:
    words = (short, "--runs", "1100", "--rate", "5", "--compare", "flagger", "--seed", "4")
    one, two = plain(*words, "--processes", "1"), plain(*words, "--processes", "2")
    assert one == two
    assert plain(*words[:-1], "5")["gates"] != one["gates"]


@pytest.mark.parametrize(
    ("bounds", "code", "says"),
    [
        (["--max-false-rollback", "0.5", "--max-missed", "0.5"], 0, "PASS"),
        (["--max-false-rollback", "0.5"], 0, "PASS"),
        (["--max-missed", "0.0001"], 4, "INCONCLUSIVE"),
    ],
)
def test_exit_codes_for_ci(short: str, bounds: list[str], code: int, says: str) -> None:
    done = run(short, "--runs", "60", "--rate", "100", "--scenario", "errors:x10", *bounds)
    assert done.returncode == code, done.stderr
    assert says in done.stdout


def test_a_broken_bound_is_a_fail(short: str) -> None:
    """Losses get worse and the plan looks at errors only: every bad version is missed."""
    done = run(short, "--runs", "60", "--scenario", "wrong:x2", "--max-missed", "0.1", "--max-false-rollback", "1")
    assert done.returncode == 3
    assert "missed: FAIL" in done.stdout and "false_rollback: PASS" in done.stdout
    assert "no quality gate to see it" in done.stderr
    machine = run(short, "--runs", "60", "--scenario", "wrong:x2", "--max-missed", "0.1", "--json")
    assert machine.returncode == 3
    assert json.loads(machine.stdout)["bounds"]["missed"] == {"limit": 0.1, "outcome": "FAIL"}


BAD: list[tuple[list[str], int, str]] = [
    (["--scenario", "eror"], 2, "did you mean 'errors'"),
    (["--scenario", "missing.yaml"], 2, "missing.yaml"),
    (["--scenario", "errors:x0"], 2, "above 0"),
    (["--compare", "argo,spinnaker"], 2, "kayenta"),
    (["--users", "1"], 2, "--users: expected a whole number from 2"),
    (["--start", "freitag 15:30"], 2, "--start: expected a day (mon to sun) and HH:MM"),
    (["--first", "--compare", "argo,kayenta"], 2, "kayenta compare with a champion"),
    (["--rate", "0"], 2, "above 0"),
    (["--rate", "nan"], 2, "above 0"),
    (["--rate", "-5"], 2, "above 0"),
    (["--rate", "1e9"], 2, "at most"),
    (["--runs", "0"], 2, "runs"),
    (["--seed", "-1"], 2, "seed"),
    (["--max-missed", "1.5"], 2, "max-missed"),
    (["--scenario", "none", "--max-missed", "0.1"], 2, "no harm"),
    (["--target-alpha", "0.05"], 2, "--target-detect"),
    (["--target-detect", "errors twice"], 2, "within 1000 requests"),
    (["--target-detect", "errors x2 within 1000 requests", "--target-alpha", "0"], 2, "between 0 and 0.5"),
    (["--target-detect", "quality x2 within 1000 requests"], 2, "no quality gate"),
    (["nothere.yaml"], 2, "nothere.yaml"),
    (["no-such-model"], 2, "no-such-model"),
    (["No Model!"], 2, "No Model!"),
    (["no.such.module:model"], 2, "no.such.module"),
    (["--from-log", "visits", "--runs", "10"], 1, "no rows"),
]


@pytest.mark.parametrize(("words", "code", "says"), BAD, ids=[" ".join(words) for words, _, _ in BAD])
def test_wrong_input_is_refused_with_what_to_change(words: list[str], code: int, says: str, tmp_path: Path) -> None:
    done = run(*words, home=tmp_path)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr


PLANS: list[tuple[str, str]] = [
    ("steps: [{weight: 50, hold: 1m}, {weight: 25, hold: 1m}]", "must rise"),
    ("steps: [{weight: 120, hold: 1m}]", "less than or equal to 100"),
    ("steps: [{weight: 5, hold: -1m}]", "expected a duration"),
    ("gates: [{metric: speed, margin: 0.1}]", "metric"),
    ("alpha: 0", "greater than 0"),
    ("gates: [{metric: errors, margin: 0}]", "could never finish"),
    ("stepps: []", "did you mean 'steps'"),
    ("rollout:\n  alpha: 2\n", ":2:"),
    ("- 1", "expected keys"),
    ("", "expected keys"),
    ("a: [", "no YAML"),
    ("strategy: all_at_once", "nothing to rehearse"),
    ("strategy: rolling", "replicas"),
]


@pytest.mark.parametrize(("text", "says"), PLANS, ids=[says for _, says in PLANS])
def test_a_wrong_plan_is_refused_with_its_line(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    done = run(str(file), "--runs", "10")
    assert done.returncode == 2, done.stderr
    assert says in done.stderr and done.stdout == ""


def test_a_wrong_scenario_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text("errors: 0.01\nharm:\n  eror: 2\n  latency: 0\n")
    done = run("--scenario", str(file))
    assert done.returncode == 2
    assert f"{file}:3: harm.eror: unknown key; did you mean 'errors'" in done.stderr
    assert f"{file}:4: harm.latency" in done.stderr


def test_a_scenario_file_and_a_whole_description(tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text("errors: 0.02\ndrift: 0.1\nday_traffic: 0.3\nharm: {errors: 10}\n")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "visits.yaml").write_text(
        "name: visits\nowner: me\ndata: {source: x.csv, time: t, target: y, features: [a]}\n"
        "training: {entry_point: 'visits.train:train'}\nrollout:\n" + "".join(f"  {x}\n" for x in SHORT.splitlines())
    )
    (tmp_path / "dags" / "other.yaml").write_text("just: notes\n")
    scenario = ("--scenario", str(tmp_path / "scenario.yaml"), "--runs", "30", "--rate", "50")
    by_file = plain(str(tmp_path / "dags" / "visits.yaml"), *scenario)
    by_name = plain("visits", *scenario, home=tmp_path)
    assert by_file["gates"] == by_name["gates"] and by_file["scenario"]["drift"] == 0.1
    assert by_file["gates"]["windtunnel"]["missed"]["value"] == 0


def test_first_releases_users_and_hours_as_a_user_asks_for_them(tmp_path: Path) -> None:
    """One rehearsal each, as small as can be: what is simulated is tests/rehearsal/test_users.py's."""
    (tmp_path / "plan.yaml").write_text(f"{SHORT}hours: [{{days: [fri], start: '09:00', end: '16:00'}}]\n")
    (tmp_path / "scenario.yaml").write_text("harm: {errors: 10}\nusers: 300\nusers_stay: 10m\nstart: fri 15:59\n")
    words = (str(tmp_path / "plan.yaml"), "--runs", "5", "--processes", "1")
    first = plain(*words, "--first", "--scenario", "errors:x10", "--compare", "argo")
    assert (
        first["plan"]["first"] and first["plan"]["gates"] == [] and first["gates"]["windtunnel"]["missed"]["value"] == 0
    )
    given = plain(*words, "--scenario", str(tmp_path / "scenario.yaml"), "--users", "200", "--start", "fri 10:00")
    assert given["scenario"]["users"] == 200 and given["scenario"]["start"] == "fri 10:00"


def test_the_page_needs_no_network_and_names_every_gate(short: str, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    words = (short, "--runs", "40", "--scenario", "errors:x5", "--compare", "argo,flagger", "--report", str(page))
    assert run(*words).returncode == 0
    text = page.read_text()
    assert not re.search(r"(src|href)=|https?://|@import|url\(", text)
    assert text.count("<figure>") == 4 and "prefers-color-scheme: dark" in text
    for gate in ("windtunnel", "argo", "flagger"):
        assert text.count(f"</svg>{gate}</span>") == 4
    assert "nan" not in text.lower().replace("tenant", "") and "inf" not in re.sub(r"infinitely", "", text.lower())
    harmless = tmp_path / "harmless.html"
    assert run(short, "--runs", "20", "--scenario", "none", "--report", str(harmless)).returncode == 0
    assert harmless.read_text().count("<figure>") == 1


def test_a_page_that_cannot_be_written_is_an_error(short: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(short, "--runs", "10", "--report", str(tmp_path / "file" / "page.html"))
    assert done.returncode == 1 and "Traceback" not in done.stderr


def test_a_recommended_plan_is_a_plan(tmp_path: Path) -> None:
    done = run("--rate", "200", "--target-alpha", "0.04", "--target-detect", "errors x10 within 5000 requests")
    assert done.returncode == 0, done.stderr
    file = tmp_path / "plan.yaml"
    file.write_text(done.stdout)
    made = load_part(Rollout, file, "rollout")
    assert made is not None and made.alpha == 0.04
    assert "rehearsed rollouts" in done.stderr
    assert run(str(file), "--runs", "20", "--rate", "200").returncode == 0


def test_no_plan_for_a_target_says_what_would_do() -> None:
    done = run("--rate", "20", "--target-detect", "errors x2 within 30 requests", "--json")
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert found["rollout"] is None and found["within"] > 100
    assert "too thin" in found["words"][0]


def test_recorded_traffic(tmp_path: Path) -> None:
    """From the prediction log a model server wrote, with labels, mirrored rows and client errors in it."""
    rng = np.random.default_rng(1)
    home, start = tmp_path, time.time() - 7200
    writer = PredictionWriter(
        home / "predictions", "visits", "3", "0", flush_s=5, features=["age"], buffer_rows=100_000
    )
    for i in range(3000):
        failed = rng.random() < 0.02
        status, error = (500, "boom") if failed else (400, "bad input") if rng.random() < 0.01 else (200, None)
        answers = [] if status != 200 else [float(rng.gamma(2, 1.5))]
        writer.write(
            f"r{i}", start + i * 2, [f"p{i}"], [{"age": 1.0}], answers or [None], float(rng.lognormal(2, 0.5)), status,
            error=error,
        )  # fmt: skip
    writer.close()
    Labels(home / "labels").append(
        "visits", [{"prediction_id": f"p{i}", "label": 3.0, "label_time": start + i * 2} for i in range(0, 3000, 2)]
    )
    (home / "plan.yaml").write_text(
        "gates:\n- {metric: errors, margin: 0.0, within: 0.02}\n- {metric: latency, margin: 0.05}\n"
        "- {metric: quality, margin: 0.1, loss: absolute}\n- {metric: prediction, margin: 0.1}\n"
    )
    plan = str(home / "plan.yaml")
    found = plain(plan, "--from-log", "visits", "--runs", "20", "--scenario", "errors:x5", "--rate", "20", home=home)
    assert found["traffic"]["recorded_rows"] == 3000
    assert found["gates"]["windtunnel"]["missed"]["value"] == 0
    as_recorded = plain(plan, "--from-log", "visits", "--runs", "10", "--scenario", "none", home=home)
    assert as_recorded["traffic"]["requests_per_second"] == pytest.approx(0.5, rel=0.05)
    short = run(plan, "--from-log", "nobody", "--runs", "10", home=home)
    assert short.returncode == 1 and "no rows of a champion" in short.stderr
