"""How often a plan looks: in a cluster a task that runs asks its API no more than six times a minute."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel import Model
from windtunnel.errors import WindtunnelError
from windtunnel.rollout import Plan

PLAIN: dict[str, Any] = {
    "name": "sea",
    "owner": "tides",
    "data": {"source": "a.csv", "time": "t", "target": "y", "features": ["x"]},
    "training": {"entry_point": "sea.model:train"},
}


def looks_every(target: str, **rollout: Any) -> float:
    model = Model.model_validate({**PLAIN, "target": target, "rollout": rollout})
    again = Model.model_validate_json(model.model_dump_json())  # as every task reads it
    found = {Plan.of(one, first).look_every_s for one in (model, again) for first in (True, False)}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(
    ("target", "rollout", "seconds"),
    [
        ("local", {}, 10.0),
        ("kubernetes", {}, 15.0),
        ("kubernetes", {"lease": "30s"}, 10.0),
        ("kubernetes", {"lease": "39s"}, 13.0),
        ("kubernetes", {"look_every": "5s"}, 5.0),
        ("kubernetes", {"look_every": "10s"}, 10.0),
        ("local", {"look_every": "20s"}, 20.0),
    ],
)
def test_a_plan_looks_as_often_as_told_and_in_a_cluster_more_seldom(target: str, rollout: Any, seconds: float) -> None:
    assert looks_every(target, **rollout) == seconds


@pytest.mark.parametrize(("rollout", "pause"), [({"lease": "29s"}, "0:00:10"), ({"look_every": "41s"}, "0:00:41")])
def test_a_lease_outlasts_three_looks(rollout: Any, pause: str) -> None:
    with pytest.raises((WindtunnelError, ValueError), match=f"three times look_every \\({pause}\\)"):
        looks_every("kubernetes", **rollout)


def test_looks_and_the_way_back_stay_within_six_requests_a_minute() -> None:
    from windtunnel.serving.release import wayback

    assert 60 / looks_every("kubernetes") + 60 / wayback.EVERY_S <= 6
