"""DEMAND OPS-5: healthy, degraded, unhealthy or unknown, with a reason; every factor crossed."""

from __future__ import annotations

import math
import time

import pytest

from windtunnel.stack import probes
from windtunnel.stack.health import Answer, Level, judge, share, worst

WELL = Answer(True, "answers")
SILENT = Answer(False, "no answer on port 1: timed out")


@pytest.mark.parametrize(
    ("state", "uptime", "answer", "level", "word"),
    [
        (None, None, WELL, Level.UNKNOWN, "supervisor"),
        ("STARTING", 1, WELL, Level.DEGRADED, "starting"),
        ("BACKOFF", None, None, Level.UNHEALTHY, "backoff: exited too quickly"),
        ("FATAL", None, WELL, Level.UNHEALTHY, "fatal"),
        ("STOPPED", None, None, Level.UNHEALTHY, "stopped"),
        ("EXITED", None, WELL, Level.UNHEALTHY, "exited"),
        ("RUNNING", 500, None, Level.HEALTHY, "running"),
        ("RUNNING", 500, WELL, Level.HEALTHY, "answers"),
        ("RUNNING", 5, SILENT, Level.DEGRADED, "starting: no answer"),
        ("RUNNING", 500, SILENT, Level.UNHEALTHY, "timed out"),
        ("RUNNING", 500, Answer(True, "heartbeat", 3), Level.HEALTHY, "heartbeat"),
        ("RUNNING", 500, Answer(True, "heartbeat", 45), Level.DEGRADED, "45 s ago"),
        ("RUNNING", 500, Answer(False, "says unhealthy", 301), Level.UNKNOWN, "301 s ago"),
        ("RUNNING", 5, Answer(False, "says unhealthy", 301), Level.DEGRADED, "starting"),
    ],
)
def test_program(state: str | None, uptime: float | None, answer: Answer | None, level: Level, word: str) -> None:
    found, reason = judge(state, "exited too quickly" if state == "BACKOFF" else "", uptime, answer)
    assert found is level
    assert word in reason


@pytest.mark.parametrize(
    ("percent", "level"),
    [
        (0.0, Level.HEALTHY),
        (69.9, Level.HEALTHY),
        (70.0, Level.DEGRADED),
        (90.0, Level.UNHEALTHY),
        (None, Level.UNKNOWN),
        (math.nan, Level.UNKNOWN),
    ],
)
def test_resource(percent: float | None, level: Level) -> None:
    assert share("CPU", percent, (70, 90))[0] is level


def test_nothing_known_is_not_good() -> None:
    assert worst([]) is Level.UNKNOWN
    assert worst([Level.HEALTHY, Level.UNKNOWN]) is Level.UNKNOWN
    assert worst([Level.UNKNOWN, Level.UNHEALTHY, Level.DEGRADED]) is Level.UNHEALTHY


def test_airflows_answer_is_read_with_the_age_of_each_heartbeat() -> None:
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 40))
    answers = probes.read_airflow(
        {
            "metadatabase": {"status": "healthy"},
            "scheduler": {"status": "unhealthy", "latest_scheduler_heartbeat": stamp},
            "triggerer": {"status": None, "latest_triggerer_heartbeat": None},
        },
        now,
    )
    assert answers["airflow-api"].ok
    assert not answers["airflow-scheduler"].ok
    assert answers["airflow-scheduler"].beat_age_s == pytest.approx(40, abs=1.1)
    assert not answers["airflow-triggerer"].ok
    assert not answers["airflow-dag-processor"].ok


def test_a_port_where_nobody_answers_is_an_answer() -> None:
    from windtunnel.loopback import any_free

    port = any_free()
    assert not probes.page(port, "/health", timeout_s=1).ok
    answers = probes.airflow(port, timeout_s=1)
    assert set(answers) == {"airflow-api", "airflow-scheduler", "airflow-triggerer", "airflow-dag-processor"}
    assert not any(answer.ok for answer in answers.values())
