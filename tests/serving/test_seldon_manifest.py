"""From a desired state to a SeldonDeployment, as plain values (DEMAND SRV-1, SRV-9, ROL-14)."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakeseldon
import pytest

from windtunnel.errors import DescriptionError, ServingError
from windtunnel.serving import desired
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.desired import Server, State
from windtunnel.serving.seldon import Seldon, manifest, record, split, status

GOLDEN = Path(__file__).parent / "cases" / "seldon_deployment.json"
SELDON = Seldon(
    image="registry.example.org/windtunnel-server@sha256:77",
    registry="https://mlflow.models.svc",
    service_account="models",
    pull_secrets=("pull",),
    logger="http://collector.models",
    labels={"cost-centre": "42"},
)
ROW = {"age": 30.0}


def arm(n: int, weight: int = 0) -> Arm:
    return Arm(str(n), f"sha256:{n:064x}", f"models:/visits/{n}", weight)


def server(n: int, **serving: Any) -> Server:
    settings = {"serving": {"timeout": "2s", **serving}, "features": [{"name": "age"}], "warmup": [ROW]}
    return Server(arm(n).digest, arm(n).source, 0, True, n == 1, settings)


def state(champion: int | None, *candidates: Arm, servers: dict[str, Server] | None = None, **more: Any) -> State:
    first = arm(1, champion) if champion is not None else None
    release = Release("visits", first, candidates, token=7, rollout_id="r7", lease_until=99.5, **more)
    known = servers or {one.version: server(int(one.version)) for one in release.arms()}
    return desired.routed(State(release, servers=known), now=1000.0)


def traffic(made: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(one["name"], one["traffic"], one["shadow"], one["replicas"]) for one in made["spec"]["predictors"]]


def test_the_whole_object_is_this_one() -> None:
    servers = {"1": server(1), "2": server(2, replicas=2, cpu=1.5, gpu=1, minimum=2, maximum=5)}
    made = manifest.deployment(state(90, arm(2, 10), servers=servers), SELDON, None, "models")
    assert fakeseldon.problems(made) == []
    assert json.loads(GOLDEN.read_text()) == made


def test_its_pods_are_pods() -> None:
    import kubernetes_validate

    made = manifest.deployment(state(90, arm(2, 10)), SELDON, None, "models")
    for one in made["spec"]["predictors"]:
        (component,) = one["componentSpecs"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": component["spec"]}
        kubernetes_validate.validate(pod, "1.30", strict=True)


def test_an_authority_of_its_own_is_for_the_first_step_alone() -> None:
    import kubernetes_validate

    made = manifest.predictor(state(100), "1", replace(SELDON, registry_ca="registry-tls"), "models")
    spec = made["componentSpecs"][0]["spec"]
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}, "1.30", strict=True
    )
    (first,), (server,) = spec["initContainers"], spec["containers"]
    assert {"name": "SSL_CERT_FILE", "value": "/etc/windtunnel/registry-ca/ca.crt"} in first["env"]
    assert "windtunnel-ca" in [mount["name"] for mount in first["volumeMounts"]]
    assert "windtunnel-ca" not in [mount["name"] for mount in server["volumeMounts"]]


def test_no_pod_may_more_than_it_must() -> None:
    pod = manifest.predictor(state(100), "1", SELDON, "models")["componentSpecs"][0]["spec"]
    assert pod["automountServiceAccountToken"] is False
    for one in pod["initContainers"] + pod["containers"]:
        closed = one["securityContext"]
        assert (closed["runAsNonRoot"], closed["allowPrivilegeEscalation"]) == (True, False)
        assert closed["capabilities"] == {"drop": ["ALL"]} and closed["readOnlyRootFilesystem"]
        assert one["resources"]["requests"]["memory"] == one["resources"]["limits"]["memory"]


def test_a_model_with_gpus_gets_to_the_nodes_that_have_them() -> None:
    """DEMAND SRV-9: they are mostly tainted; what others tolerate stays."""
    wants = state(100, servers={"1": server(1, gpu=2)})
    made = manifest.deployment(wants, SELDON, None, "models")
    (predictor,) = made["spec"]["predictors"]
    spec = predictor["componentSpecs"][0]["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert spec["tolerations"] == [taint]
    theirs = {"key": "team", "operator": "Equal", "value": "sea", "effect": "NoSchedule"}
    spec["tolerations"] = [theirs, taint]
    again = manifest.deployment(wants, SELDON, made, "models")
    assert again["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["tolerations"] == [taint, theirs]
    assert "tolerations" not in manifest.predictor(state(100), "1", SELDON, "models")["componentSpecs"][0]["spec"]


GPU = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
PLACED: list[tuple[dict[str, Any], dict[str, str], dict[str, Any]]] = [
    ({"gpu": 1, "gpu_type": "NVIDIA-L4"}, {"nvidia.com/gpu": "1"},
     {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"}, "tolerations": [GPU]}),
    ({"gpu": 2, "mig": "1g.10gb"}, {"nvidia.com/mig-1g.10gb": "2"}, {"tolerations": [GPU]}),
    ({"gpu": 1, "gpu_type": "big", "pod": {"gpu_label": "team/gpu", "gpu_resource": "amd.com/gpu"}},
     {"amd.com/gpu": "1"}, {"nodeSelector": {"team/gpu": "big"}, "tolerations": [{**GPU, "key": "amd.com/gpu"}]}),
    ({"pod": {"node_selector": {"disk": "fast"}, "runtime_class": "nvidia",
              "tolerations": [{"key": "team", "value": "sea", "effect": "NoExecute", "within": "1m"}]}}, {},
     {"nodeSelector": {"disk": "fast"}, "runtimeClassName": "nvidia",
      "tolerations": [{"key": "team", "operator": "Equal", "value": "sea", "effect": "NoExecute",
                       "tolerationSeconds": 60}]}),
]  # fmt: skip


@pytest.mark.parametrize(("serving", "limits", "placed"), PLACED)
def test_which_gpu_and_which_nodes(serving: dict[str, Any], limits: dict[str, str], placed: dict[str, Any]) -> None:
    """DEMAND SRV-9: as a training asks; what others have put beside it stays."""
    import kubernetes_validate

    wants = state(100, servers={"1": server(1, **serving)})
    made = manifest.deployment(wants, SELDON, None, "models")
    assert fakeseldon.problems(made) == []
    spec = made["spec"]["predictors"][0]["componentSpecs"][0]["spec"]
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}, "1.30", strict=True
    )
    asked = spec["containers"][0]["resources"]["limits"]
    assert {name: amount for name, amount in asked.items() if "/" in name} == limits
    assert {key: spec[key] for key in ("nodeSelector", "tolerations", "runtimeClassName") if key in spec} == placed
    live = json.loads(json.dumps(made))
    theirs = live["spec"]["predictors"][0]["componentSpecs"][0]["spec"]
    theirs["nodeSelector"] = {"zone": "a", **dict.fromkeys(placed.get("nodeSelector", {}), "other")}
    again = manifest.deployment(wants, SELDON, live, "models")
    found = again["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["nodeSelector"]
    assert found == {"zone": "a", **placed.get("nodeSelector", {})}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (state(90, arm(2, 10)), [("v1", 90, False, 1), ("v2", 10, False, 1)]),
        (state(100, arm(2), mirror=30), [("v1", 100, False, 1), ("v2", 30, True, 1)]),
        (state(60, arm(2, 30), arm(3, 10)), [("v1", 60, False, 1), ("v2", 30, False, 1), ("v3", 10, False, 1)]),
        (state(0, arm(2, 100)), [("v1", 0, False, 1), ("v2", 100, False, 1)]),
        (state(None, arm(2, 100)), [("v2", 100, False, 1)]),
        # Nothing may serve: one must have all the weight, nobody has replicas.
        (state(0, arm(2)), [("v1", 100, False, 0), ("v2", 0, False, 0)]),
    ],
)
def test_weights_become_traffic(made: State, expected: list[tuple[Any, ...]]) -> None:
    whole = manifest.deployment(made, SELDON, None, "models")
    assert traffic(whole) == expected
    assert fakeseldon.problems(whole) == []
    assert {v: weight for v, weight in manifest.weights(whole).items() if weight} == made.weights
    assert manifest.mirrored(whole) == made.release.mirror


def test_a_first_release_that_is_not_routed_yet_has_pods() -> None:
    waiting = State(Release("visits", None, (arm(2, 100),)), servers={"2": server(2)})
    assert traffic(manifest.deployment(waiting, SELDON, None, "models")) == [("v2", 100, False, 1)]


def test_what_others_put_into_our_predictors_goes_back() -> None:
    wanted = state(90, arm(2, 10))
    live = json.loads(json.dumps(manifest.deployment(wanted, SELDON, None, "models")))
    live["metadata"]["resourceVersion"] = "5"
    first = live["spec"]["predictors"][0]
    first["explainer"] = {"type": "TreeShap"}
    first["svcOrchSpec"] = {"env": [{"name": "SELDON_LOG_LEVEL", "value": "DEBUG"}]}
    pod = first["componentSpecs"][0]["spec"]
    pod["containers"].append({"name": "sidecar", "image": "theirs"})
    pod["containers"][0]["env"].append({"name": "THEIRS", "value": "1"})
    pod["nodeSelector"] = {"disk": "fast"}
    live["spec"]["predictors"].append({"name": "theirs", "traffic": 5, "graph": {"name": "x"}})
    again = manifest.deployment(state(50, arm(2, 50)), SELDON, live, "models")
    assert again["metadata"]["resourceVersion"] == "5"
    found = again["spec"]["predictors"]
    assert [(one["name"], one["traffic"]) for one in found] == [("v1", 50), ("v2", 50), ("theirs", 0)]
    assert found[0] == {**first, "traffic": 50}


def test_what_was_ours_and_is_no_longer_goes() -> None:
    """DEMAND SRV-6: a version that was a shadow would tell the collector for ever that its requests are copies."""
    theirs = {"name": "THEIRS", "value": "1"}
    sends = replace(SELDON, logger=None, collector="http://collector", collector_secret="token", collector_ca="ca")

    def pod(made: dict[str, Any]) -> dict[str, Any]:
        return dict(made["spec"]["predictors"][1]["componentSpecs"][0]["spec"])

    before = json.loads(json.dumps(manifest.deployment(state(100, arm(2), mirror=50), sends, None, "models")))
    assert "WINDTUNNEL_SHADOW" in [one["name"] for one in pod(before)["containers"][0]["env"]]
    pod(before)["containers"][0]["env"].append(theirs)
    pod(before)["volumes"].append({"name": "theirs", "emptyDir": {}})
    after = manifest.deployment(state(90, arm(2, 10)), sends, before, "models")
    fresh = manifest.deployment(state(90, arm(2, 10)), sends, None, "models")
    assert pod(after)["containers"][0]["env"] == [*pod(fresh)["containers"][0]["env"], theirs]
    alone = manifest.deployment(state(90, arm(2, 10)), replace(SELDON, logger=None), before, "models")
    assert [one["name"] for one in pod(alone)["volumes"]] == [
        "windtunnel-model", "windtunnel-tmp", "windtunnel-keys", "theirs",
    ]  # fmt: skip
    assert not [one for one in pod(alone)["containers"][0]["env"] if "COLLECTOR" in one["name"]]


def test_an_autoscaler_does_not_wake_what_nobody_may_call() -> None:
    servers = {"1": server(1, maximum=4), "2": server(2)}
    live = manifest.deployment(state(100, arm(2), servers=servers), SELDON, None, "models")
    assert "hpaSpec" in live["spec"]["predictors"][0]["componentSpecs"][0]
    resting = manifest.deployment(state(0, arm(2), servers=servers), SELDON, live, "models")
    assert not any("hpaSpec" in one["componentSpecs"][0] for one in resting["spec"]["predictors"])


def test_the_state_comes_back_as_it_was_written() -> None:
    before = state(90, arm(2, 10), settings={"1": server(1).settings, "2": server(2).settings})
    before = desired.abort(before, "no", "guard", 1001.0)
    made = manifest.deployment(before, SELDON, None, "models")
    assert record.state_of(made) == before
    notes = made["metadata"]["annotations"]
    assert (notes[record.TOKEN], notes[record.ROLLOUT], notes[record.ABORTED]) == ("7", "r7", "no")
    assert notes[record.LEASE] == "", "an abort ends the lease"


def test_an_object_of_somebody_else_has_no_state_and_a_broken_one_is_never_empty() -> None:
    assert record.state_of({"metadata": {"name": "visits"}}) is None
    with pytest.raises(ServingError, match="cannot be read"):
        record.state_of({"metadata": {"name": "visits", "annotations": {record.DESIRED: "{}"}}})


def test_a_state_that_no_annotation_takes_is_refused() -> None:
    big = replace(server(1), settings={"warmup": [{"text": "x" * record.LARGEST}]})
    with pytest.raises(ServingError, match="an annotation takes"):
        manifest.deployment(state(100, servers={"1": big}), SELDON, None, "models")


@pytest.mark.parametrize(
    ("release", "says"),
    [
        (Release("visits", arm(1, 100), audience=("x-tester", "yes")), "a header to one version"),
        (Release("visits", arm(1, 100), segment_header="x-country"), "by a header's value"),
        (Release("visits", arm(1, 100), settings={"1": {"serving": {"sticky": "x-user"}}}), "users on one arm"),
        (Release("visits-", arm(1, 100)), "may not end with '-'"),
        (Release("visits", replace(arm(1, 100), version="1.0")), "cannot name a predictor"),
    ],
)
def test_what_seldon_cannot_do_is_refused(release: Release, says: str) -> None:
    """DEMAND ROL-14"""
    with pytest.raises(ServingError, match=says):
        manifest.check(release)


def test_an_environment_of_its_own_is_an_image_of_its_own() -> None:
    """DEMAND SRV-9"""
    release = Release("visits", arm(1, 100), settings={"1": {"serving": {"environment": "torch"}}})
    with pytest.raises(ServingError, match="no image is named for the server environment 'torch'"):
        manifest.check(release, SELDON)
    torch = replace(SELDON, images={"torch": "windtunnel/torch@sha256:1"})
    manifest.check(release, torch)
    pod = manifest.pod("visits", "1", replace(server(1), settings=release.settings["1"]), torch)
    assert {one["image"] for one in (*pod["initContainers"], *pod["containers"])} == {"windtunnel/torch@sha256:1"}
    assert {one["image"] for one in manifest.pod("visits", "1", server(1), torch)["containers"]} == {SELDON.image}


def test_names_longer_than_kubernetes_takes_are_hashed_as_the_operator_does() -> None:
    assert manifest.deployment_name("visits", "3") == "visits-v3-0-server"
    long = "m" * 40
    assert len(manifest.deployment_name(long, "12345678901234567")) == len("seldon-") + 32
    assert manifest.service_name("visits", "3") == "visits-v3"


# -- what the object and its pods say


def pod(*containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "status": {"containerStatuses": list(containers), **more}}


@pytest.mark.parametrize(
    ("pods", "says", "integrity", "final"),
    [
        ([pod({"name": "m", "state": {"running": {}}})], None, False, False),
        ([pod({"name": "m", "state": {"waiting": {"reason": "ContainerCreating"}}})], None, False, False),
        ([pod({"name": "m", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}})],
         "ImagePullBackOff: no such image", False, True),
        ([pod({"name": "m", "state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "x"'}}})],
         'secret "x"', False, True),
        ([pod({"name": "m", "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}})],
         "out of memory", False, True),
        ([pod({"name": "m", "restartCount": 1, "lastState": {"terminated": {"exitCode": 1, "message": "boom"}}})],
         "exit code 1: boom", False, False),
        ([pod({"name": "m", "restartCount": 2, "lastState": {"terminated": {"exitCode": 1, "message": "boom"}}})],
         "exit code 1: boom", False, True),
        ([pod(initContainerStatuses=[{"name": "verify", "restartCount": 9, "lastState": {"terminated": {
            "exitCode": 75, "message": '{"message": "the registry does not answer"}'}}}])],
         "the registry does not answer", False, False),
        ([pod(initContainerStatuses=[{"name": "verify", "state": {"terminated": {
            "exitCode": 3, "message": '{"message": "changed"}'}}}])], "changed", True, True),
        ([pod(reason="Evicted", message="Pod ephemeral local storage usage exceeds the total limit of containers 8Gi."),
          pod({"name": "m", "state": {"running": {}}})], "containers 8Gi. (serving.disk)", False, False),
        ([pod(reason="Evicted", message="The node was low on resource: memory.")], "resource: memory.", False, False),
        ([pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}])],
         "waits for a node: 0/3 nodes", False, False),
    ],
)  # fmt: skip
def test_what_pods_say_of_a_version(pods: list[Any], says: str | None, integrity: bool, final: bool) -> None:
    found = status.trouble(pods)
    if says is None:
        assert found is None
    else:
        assert found is not None and says in found.message
        assert (found.integrity, found.final) == (integrity, final)


def test_a_large_model_gets_the_disk_it_asks_for() -> None:
    """And one that asks for the usual is written as ever: another way to say it would start its pods anew."""
    for asked, written in ({}, "8Gi"), ({"disk": 20 * 2**30}, "20Gi"), ({"disk": 10**10}, "10000000000"):
        spec = manifest.pod("visits", "1", server(1, **asked), SELDON)
        assert spec["containers"][0]["resources"]["limits"]["ephemeral-storage"] == written


def test_a_pod_that_is_going_says_nothing() -> None:
    going = pod({"name": "m", "state": {"terminated": {"exitCode": 3}}})
    going["metadata"]["deletionTimestamp"] = "now"
    assert status.trouble([going]) is None


def test_available_is_of_the_version_not_of_the_object() -> None:
    """DEMAND SRV-2: seldon-core's state is of all predictors, and may be of before the last write."""
    live = {"status": {"state": "Available", "deploymentStatus": {"visits-v1-0-server": {"availableReplicas": 1}}}}
    assert status.available(live, "visits", "1", server(1))
    assert not status.available(live, "visits", "2", server(2))
    assert not status.available(live, "visits", "1", server(1, replicas=2))
    assert status.available(live, "visits", "1", server(1, replicas=2, minimum=1, maximum=4))


