"""Issue, section 6: training code that is wrong in every way, each with a clear error. Real processes, no MLflow."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from windtunnel import procfs
from windtunnel.home import Home
from windtunnel.tracking import local
from windtunnel.tracking.contract import EXIT, RunSpec, RunStatus, run_dir

Spec = Callable[..., RunSpec]
Go = Callable[..., RunStatus]

#: function, kind of failure, words of the message.
WRONG = [
    ("wt_nowhere:train", "code", ["wt_nowhere:train", "no such module"]),
    ("wt_cases:trian", "code", ["has no 'trian'", "did you mean 'train'"]),
    ("wt_cases:not_a_function", "code", ["is a int, expected a function"]),
    ("wt_broken_import:train", "code", ["a_module_nobody_has", "not installed"]),
    ("wt_raising_import:train", "code", ["RuntimeError: at import"]),
    ("two_arguments", "code", ["(run, more)", "expected one argument"]),
    ("coroutine", "code", ["is async"]),
    ("raises", "code", ["ZeroDivisionError", "wt_cases.py", "in raises"]),
    ("returns_none", "code", ["returned None", "an estimator with predict()"]),
    ("returns_number", "code", ["returned int: 42", "an estimator with predict()"]),
    ("returns_class", "code", ["returned the class Constant"]),
    ("no_folder", "code", ["nowhere", "where nothing lies"]),
    ("nan_model", "code", ["predicts NaN or infinity for 100 of 100"]),
    ("too_few", "code", ["answered 100 rows with list of shape (1,)"]),
    ("cannot_predict", "code", ["cannot predict", "KeyError: 'b'"]),
    ("with_lambda", "code", ["pickle", "training.pickle"]),
    ("python_model", "code", ["PythonModel python_model", "training.pickle"]),
    ("exits", "code", ["SystemExit"]),
    ("exits_hard", "code", ["exit code 0 before its work was done"]),
    ("crashes", "code", ["crashed (SIGSEGV)"]),
    ("bad_data", "data", ["the price of row 3 is negative"]),
    ("no_network", "transient", ["no route to the feature store"]),
    ("kills_itself", "transient", ["killed from outside (SIGKILL)"]),
    ("no_space", "resource", ["No space left on device"]),
    ("memory_error", "resource", ["MemoryError"]),
]


@pytest.mark.parametrize(("function", "failure", "words"), WRONG, ids=[row[0] for row in WRONG])
def test_wrong_code_fails_with_its_kind_and_clear_words(
    function: str, failure: str, words: list[str], spec: Spec, run: Go, home: Home
) -> None:
    task = spec(function)
    found = run(task)
    assert (found.state, found.failure) == ("failed", failure), found.message
    assert found.exit_code == EXIT[failure]  # type: ignore[index]
    for word in words:
        assert word in found.message
    assert local.result(home, task.run_id) is None
    log, _ = local.tail(home, task.run_id)
    assert "failed: " in log, "the reason stands at the end of the log"


def test_a_hundred_megabytes_of_output_do_not_fill_the_disk(spec: Spec, run: Go, home: Home) -> None:
    task = spec("prints_a_lot", kind="step")
    assert run(task).state == "succeeded"
    path = run_dir(home, task.run_id) / "log.txt"
    assert path.stat().st_size < 17 * 2**20
    text = path.read_text()
    assert "the log is cut here" in text
    assert "bytes of log are left out" in text
    assert "the very last words" in text, "what matters stands at the end"


def test_too_much_memory_ends_as_a_resource_failure(spec: Spec, run: Go) -> None:
    limit = 300 * 2**20
    found = run(spec("eats_memory", resources={"memory": limit, "cpu": 1}))
    assert (found.state, found.failure, found.exit_code) == ("failed", "resource", 71)
    assert "its limit is 300" in found.message or "0.29 GiB" in found.message
    assert found.peak_memory is not None and limit < found.peak_memory < 4 * limit


def test_memory_of_the_training_s_own_processes_counts(spec: Spec, run: Go) -> None:
    found = run(spec("child_eats_memory", resources={"memory": 400 * 2**20, "cpu": 1}))
    assert (found.state, found.failure) == ("failed", "resource")


def test_past_its_time_limit(spec: Spec, run: Go) -> None:
    found = run(spec("sleeps", time_limit=1.0))
    assert (found.failure, found.exit_code) == ("resource", 71)
    assert "time limit of 1 s" in found.message


def test_past_its_limit_on_disk(spec: Spec, run: Go) -> None:
    found = run(spec("fills_disk", resources={"disk": 32 * 2**20, "memory": 2**30, "cpu": 1}), timeout=40)
    assert found.failure == "resource"
    assert "disk" in found.message


def test_what_the_machine_can_never_give_is_refused_at_once(spec: Spec, home: Home) -> None:
    """DEMAND TRN-5"""
    from windtunnel.errors import ResourceError

    for asked, word in (
        ({"memory": 2**50}, "1048576.0 GiB memory"),
        ({"cpu": 100_000}, "100000 CPUs"),
        ({"gpu": 64, "gpu_type": "H200"}, "64 GPU(s) of type H200"),
    ):
        with pytest.raises(ResourceError, match=r"there is|this machine has") as error:
            local.start(home, spec("train", resources=asked))
        assert word in str(error.value)


def test_a_corrupt_input_fails_before_any_work(spec: Spec, run: Go, home: Home, tmp_path: object) -> None:
    """DEMAND PIP-2"""
    from dataclasses import replace

    task = spec("sleeps")
    rows = task.inputs["rows"]
    found = run(spec("sleeps", inputs={"rows": replace(rows, digest="sha256:" + "0" * 64)}))
    assert (found.failure, found.exit_code) == ("data", 65)
    assert "is corrupt" in found.message
    gone = spec("sleeps", inputs={"rows": replace(rows, path=rows.path.with_name("gone"))})
    found = run(gone)
    assert "is missing" in found.message
    assert not (run_dir(home, gone.run_id) / "work" / "begun").exists()


def test_nothing_outlives_the_run(spec: Spec, run: Go, home: Home) -> None:
    task = spec("leaves_a_process", kind="step")
    assert run(task).state == "succeeded"
    other = int((run_dir(home, task.run_id) / "work" / "other").read_text())
    assert procfs.started(other) is None


def test_the_environment_of_airflow_stays_outside(spec: Spec, run: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEMAND OPS-6: a training needs no key of the scheduler."""
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret")
    seen = local._environment(spec("train"), "token", {"MLFLOW_TRACKING_USERNAME": "service"})
    assert not [key for key in seen if "AIRFLOW" in key]
    assert seen["MLFLOW_TRACKING_USERNAME"] == "service"
    assert os.environ["AIRFLOW__CORE__FERNET_KEY"] == "secret"
