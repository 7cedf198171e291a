"""The connection to a cluster, what is refused when a DAG is made, and one place for all gates of a process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakeseldon
import pytest
from airflow.sdk.exceptions import AirflowSkipException
from kubeapi import Cluster

from windtunnel.errors import DescriptionError
from windtunnel.rollout import Plan
from windtunnel.serving.backend import Arm, Release
from windtunnel.spec import Rollout
from windtunnel_airflow import SeldonHook, WindtunnelHook, lifecycle, places
from windtunnel_airflow.gatekeeping import Watch
from windtunnel_airflow.triggers import GateTrigger


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cluster, fakeseldon.Seldon, Any]]:
    with fakeseldon.cluster() as cluster, fakeseldon.Seldon(cluster, after_s=0.0) as seldon:
        extra = {"image": "i", "registry": "r", "kubeconfig": cluster.kubeconfig(tmp_path / "c"), "poll_s": 0.01}

        def connect(**more: Any) -> None:
            plain = {"conn_type": "windtunnel_seldon", "extra": {**extra, "prometheus": seldon.url, **more}}
            monkeypatch.setenv("AIRFLOW_CONN_TEAM_SELDON", json.dumps(plain))

        ours = {"home": str(tmp_path / "home"), "seldon_conn_id": "team_seldon"}
        monkeypatch.setenv(
            "AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps({"conn_type": "windtunnel", "host": "h", "extra": ours})
        )
        connect()
        yield cluster, seldon, connect
        places.forget()


def test_the_form_asks_the_cluster_what_it_may_do(world: Any) -> None:
    """DEMAND OPS-6: no secret is in it; an empty field of the form is none."""
    cluster, _, connect = world
    connect(context="", labels={"team": "sea"})
    settings = SeldonHook("team_seldon").settings
    assert settings.access.context is None and settings.labels == {"team": "sea"}
    found, words = SeldonHook("team_seldon").test_connection()
    assert found, words
    connect(prometheus="http://127.0.0.1:1")
    assert SeldonHook("team_seldon").test_connection()[0] is False
    connect(prometheus="")
    assert "no Prometheus is set" in SeldonHook("team_seldon").test_connection()[1]
    cluster.denied.append("GET .*/seldondeployments")
    found, words = SeldonHook("team_seldon").test_connection()
    assert not found and "cannot" in words
    connect(gatway="http://typo")
    with pytest.raises(DescriptionError, match="unknown gatway"):
        _ = SeldonHook("team_seldon").settings


def test_a_model_in_a_cluster_is_met_there_and_others_at_home(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hasattr(WindtunnelHook(target="kubernetes").place.backend, "seldon")
    assert not hasattr(WindtunnelHook().place.backend, "seldon")
    hook = WindtunnelHook()
    assert hook.elsewhere("small")
    hook.home.serving_model("small").mkdir(parents=True)
    (hook.home.serving_model("small") / "desired.json").write_text("{}")
    assert not hook.elsewhere("small")
    monkeypatch.delenv("AIRFLOW_CONN_TEAM_SELDON")
    assert not hook.elsewhere("another")


def test_one_place_for_all_gates_until_the_connection_says_otherwise(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, connect = world
    first = places.cluster("windtunnel_default", "team_seldon", follow=True)
    assert places.cluster("windtunnel_default", "team_seldon", follow=True) is first
    monkeypatch.setattr(places, "RELOAD_S", 0.0)
    assert places.cluster("windtunnel_default", "team_seldon") is first
    connect(split_requests=50)
    assert places.cluster("windtunnel_default", "team_seldon").backend.seldon.split_requests == 50


def test_a_gates_look_needs_one_request(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEMAND PIP-5: from a trigger's plain arguments, by the connection, fed by one watch; people's orders unknown."""
    cluster, seldon, _ = world
    place = places.cluster("windtunnel_default", "team_seldon")
    arms = [Arm(n, f"sha256:{n * 64}", f"models:/small/{n}", 50) for n in "12"]
    release = Release(
        "small", arms[0], (arms[1],), token=1, rollout_id="r1", lease_until=time.time() + 30, lease_s=30.0,
        settings={n: {"warmup": [{"a": 1.0}]} for n in "12"},
    )  # fmt: skip
    place.backend.apply(release)
    plan = Plan.from_spec(Rollout.model_validate({"steps": [{"weight": 50, "hold": "1h"}]}), False).to_dict()
    watch = Watch(
        home=str(tmp_path / "home"), model="small", version="2", champion="1", rollout_id="r1", token=1, plan=plan,
        step=0, lease_s=30.0, digest=arms[1].digest, seldon_conn_id="team_seldon",
    )  # fmt: skip
    trigger = GateTrigger(**GateTrigger(watch.to_dict(), 1.0).serialize()[1])
    monkeypatch.setattr(GateTrigger, "orders", lambda self: None)
    for _ in range(20):
        seldon.ask("small")
    assert trigger.look().action == "hold"
    began = len(cluster.requests)
    answer = trigger.look()
    assert answer.action == "hold" and "cannot be" not in answer.reason, answer.reason
    asked = [one for one in cluster.asked(began) if one.endswith("/seldondeployments/small")]
    assert [line.split()[0] for line in asked][-1] == "PATCH" and len(asked) <= 3, asked  # 1 unless others wrote
    assert len(place.looks("small").tail("r1")) == 1
    assert not list((tmp_path / "home").rglob("looks*")), "nothing of it is in a home"


def test_what_seldon_cannot_do_is_refused_when_the_dag_file_is_read(
    describe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """DEMAND ROL-14; row by row in tests/serving/test_seldon_limits.py. No connection is asked."""
    monkeypatch.setattr(SeldonHook, "get_connection", None)
    parts = {"rollout": {"segments": {"header": "x-team", "values": ["a"]}}, "serving": {"sticky": "x-user"}}
    plain = describe(**parts).to_dict() | {"target": "kubernetes"}
    plain["training"]["target"] = "local"
    with pytest.raises(DescriptionError, match=r"(?s)rollout\.segments: Seldon's metrics.*serving\.sticky: Seldon"):
        lifecycle(plain)
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(plain, indent=1))  # which is YAML
    at = 1 + path.read_text()[: path.read_text().index('"sticky"')].count("\n")
    with pytest.raises(DescriptionError, match=rf"small\.yaml:{at}: serving\.sticky"):
        lifecycle(path)


def test_rows_that_a_collector_writes_may_be_judged_and_watched(describe: Callable[..., Any], world: Any) -> None:
    from windtunnel_airflow import WatchWindowOperator

    training, gates = {"entry_point": "wt_small:train", "target": "local"}, [{"metric": "quality", "margin": 0.1}]
    model = describe(target="kubernetes", training=training, rollout={"gates": gates}, serving={"log": True})
    assert set(lifecycle(model)) == {"small.train", "small.release", "small.watch"}
    silent = describe(target="kubernetes", training=training)
    task = WatchWindowOperator(task_id="window", model=silent)
    with pytest.raises(AirflowSkipException, match="nobody collects what the pods of small predict"):
        task.fetch(0.0)
    WatchWindowOperator(task_id="window", model=model).fetch(0.0)