# -- who answers


@pytest.mark.parametrize(
    ("counts", "wanted", "says"),
    [
        ({"1": 180, "2": 20}, {"1": 90, "2": 10}, None),
        ({"1": 100, "2": 100}, {"1": 100}, "2 answered 100 of 200 requests, it should have none"),  # seldon-core#4067
        ({"1": 199, "2": 1}, {"1": 100}, "should have none"),
        ({"1": 200}, {"1": 50, "2": 50}, "its weight is 50"),
        ({"1": 200}, {"1": 99, "2": 1}, None),  # chance 0.13
        ({"1": 150, "2": 50}, {"1": 95, "2": 5}, "its weight is"),
        ({"1": 150, "": 50}, {"1": 75, "2": 25}, None),  # the failing ones may be version 2's
        ({"1": 150, "": 50}, {"1": 100}, None),
        ({"2": 200}, {"1": 0, "2": 100}, None),
    ],
)
def test_answers_that_cannot_come_from_the_weights(
    counts: dict[str, int], wanted: dict[str, int], says: str | None
) -> None:
    found = split.differs(counts, wanted)
    assert (found is None) if says is None else (found is not None and says in found)


def test_a_right_split_is_seldom_taken_for_a_wrong_one() -> None:
    import random

    draw = random.Random(4)
    wrong = 0
    for _ in range(2000):
        two = sum(draw.random() < 0.1 for _ in range(200))
        wrong += split.differs({"1": 200 - two, "2": two}, {"1": 90, "2": 10}) is not None
    assert wrong <= 3  # 2000 times at most twice ALPHA: 0.4 expected


