"""What a release asks of Core 2's objects, and what it cannot ask (DEMAND ROL-14, SRV-2, SRV-9)."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import DescriptionError, ServingError
from windtunnel.kube import rights
from windtunnel.serving import desired
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.core2 import Core2, Core2Backend, backend_of, manifest, needed, status
from windtunnel.serving.desired import Server, State
from windtunnel.serving.seldon import Seldon, SeldonBackend

SETTINGS = Core2(image="ours", registry="http://registry", labels={"team": "risk"})
OWNER = {"metadata": {"uid": "u"}}


def arm(n: int, weight: int = 0) -> Arm:
    return Arm(str(n), f"sha256:{n:064x}", f"models:/visits/{n}", weight)


def state(champion: int, *candidates: Arm, serving: Mapping[str, Any] | None = None, **more: Any) -> State:
    release = Release("visits", arm(1, champion), candidates, token=3, rollout_id="r", **more)
    one = {"serving": dict(serving or {})}
    servers = {each.version: Server(each.digest, each.source, 0, True, True, one) for each in release.arms()}
    return desired.routed(State(release, servers=servers), now=1000.0)


def spec(wanted: State) -> dict[str, Any]:
    found: dict[str, Any] = manifest.experiment(wanted, SETTINGS, {"metadata": {}}, "models")["spec"]
    return found


def test_candidates_are_those_that_have_traffic_the_champion_first() -> None:
    found = spec(state(10, arm(2, 60), arm(3, 30)))
    assert [(one["name"], one["weight"]) for one in found["candidates"]] == [
        ("visits-v1", 10),
        ("visits-v2", 60),
        ("visits-v3", 30),
    ]
    assert spec(state(100, arm(2)))["candidates"] == [{"name": "visits-v1", "weight": 100}]
    assert spec(state(0, arm(2)))["candidates"] == [{"name": "visits-nothing", "weight": 100}]
    assert manifest.parts(state(0, arm(2))) == {}


def test_copies_are_the_experiments_mirror_but_not_at_its_making() -> None:
    wanted = state(100, arm(2), mirror=30)
    assert spec(wanted)["mirror"] == {"name": "visits-v2", "percent": 30}
    assert "mirror" not in manifest.experiment(wanted, SETTINGS, None, "models")["spec"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audience": ("x-tester", "yes")}, r"header x-tester to one version[\s\S]*seldon-model: visits-vVERSION"),
        ({"segment_header": "x-country"}, "count requests by a header"),
        ({"settings": {"1": {"serving": {"sticky": "x-user"}}}}, "keep users on one arm"),
        (
            {"settings": {"1": {"serving": {"environment": "gpu"}}}},
            "no image is named for",
        ),
        ({"settings": {"1": {"serving": {"maximum": 3, "scale": {"queue": 4}}}}}, "Core 2 scales by requests"),
        ({"model": "7wonders"}, "begin with a letter"),
        ({"model": "v" * 49}, "give the model a shorter name"),
        ({"champion": Arm("1_0", "d", "s", 100)}, "cannot name a Model"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_reason(change: dict[str, Any], message: str) -> None:
    release = replace(Release("visits", arm(1, 100)), **change)
    with pytest.raises(ServingError) as refused:
        manifest.check(release, SETTINGS)
    assert re.search(message, f"{refused.value.message}\n{refused.value.hint}")


def test_copies_and_a_collector_exclude_each_other() -> None:
    collected = replace(SETTINGS, collector="http://collector")
    assert "mirror" not in Core2Backend(collected).capabilities and "mirror" in Core2Backend(SETTINGS).capabilities
    with pytest.raises(ServingError, match="cannot tell rows of copied requests"):
        manifest.check(Release("visits", arm(1, 100), (arm(2),), mirror=10), collected)
    pod = manifest.server_of(state(100), "1", collected, OWNER)["spec"]["podSpec"]
    assert "windtunnel-predictions" in {volume["name"] for volume in pod["volumes"]}


def test_a_range_of_replicas_is_left_to_core_2s_own_scaler() -> None:
    fixed, ranged = state(100, serving={"replicas": 3}), state(100, serving={"minimum": 2, "maximum": 5})
    for make in (manifest.model_of, manifest.server_of):
        assert make(fixed, "1", SETTINGS, OWNER)["spec"]["replicas"] == 3
        found = make(ranged, "1", SETTINGS, OWNER)["spec"]
        assert (found["minReplicas"], found["maxReplicas"]) == (2, 5) and "replicas" not in found


def merged(config: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Containers as the operator merges them: by name, maps into each other, lists appended
    (``operator/controllers/reconcilers/common/patch_utils.go``)."""
    found = {one["name"]: copy.deepcopy(one) for one in config}

    def merge(into: dict[str, Any], other: dict[str, Any]) -> None:
        for key, value in other.items():
            if isinstance(value, dict):
                merge(into.setdefault(key, {}), value)
            elif isinstance(value, list):
                into[key] = [*into.get(key, []), *value]
            else:
                into[key] = value

    for one in ours:
        merge(found.setdefault(one["name"], {}), one)
    return found


