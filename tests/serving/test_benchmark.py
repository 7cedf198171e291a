"""A version is measured in a server of its own, which is always stopped (DEMAND EVL-2)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from windtunnel.errors import DataError, IntegrityError, NotReadyError
from windtunnel.home import Home
from windtunnel.serving.local.benchmark import benchmark
from windtunnel.spec.evaluation import Benchmark
from windtunnel.spec.serving import Serving
from windtunnel.stackfile import StackFile

Models = Any  # tests/serving/conftest.py


@pytest.fixture
def home(tmp_path: Path, serving_python: str) -> Home:
    found = Home(tmp_path)
    found.stack_file.write_text(
        StackFile(str(tmp_path), {}, {}, {"main": sys.executable, "serving": serving_python}).to_json()
    )
    return found


def left(home: Home) -> list[Any]:
    """Our model servers that still run, and what lies about in the home."""
    mine = [
        p for p in psutil.process_iter(["cmdline"]) if any(str(home.root) in word for word in p.info["cmdline"] or [])
    ]
    return [*mine, *(home.serving / "benchmark").glob("*")]


@pytest.mark.real
def test_numbers_of_a_real_server(home: Home, models: Models, row: dict[str, Any]) -> None:
    rows = [{**row, "age": float(age)} for age in range(20, 50)]
    rules = Benchmark(requests=60, rows_per_request=4)
    found = benchmark(home, models.good.path, models.good.digest, rows, rules, Serving())
    assert (found["requests"], found["errors"], found["first_error"], found["rows_per_request"]) == (60, 0, None, 4)
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert found["throughput_rps"] > 1
    assert 50 < found["memory_mb"] < 2000
    assert 0 < found["cpu_ms"] < 1000
    assert 0 < found["load_s"] < 60
    assert found["size_bytes"] == sum(p.stat().st_size for p in models.good.path.rglob("*") if p.is_file())
    assert left(home) == []


@pytest.mark.real
def test_failing_requests_are_counted_with_the_first_reason(home: Home, models: Models, row: dict[str, Any]) -> None:
    rows = [row] * 8 + [{**row, "visits": 101}] * 2
    rules = Benchmark(requests=20)
    found = benchmark(home, models.trouble.path, models.trouble.digest, rows, rules, Serving())
    assert found["errors"] == 4
    assert "no such member" in found["first_error"]
    assert found["p99_ms"] is not None


@pytest.mark.real
def test_a_model_that_cannot_be_loaded_says_why(home: Home, models: Models, row: dict[str, Any]) -> None:
    with pytest.raises(NotReadyError, match="weights are missing"):
        benchmark(home, models.broken.path, models.broken.digest, [row], Benchmark(), Serving())
    assert left(home) == []


def test_other_bytes_are_refused_before_anything_starts(home: Home, models: Models, row: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        benchmark(home, models.good.path, "sha256:" + "0" * 64, [row], Benchmark(), Serving())
    assert left(home) == []


def test_without_rows_there_is_nothing_to_measure(home: Home, models: Models) -> None:
    with pytest.raises(DataError, match="no rows"):
        benchmark(home, models.good.path, models.good.digest, [], Benchmark(), Serving())