# -- settings


def test_settings_come_from_plain_values() -> None:
    found = Seldon.of({"image": "i", "registry": "r", "namespace": "models", "pull_secrets": ["a"], "poll_s": 1})
    assert (found.access.namespace, found.pull_secrets, found.poll_s) == ("models", ("a",), 1)


def test_the_names_of_the_page_are_settings() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "prometheus.md").read_text()
    plain = tomllib.loads(page.split("```toml")[1].split("```")[0])
    found = Seldon.of({"image": "i", "registry": "r", **plain})
    assert found.names.version_of({"destination_service_name": "visits-v3"}, "visits") == "3"
    assert found.names.start is None and found.names.instance == ("instance", "pod")
    assert 'destination_service_namespace="models"' in found.names.only("models", found.prometheus_labels).matchers


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"imagee": "x"}, "unknown imagee"),
        ({"image": ""}, "image must be set"),
        ({"image": None}, "expected text"),
        ({"poll_s": 0}, "above 0"),
        ({"prometheus_labels": {"a-b": "c"}}, "a table of Prometheus' labels"),
        ({"prometheus_names": "x"}, "prometheus_names is 'x'"),
        ({"prometheus_names": {"counts": "x"}}, "prometheus_names has unknown counts"),
        ({"prometheus_stale_s": 0}, "prometheus_stale_s is 0"),
        ({"prometheus_names": {"requests": "sum(x)"}}, r"prometheus_names\.requests is 'sum\(x\)'"),
        ({"prometheus_names": {"buckets": 1}}, r"prometheus_names\.buckets is 1"),
        ({"prometheus_names": {"matchers": '{a="{model}"}'}}, r"prometheus_names\.matchers is"),
        ({"prometheus_names": {"matchers": 'a="b"'}}, "prometheus_names.matchers is 'a=\"b\"'"),
        ({"prometheus_names": {"version_label": "a-b"}}, r"prometheus_names\.version_label is 'a-b'"),
        ({"prometheus_names": {"version": r"v\w+"}}, r"prometheus_names\.version is"),
        ({"prometheus_names": {"version": "v("}}, r"prometheus_names\.version is 'v\('"),
        ({"prometheus_names": {"code": None}}, r"prometheus_names\.code is None"),
        ({"prometheus_names": {"unit": "us"}}, r"prometheus_names\.unit is 'us'"),
        ({"prometheus_names": {"instance": "pod"}}, r"prometheus_names\.instance is 'pod'"),
        ({"prometheus_names": {"start": 5}}, r"prometheus_names\.start is 5"),
        ({"prometheus_names": {"codes": {"x": "bad"}}}, r"prometheus_names\.codes is"),
        ({"api": "core2", "prometheus_names": {"unit": "us"}}, r"prometheus_names\.unit is 'us'"),
        ({"labels": {"a": 1}}, "table of strings"),
        ({"pull_secrets": "a"}, "list of names"),
        ({"logger_mode": "some"}, "all, request or response"),
    ],
)
def test_settings_that_are_wrong_say_so(more: dict[str, Any], says: str) -> None:
    with pytest.raises(DescriptionError, match=says):
        Seldon.of({"image": "i", "registry": "r", **more})
