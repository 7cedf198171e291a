"""Autoscaling and disruption budgets on Seldon Core 1 (DEMAND SRV-7, SRV-9)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from windtunnel.errors import DescriptionError, ServingError
from windtunnel.serving import desired
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.desired import Server, State
from windtunnel.serving.seldon import Seldon, manifest, scaling
from windtunnel.spec.serving import Serving

HPA = Seldon(image="i", registry="http://r")
KEDA = replace(HPA, autoscaler="keda", prometheus="http://prometheus:9090")
ALL = {"cpu": 60, "queue": 8, "rate": 50, "latency": "200ms"}


def made(seldon: Seldon, **serving: Any) -> dict[str, Any]:
    return scaling.settings("visits", "3", "v3", Serving.model_validate(serving), seldon, "models")


def test_a_fixed_number_has_no_autoscaler() -> None:
    assert made(HPA) == made(KEDA) == {}
    assert made(HPA, replicas=3) == {}


def test_cpu_by_kubernetes_own() -> None:
    assert made(HPA, maximum=5) == {"hpaSpec": {"minReplicas": 1, "maxReplicas": 5}}
    found = made(HPA, minimum=2, maximum=5, scale={"cpu": 60})
    assert found["hpaSpec"]["metricsv2"] == [
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}}
    ]


def test_queue_rate_and_latency_by_keda() -> None:
    found = made(KEDA, minimum=2, maximum=9, scale=ALL)["kedaSpec"]
    assert (found["minReplicaCount"], found["maxReplicaCount"]) == (2, 9)
    triggers = {one.get("name", one["type"]): one for one in found["triggers"]}
    assert list(triggers) == ["cpu", "queue", "rate", "latency"]
    assert triggers["cpu"]["metadata"] == {"value": "60"}
    queue = triggers["queue"]["metadata"]
    here = 'namespace=~"|models",kubernetes_namespace=~"|models"'
    assert queue["threshold"] == "8" and f'_waiting{{model="visits",version="3",{here}}}' in queue["query"]
    assert f'ModelInfer",predictor_name="v3",{here}}}' in triggers["rate"]["metadata"]["query"]
    bare = made(replace(KEDA, prometheus_labels={}), maximum=9, scale={"rate": 50})["kedaSpec"]["triggers"][0]
    assert 'predictor_name="v3"}' in bare["metadata"]["query"]
    istio = {
        "requests": "istio_requests_total", "buckets": "istio_ms_bucket", "unit": "ms",
        "matchers": 'service=~"{model}-v[0-9]+"', "version_label": "service", "version": r"{model}-v(\w+)",
    }  # fmt: skip
    other = made(replace(KEDA, prometheus_names=istio), maximum=9, scale={"rate": 50, "latency": "200ms"})
    rate, latency = (one["metadata"] for one in other["kedaSpec"]["triggers"])
    selected = f'service=~"visits-v[0-9]+",service=~"visits-v(3)",{here}'
    assert rate["query"] == f"sum(rate(istio_requests_total{{{selected}}}[2m]))"
    assert "istio_ms_bucket" in latency["query"] and latency["threshold"] == "200"
    # KEDA divides a total by the threshold; a latency is no total.
    assert [triggers[n]["metricType"] for n in ("queue", "rate", "latency")] == [
        "AverageValue",
        "AverageValue",
        "Value",
    ]
    assert triggers["latency"]["metadata"]["threshold"] == "0.2"
    assert all(isinstance(v, str) for one in found["triggers"] for v in one["metadata"].values()), (
        "KEDA takes text only"
    )
    (cpu,) = made(KEDA, maximum=3)["kedaSpec"]["triggers"]
    assert cpu == {"type": "cpu", "metricType": "Utilization", "metadata": {"value": "80"}}
    assert [one["name"] for one in made(KEDA, maximum=3, scale={"queue": 4})["kedaSpec"]["triggers"]] == ["queue"]


def arm(n: int, weight: int = 0) -> Arm:
    return Arm(str(n), f"sha256:{n:064x}", f"models:/visits/{n}", weight)


def state(serving: dict[str, Any], weight: int = 100) -> State:
    settings = {"1": {"serving": serving}}
    release = Release("visits", arm(1, weight), settings=settings, token=1, rollout_id="r")
    return desired.routed(State(release, servers={"1": Server("d", "s", 0, True, True, settings["1"])}), now=1.0)


def component(seldon: Seldon, serving: dict[str, Any], live: Any = None) -> dict[str, Any]:
    whole = manifest.deployment(state(serving), seldon, live, "models")
    return dict(whole["spec"]["predictors"][0]["componentSpecs"][0])


def budgets(made: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one["componentSpecs"][0].get("pdbSpec") for one in made["spec"]["predictors"]}


def two(one: dict[str, Any], other: dict[str, Any], champion: str = "1") -> State:
    servers = {
        "1": Server("d", "s", 0, True, True, {"serving": one}),
        "2": Server("d", "s", 0, True, True, {"serving": other}),
    }
    arms = {"1": arm(1, 90 if champion == "1" else 10), "2": arm(2, 10 if champion == "1" else 90)}
    release = Release("visits", arms.pop(champion), tuple(arms.values()), token=1, rollout_id="r")
    return desired.routed(State(release, servers=servers), now=1.0)


def test_a_model_has_one_budget_however_many_versions_it_has() -> None:
    """Seldon's budget of one predictor covers the pods of all, and a pod of two budgets cannot be evicted at all."""
    several = {"replicas": 3}

    def whole(state: State, live: Any = None) -> dict[str, Any]:
        return json.loads(json.dumps(manifest.deployment(state, HPA, live, "models")))

    ours = {"maxUnavailable": 1}
    before = whole(two(several, several))
    assert budgets(before) == {"v1": ours, "v2": None}
    assert budgets(whole(two(several, several, champion="2"), before)) == {"v2": ours, "v1": None}
    assert budgets(whole(two({}, several))) == {"v1": ours, "v2": None}
    assert budgets(whole(two({"minimum": 2, "maximum": 4}, {}))) == {"v1": ours, "v2": None}
    assert budgets(whole(two({}, {}), before)) == {"v1": None, "v2": None}
    asleep = replace(two(several, several), release=Release("visits", arm(1), token=2, rollout_id="q"), slots=())
    assert not any(budgets(whole(asleep, before)).values())
    # One that somebody has put there stands for all, and is not mixed with ours.
    theirs = {"minAvailable": "50%"}
    del before["spec"]["predictors"][0]["componentSpecs"][0]["pdbSpec"]
    before["spec"]["predictors"][1]["componentSpecs"][0]["pdbSpec"] = theirs
    assert budgets(whole(two(several, several), before)) == {"v1": None, "v2": theirs}


