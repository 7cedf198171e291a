"""Fixtures for every room: a real stack, shared by the session; a real browser; and resuming for the long tests."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hall import give_way, scheduler
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from windtunnel.stack.stack import Stack

ROOT = Path(__file__).parent.parent

# An example takes longer on a busy machine, and is no worse for it.
settings.register_profile("busy", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

#: A quiet browser, on a machine where the tests are root.
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="session")
def airflow_window() -> Callable[[str, str], AbstractContextManager[Any]]:
    """(Airflow's URL, password of ``admin``) -> a browser window in which ``admin`` is logged in."""
    browser = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")

    @contextmanager
    def logged_in(url: str, password: str) -> Iterator[Any]:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as play:
            opened = play.chromium.launch(executable_path=browser, args=list(QUIET))
            window = opened.new_page(viewport={"width": 1440, "height": 900}, color_scheme="light")
            window.set_default_timeout(60_000)
            window.goto(url)
            window.locator("input[name=username]").fill("admin")
            window.locator("input[name=password]").fill(password)
            window.locator("button[type=submit]").click()
            window.wait_for_url(re.compile(r"^(?!.*/auth/).*$"))
            yield window
            opened.close()

    return logged_in


@pytest.fixture(scope="session")
def stack_home() -> Iterator[Path]:
    """A home folder with a short path (unix sockets), gone after the session; kept with WINDTUNNEL_KEEP_HOME=1."""
    folder = Path(tempfile.mkdtemp(prefix="wt-"))
    yield folder / "home"
    if not os.environ.get("WINDTUNNEL_KEEP_HOME"):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def stack(stack_home: Path) -> Iterator[Stack]:
    """The whole stack, up and healthy, one for the session, ended after it.

    Lower limits than a person's, so that a killed task is noticed within a test's patience. A test that stops or
    harms it must leave it up and healthy.
    """
    from windtunnel.home import Home
    from windtunnel.loopback import any_free
    from windtunnel.stack.stack import Stack

    stack_home.mkdir(parents=True, mode=0o700)
    ports = {server: any_free() for server in ("airflow", "mlflow", "envoy")}
    (stack_home / "windtunnel.toml").write_text(
        "[ports]\n" + "".join(f"{server} = {port}\n" for server, port in ports.items()) + "[airflow.scheduler]\n"
        "task_instance_heartbeat_timeout = 30\n"
        "task_instance_heartbeat_timeout_detection_interval = 5\n"
        "orphaned_tasks_check_interval = 15\n",
        encoding="utf-8",
    )
    running = Stack(Home(stack_home))
    try:
        running.up(limit_s=480)  # a machine that does other things starts it slowly
        yield running
    finally:
        assert running.down() == []


# -- resuming: with WINDTUNNEL_TEST_RESUME=1 a test that passed on the same files is not run again


def _state_file(config: pytest.Config) -> Path | None:
    if not os.environ.get("WINDTUNNEL_TEST_RESUME"):
        return None
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=False
    ).stdout
    digest = hashlib.sha256()
    for name in sorted(listed.decode().split("\0")):
        path = ROOT / name
        if name and path.is_file():
            digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    folder = ROOT / ".pytest_cache" / "resume"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / digest.hexdigest()[:20]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With two workers (``make test``): whole stacks by one of them."""
    return scheduler(config, log)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STATE] = _state_file(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    state = config.stash[_STATE]
    if state is None or not state.exists():
        return
    passed = set(state.read_text(encoding="utf-8").splitlines())
    done = [item for item in items if item.nodeid in passed]
    if done:
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item.nodeid not in passed]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    give_way(item.nodeid)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    state = item.config.stash[_STATE]
    if state is not None and report.when == "call" and report.passed:
        with state.open("a", encoding="utf-8") as file:
            file.write(item.nodeid + "\n")


_STATE: pytest.StashKey[Path | None] = pytest.StashKey()