def test_a_server_is_seldons_with_our_first_step_and_our_model_server() -> None:
    config = [
        {"name": "rclone", "image": "rclone", "volumeMounts": [{"name": "mlserver-models", "mountPath": "/mnt/agent"}]},
        {"name": "agent", "image": "agent"},
        {
            "name": "mlserver",
            "image": "seldon's",
            "env": [{"name": "MLSERVER_PARALLEL_WORKERS", "value": "1"}],
            "resources": {"requests": {"cpu": "1", "memory": "1G"}},
            "volumeMounts": [{"name": "mlserver-models", "mountPath": "/mnt/agent", "readOnly": True}],
        },
    ]
    wanted = state(100, serving={"memory": "2GiB"})
    server = manifest.server_of(wanted, "1", SETTINGS, OWNER)
    pod = server["spec"]["podSpec"]
    found = merged(config, pod["containers"])
    assert set(found) == {"rclone", "agent", "mlserver"}, "nothing beside what Seldon's have"
    assert found["agent"] == config[1]
    ours = found["mlserver"]
    assert ours["image"] == "ours" and ours["command"][-2:] == ["windtunnel.serving.core2.launch", "/mnt/windtunnel"]
    assert [one["name"] for one in pod["initContainers"]] == ["verify"]
    mounts = {one["mountPath"]: one.get("readOnly", False) for one in found["rclone"]["volumeMounts"]}
    assert mounts == {"/mnt/agent": False, "/mnt/windtunnel": True}, "who copies cannot change what was verified"
    # The agent tells the scheduler what the container asks for; a Model must fit.
    model = manifest.model_of(wanted, "1", SETTINGS, OWNER)
    assert int(model["spec"]["memory"]) <= int(ours["resources"]["requests"]["memory"])
    assert model["spec"]["requirements"] == server["spec"]["capabilities"] == ["visits-v1"]
    assert model["spec"]["storageUri"].startswith("/mnt/windtunnel/")
    named = {volume["name"] for volume in pod["volumes"]}
    steps = [*pod["initContainers"], *pod["containers"]]
    assert {mount["name"] for one in steps for mount in one["volumeMounts"]} <= named


def test_a_servers_pods_have_the_gpu_and_the_nodes_that_are_asked_for() -> None:
    """DEMAND SRV-9: Core 2 lays a Server's ``podSpec`` over its ServerConfig's; what nobody asks for is not in it."""
    serving = {"gpu": 1, "gpu_type": "NVIDIA-L4", "pod": {"node_selector": {"team": "sea"}, "runtime_class": "nvidia"}}
    pod = manifest.server_of(state(100, serving=serving), "1", SETTINGS, OWNER)["spec"]["podSpec"]
    assert pod["nodeSelector"] == {"team": "sea", "nvidia.com/gpu.product": "NVIDIA-L4"}
    assert pod["runtimeClassName"] == "nvidia"
    assert [one["key"] for one in pod["tolerations"]] == ["nvidia.com/gpu"]
    limits = {one["name"]: one.get("resources", {}).get("limits", {}) for one in pod["containers"]}
    assert limits["mlserver"]["nvidia.com/gpu"] == "1" and "nvidia.com/gpu" not in limits["rclone"]
    slices = manifest.server_of(state(100, serving={"gpu": 1, "mig": "1g.10gb"}), "1", SETTINGS, OWNER)
    (main,) = (one for one in slices["spec"]["podSpec"]["containers"] if one["name"] == "mlserver")
    assert main["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == "1"
    plain = manifest.server_of(state(100), "1", SETTINGS, OWNER)["spec"]["podSpec"]
    assert not plain.keys() & {"nodeSelector", "tolerations", "runtimeClassName"}


def test_a_model_that_does_not_go_says_who_holds_it() -> None:
    metadata = {"name": "visits-v2", "deletionTimestamp": "t", "finalizers": ["seldon.model.finalizer"]}
    assert "former visits-v2 is still being deleted, and waits for seldon.model.finalizer" in status.told(
        {"metadata": metadata, "status": {"conditions": []}}
    )
    assert status.told({"metadata": {"name": "visits-v2"}}) == ""


def test_the_page_names_the_rights_that_a_release_needs() -> None:
    """DEMAND OPS-4"""
    page = (Path(__file__).parents[2] / "docs/reference/seldon-core2.md").read_text(encoding="utf-8")
    section = page.split("\n## Permissions\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    told = {
        (resource.partition(".")[0], verb)
        for cells in rows
        for resource in re.findall(r"`([\w./]+)`", cells[1])
        for verb in re.findall(r"`(\w+)`", cells[2])
        if verb != "following"  # the call that needs ``watch``
    }
    assert told == {(one.resource, verb) for one in rights.RELEASES_CORE2.rights for verb in one.verbs}
    kinds = needed(SETTINGS)
    asked = {(kind.plural, verb) for kind, verbs in kinds.items() for verb in (*verbs, "list")}
    assert asked <= told


def test_settings_say_which_api(tmp_path: Path) -> None:
    plain = {"image": "i", "registry": "r", "kubeconfig": "/k", "namespace": "models"}
    found = Seldon.of({**plain, "api": "core2", "mesh": "mesh:8080"})
    assert isinstance(found, Core2) and (found.mesh, found.access.namespace) == ("mesh:8080", "models")
    assert isinstance(backend_of(found), Core2Backend)
    for one in (plain, {**plain, "api": "core1"}):
        backend = backend_of(Seldon.of(one))
        assert isinstance(backend, SeldonBackend) and not isinstance(backend, Core2Backend)
    file = tmp_path / "seldon.toml"
    file.write_text('api = "core2"\nimage = "i"\nregistry = "r"\n')
    assert isinstance(Seldon.read(file), Core2)
    for wrong, message in (
        ({"api": "core3"}, "api is 'core3'"),
        ({"api": "core1", "mesh": "mesh:80"}, "unknown mesh"),
        ({"api": "core2", "mesh": "mesh"}, "mesh is 'mesh'"),
        ({"api": "core2", "logger": "http://x"}, "logger cannot be set for Core 2"),
        ({"api": "core2", "collector": "http://x", "collector_rows": "logger"}, "which Core 2 cannot"),
        ({"api": "core2", "autoscaler": "keda"}, "scales Models and Servers itself"),
    ):
        with pytest.raises(DescriptionError, match=message):
            Seldon.of(plain | wrong)
