"""The serving fake keeps the contract that the real backends keep (DEMAND SRV-1): what holds on it, holds on them."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeServing, Store, World

from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.desired import Server, State, abort, lagging

_path = Path(__file__).parents[1] / "conformance" / "serving_backend.py"
_spec = importlib.util.spec_from_file_location("conformance_serving_backend", _path)
assert _spec is not None and _spec.loader is not None
_suite = importlib.util.module_from_spec(_spec)
sys.modules.setdefault(_spec.name, _suite)
_spec.loader.exec_module(_suite)


class Kit:
    """What the suite asks for."""

    model = "small"

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.store = Store(
            {"1": "sha256:1", "2": "sha256:2", "3": "sha256:3", "4": "sha256:4", "5": "sha256:5"}, broken={"4"}
        )
        self.backend = FakeServing(World(), self.store)
        self.token = 0

    def next_token(self) -> int:
        self.token += 1
        return self.token

    def arm(self, n: int, weight: int) -> Arm:
        return Arm(str(n), f"sha256:{n}", f"models:/small/{n}", weight)

    def changed_arm(self, weight: int) -> Arm:
        return Arm("5", "sha256:other", "models:/small/5", weight)

    def unready_arm(self, weight: int) -> Arm:
        return self.arm(4, weight)

    def ask(self, headers: dict[str, str]) -> str | None:
        return self.backend.ask(self.model, headers)

    def fingerprint(self) -> int:
        return self.backend.writes


class TestFake(_suite.ServingBackendConformance):  # type: ignore[misc, name-defined]
    @pytest.fixture
    def kit(self) -> Kit:
        return Kit()


# -- pure: what an abort leaves (``desired.abort``), and what nobody has told the router (``desired.lagging``)


def state(champion: str, slots: dict[str, int], *proven: str, candidate: int = 0) -> State:
    """Asked for: ``champion`` and candidate 2; the router has ``slots``; servers of ``proven`` have answered."""
    arms = {version: Arm(version, f"sha256:{version}", "s", 0) for version in "129"}
    release = Release("small", replace(arms[champion], weight=100 - candidate), (replace(arms["2"], weight=candidate),))
    servers = {v: Server(f"sha256:{v}", "s", 1, proven=v in proven) for v in {*slots, *proven, champion}}
    given = tuple(version for version, weight in slots.items() for _ in range(weight))
    return State(release, slots=given, servers=servers)


@pytest.mark.parametrize(
    ("champion", "slots", "proven", "wanted"),
    [
        ("1", {"1": 90, "2": 10}, "12", {"1": 100}),
        ("1", {"2": 100}, "12", {"1": 100}),  # it has answered before
        ("1", {"2": 100}, "2", {"1": 100}),  # it has not, but there is nothing else than the candidate
        ("9", {"1": 90, "2": 10}, "12", {"1": 100}),  # only just asked for: the one that serves goes on
        ("9", {"1": 90, "2": 10}, "129", {"9": 100}),
        ("9", {}, "2", {}),  # nothing serves
    ],
)
def test_an_abort_gives_traffic_to_a_version_that_has_answered(
    champion: str, slots: dict[str, int], proven: str, wanted: dict[str, int]
) -> None:
    """DEMAND SRV-2, ROL-6: found by the simulator: a champion that was asked for a moment ago is not up yet."""
    assert abort(state(champion, slots, *proven), "no", "guard", 0.0).weights == wanted


def test_a_router_that_was_not_told_is_lagging() -> None:
    """Found by the simulator: an apply that takes a candidate to 0 dies before the router hears of it."""
    assert not lagging(state("1", {"1": 90, "2": 10}, "12", candidate=10))
    assert lagging(state("1", {"1": 90, "2": 10}, "12"))