def test_what_the_installation_cannot_is_refused_before_anything_moves() -> None:
    release = state({"maximum": 4, "scale": {"queue": 4}}).release
    with pytest.raises(ServingError, match=r"serving\.scale\.queue: Kubernetes' own autoscaler knows only the CPU"):
        manifest.check(release, HPA)
    with pytest.raises(ServingError, match="set prometheus"):
        manifest.check(release, replace(KEDA, prometheus=None))
    manifest.check(release, KEDA)
    manifest.check(state({"maximum": 4, "scale": {"cpu": 70}}).release, HPA)
    with pytest.raises(DescriptionError, match="autoscaler is 'vpa'"):
        Seldon.of({"image": "i", "registry": "r", "autoscaler": "vpa"})


def test_another_autoscaler_takes_the_place_of_the_former() -> None:
    """Seldon prefers KEDA's where both are: a former one would go on scaling."""
    before = json.loads(json.dumps(manifest.deployment(state({"maximum": 4}), KEDA, None, "models")))
    assert set(component(HPA, {"maximum": 4}, before)) & {"hpaSpec", "kedaSpec"} == {"hpaSpec"}
    before = json.loads(json.dumps(manifest.deployment(state({"maximum": 4}), HPA, None, "models")))
    assert set(component(KEDA, {"maximum": 4}, before)) & {"hpaSpec", "kedaSpec"} == {"kedaSpec"}
    asleep = manifest.deployment(state({"maximum": 4}, weight=0), KEDA, before, "models")
    assert not set(asleep["spec"]["predictors"][0]["componentSpecs"][0]) & {"hpaSpec", "kedaSpec"}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"minimum": 2}, "minimum is for autoscaling, which needs maximum"),
        ({"scale": {"cpu": 50}}, "scale is for autoscaling, which needs maximum"),
        ({"replicas": 5, "maximum": 4}, "replicas 5 is above maximum 4"),
        ({"minimum": 5, "maximum": 4}, "minimum 5 is above maximum 4"),
        ({"maximum": 4, "scale": {"cpu": 0}}, "greater than or equal to 1"),
        ({"maximum": 4, "scale": {"gpu": 5}}, "gpu"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_read(said: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        Serving.model_validate(said)
