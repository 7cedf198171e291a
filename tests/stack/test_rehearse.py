"""DEMAND ROL-9: ``windtunnel rehearse MODEL`` on a running stack: its registry's plan, its champion, its traffic."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from windtunnel.registry.connect import from_home
from windtunnel.rollout import Plan
from windtunnel.serving.predictions.writer import PredictionWriter
from windtunnel.spec import Rollout
from windtunnel.stackfile import StackFile, read_secret

if TYPE_CHECKING:
    from windtunnel.stack.stack import Stack

pytestmark = pytest.mark.stack

#: Two versions' requests, 4 a second together; the former champion has most of them, and other latencies.
REQUESTS = {"former": (3000, 40.0), "champion": (1000, 8.0)}


@pytest.fixture(scope="module")
def model(stack: Stack) -> str:
    """A model that has been released twice, with the rows of both versions in the prediction log."""
    path = Path(__file__).parents[1] / "registry_ext" / "conftest.py"
    spec = importlib.util.spec_from_file_location("registry_conftest", path)
    assert spec is not None and spec.loader is not None
    tests = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    auth, url = ("service", read_secret(stack.home, "mlflow-service")), StackFile.read(stack.home).urls["mlflow"]
    rollout = Rollout.model_validate({"steps": [{"weight": 20, "hold": "2m"}, {"weight": 50, "hold": "4m"}]})
    with (
        from_home(stack.home) as registry,
        httpx.Client(base_url=url, auth=auth, timeout=60, trust_env=False) as http,
    ):
        hands = tests.Hands(http)
        name = str(hands.model())
        former = tests.crown(registry, hands, name)
        champion = tests.enter(registry, hands, name)
        tests.judge(registry, champion, "data-check", "evaluation", "rollout")
        plan = Plan.from_spec(rollout, False).to_dict()
        opened = registry.open_rollout(name, champion.version, plan=plan, holder="h", correlation_id="c")
        registry.promote(opened.id, opened.token, former.version)
    rng, start = np.random.default_rng(1), time.time() - 2000
    for whose, version in (("former", former.version), ("champion", champion.version)):
        count, latency = REQUESTS[whose]
        writer = PredictionWriter(
            stack.home.predictions, name, str(version), "0", flush_s=5, features=["age"], buffer_rows=10_000
        )
        for i in range(count):
            at, ms = start + i * 1000 / count + (1000 if whose == "champion" else 0), latency * rng.lognormal(0, 0.3)
            writer.write(f"{whose}-{i}", at, [f"{whose}-{i}-0"], [{"age": 1.0}], [float(rng.gamma(2))], float(ms), 200)
        writer.close()
    return name


def rehearse(stack: Stack, *words: str) -> dict[str, Any]:
    command = [str(Path(sys.executable).parent / "windtunnel"), "--home", str(stack.home.root), "rehearse", *words]
    done = subprocess.run(
        [*command, "--json", "--runs", "30"], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_plan_is_the_last_releases_and_the_traffic_the_champions(stack: Stack, model: str) -> None:
    found = rehearse(stack, model, "--from-log", model, "--scenario", "slow:x2")
    assert found["plan"]["name"] == f"{model} (its last release)"
    assert [(step["weight"], step["hold_s"]) for step in found["plan"]["steps"]] == [(20, 120), (50, 240)]
    # Rows are the champion's, though its forerunner has more; what comes in a second is told by both.
    assert found["traffic"]["recorded_rows"] == REQUESTS["champion"][0]
    assert found["traffic"]["requests_per_second"] == pytest.approx(2.0, rel=0.05)
    assert found["gates"]["windtunnel"]["missed"]["value"] is not None
