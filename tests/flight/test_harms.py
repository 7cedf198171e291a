"""DEMAND ROL-3, ROL-6: each kind of harm that only live traffic shows is stopped by a gate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from windtunnel import files
from windtunnel.home import ENV_HOME
from windtunnel_examples.visits import traffic
from windtunnel_examples.visits.careless import HARMS
from windtunnel_examples.visits.demo import _traffic
from windtunnel_examples.visits.demo.airflow_api import AirflowApi
from windtunnel_examples.visits.demo.facts import Facts
from windtunnel_examples.visits.demo.show import Telling
from windtunnel_examples.visits.demo.story import WATCH, Story

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def asked(flight: Any) -> Iterator[AirflowApi]:
    """Members asking, and nobody who retrains meanwhile."""
    os.environ[ENV_HOME] = str(flight.home.root)
    api = AirflowApi(flight.urls["airflow"], "admin", flight.secret("airflow-admin"))
    api.unpause(WATCH, paused=True)
    told = traffic.Control(rate=25.0, cost_sharing=0.95)
    files.write_json(traffic.control_file(flight.home), vars(told))
    with _traffic(flight.home):
        yield api
    os.environ.pop(ENV_HOME, None)


@pytest.mark.parametrize("harm", HARMS)
def test_a_gate_stops_it(flight: Any, asked: AirflowApi, harm: str) -> None:
    story = Story(asked, Facts(flight.home), Telling(), harm)
    story.harmful_version()
    assert story.steps[0].ok, story.steps[0].proof
