"""What a person sees: log in to Airflow, open the models page and a release's graph. DEMAND UIX-1 (first part)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from windtunnel.registry.connect import from_home
from windtunnel_examples.visits.demo.airflow_api import AirflowApi

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]

KEPT = Path(__file__).parents[2] / "docs" / "images"


@pytest.fixture(scope="module")
def page(flight: Any, airflow_window: Callable[[str, str], AbstractContextManager[Any]]) -> Iterator[Any]:
    """A browser window in which ``admin`` is logged in to Airflow."""
    with airflow_window(flight.urls["airflow"], flight.secret("airflow-admin")) as window:
        yield window


def keep(window: Any, name: str, tmp_path: Path) -> None:
    """A screenshot; into docs/images only when WINDTUNNEL_KEEP_IMAGES is set, so that a test run changes no file."""
    folder = KEPT if os.environ.get("WINDTUNNEL_KEEP_IMAGES") else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    window.screenshot(path=path)
    assert path.stat().st_size > 10_000


def test_the_models_page_is_in_airflows_navigation(page: Any, flight: Any, tmp_path: Path) -> None:
    page.goto(f"{flight.urls['airflow']}/plugin/windtunnel-models")
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", name="Models").wait_for()
    champion = from_home(flight.home).champion("visits")
    row = frame.get_by_role("row").filter(has_text="visits")
    assert champion is not None
    assert champion.semver in row.inner_text()
    assert re.search(r"PASS|FAIL|INCONCLUSIVE", row.inner_text())
    keep(page, "models", tmp_path)


def test_the_models_page_needs_a_log_in(page: Any, flight: Any) -> None:
    stranger = page.context.browser.new_context().new_page()
    assert stranger.goto(f"{flight.urls['airflow']}/windtunnel/models").status == 401


def test_a_release_shows_its_steps(page: Any, flight: Any, tmp_path: Path) -> None:
    api = AirflowApi(flight.urls["airflow"], "admin", flight.secret("airflow-admin"))
    harmful = [run for run in api.runs("visits.release") if run.state == "failed"][
        -1
    ]  # the demo's own, not a kill test's
    page.goto(f"{flight.urls['airflow']}/dags/visits.release/runs/{harmful.run_id}")
    for word in ("step_05", "step_25", "rollback", "outcome"):
        page.get_by_text(word, exact=False).first.wait_for()
    keep(page, "release-run", tmp_path)
    page.set_viewport_size({"width": 1900, "height": 420})  # the graph is a long, thin thing
    page.get_by_label("Show Graph").click()
    page.get_by_label("Expand all task groups").click()
    collapse = page.get_by_label("Collapse Details Panel")
    if collapse.count():
        collapse.click()
    page.locator(".react-flow__node").first.wait_for()
    page.wait_for_timeout(3_000)
    fit = page.get_by_label(re.compile("fit view", re.IGNORECASE))
    if fit.count():
        fit.first.click()
        page.wait_for_timeout(1_500)
    page.add_style_tag(content=".react-flow__minimap { display: none }")  # it would cover the end of the graph
    keep(page, "release", tmp_path)
    page.set_viewport_size({"width": 1440, "height": 900})


def test_the_drift_report_opens_in_airflow(page: Any, flight: Any, tmp_path: Path) -> None:
    """The button on the task leads to Evidently's page, behind the same log-in."""
    drift = next(p.verdict for p in from_home(flight.home).verdicts("visits", kind="drift") if p.verdict.report_uri)
    address = Path(drift.report_uri).relative_to(flight.home.root).as_posix()
    answer = page.goto(f"{flight.urls['airflow']}/windtunnel/reports/{address}")
    assert answer.status == 200
    page.get_by_text("Drift", exact=False).first.wait_for()
    keep(page, "drift-report", tmp_path)
    stranger = page.context.browser.new_context().new_page()
    assert stranger.goto(f"{flight.urls['airflow']}/windtunnel/reports/{address}").status == 401
