"""The manifest of a training pod: golden files, Kubernetes' own schema, Pod Security, names that always fit."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.data.steps import Output
from windtunnel.errors import DescriptionError
from windtunnel.spec import Pod, Toleration, Volume
from windtunnel.tracking.contract import RunSpec
from windtunnel.tracking.pods import naming
from windtunnel.tracking.pods.manifest import Place, training_pod

CASES = Path(__file__).parent / "cases"
IMAGE = "registry.example.com/sea/trainer@sha256:" + "ab" * 32
PLACE = Place(command=["python", "-m", "sea"], namespace="airflow")
LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def run(**more: Any) -> RunSpec:
    fields: dict[str, Any] = {
        "run_id": "0f" * 16,
        "model": "sea",
        "entry_point": "sea.model:train",
        "resources": {"cpu": 1.0, "memory": 2 * 2**30, "disk": 10 * 2**30, "gpu": 0, "gpu_type": None},
        "correlation_id": "sea-7",
        "cause": "drift",
        "description_digest": "sha256:" + "1" * 64,
        "inputs": {"rows": Output("rows", Path("/somewhere/rows.parquet"), "sha256:" + "2" * 64, 2**20)},
        **more,
    }
    return RunSpec(**fields)


def small() -> dict[str, Any]:
    return training_pod(run(), Pod(image=IMAGE), PLACE)


def large() -> dict[str, Any]:
    """Everything a description can say of a pod."""
    asked = {
        "cpu": 15.5, "memory": 200 * 2**30, "disk": 500 * 2**30, "gpu": 4, "gpu_type": "NVIDIA-H200",
        "mig": None, "shared_memory": 32 * 2**30,
    }  # fmt: skip
    pod = Pod(
        image=IMAGE,
        pull="Always",
        pull_secrets=["registry", "mirror"],
        namespace="training",
        service_account="sea-trainer",
        priority_class="batch-high",
        runtime_class="nvidia",
        node_selector={"topology.kubernetes.io/zone": "eu-central-1a"},
        affinity={
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"labelSelector": {"matchLabels": {"team": "sea"}}, "topologyKey": "kubernetes.io/hostname"}
                ]
            }
        },
        tolerations=[
            Toleration(key="team", value="sea", effect="NoSchedule"),
            Toleration(
                key="node.kubernetes.io/unreachable", operator="Exists", effect="NoExecute", within=timedelta(minutes=5)
            ),
        ],
        spot="gke",
        volumes=[
            Volume(path="/data", claim="sea-data", below="2026"),
            Volume(path="/cache", claim="sea-cache", read_only=False),
            Volume(path="/etc/sea/tls", secret="sea-tls"),
            Volume(path="/etc/sea/conf", config_map="sea-conf"),
        ],
        secrets={"MLFLOW_TRACKING_PASSWORD": "mlflow/password", "AWS_SECRET_ACCESS_KEY": "s3/secret"},
        secrets_from=["sea-env"],
        labels={"team": "sea"},
        annotations={"example.com/contact": "sea@example.com"},
        cost_centre="tides-42",
        user=10001,
        group=10002,
    )
    place = Place(
        command=PLACE.command, namespace="airflow", attempt=3, variables={"AWS_ENDPOINT_URL_S3": "https://s3.example.com"},
        secrets={"MLFLOW_TRACKING_USERNAME": "mlflow/user"},
    )  # fmt: skip
    spec = run(
        resources=asked, time_limit=timedelta(hours=12).total_seconds(), tracking_uri="https://mlflow.example.com"
    )
    return training_pod(spec, pod, place)


def slices() -> dict[str, Any]:
    asked = {"cpu": 4, "memory": 2**34, "disk": 2**34, "gpu": 2, "mig": "1g.10gb"}
    return training_pod(run(resources=asked), Pod(image=IMAGE, spot="eks"), PLACE)


GOLDEN = {"pod-small": small, "pod-large": large, "pod-slices": slices}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_manifest_changes_only_on_purpose(name: str) -> None:
    """On purpose: ``python tests/kube/test_training_pod.py`` writes the new ones."""
    made = GOLDEN[name]()
    assert made == json.loads((CASES / f"{name}.json").read_text())
    assert made == GOLDEN[name](), "the same arguments give the same manifest"


@pytest.mark.parametrize("name", GOLDEN)
def test_kubernetes_knows_every_field(name: str) -> None:
    """DEMAND TRN-1: against the API's published schema, and through the official client's models."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    from kubernetes.client import ApiClient

    made = GOLDEN[name]()
    kubernetes_validate.validate(made, "1.31", strict=True)
    client = ApiClient()

    class Answer:
        data = json.dumps(made)

    known = client.sanitize_for_serialization(client.deserialize(Answer(), "V1Pod"))
    assert known == made, "the client's models drop what they do not know"


def test_a_pod_is_told_whose_certificates_to_believe() -> None:
    """DEMAND OPS-10: of the MLflow server and the object store, by Secrets; one that both name is there once."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for store, there in (("store-ca", ["store-ca", "windtunnel-ca"]), ("windtunnel-ca", ["windtunnel-ca"])):
        named = {"MLFLOW_TRACKING_SERVER_CERT_PATH": "windtunnel-ca", "AWS_CA_BUNDLE": store}
        made = training_pod(run(), Pod(image=IMAGE), replace(PLACE, authorities=named))
        kubernetes_validate.validate(made, "1.31", strict=True)
        [container] = made["spec"]["containers"]
        files = {one["name"]: one["value"] for one in container["env"] if one["name"] in named}
        mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
        volumes = {one["name"]: one["secret"] for one in made["spec"]["volumes"] if "secret" in one}
        found = {name: volumes[mounts[path.removesuffix("/ca.crt")]]["secretName"] for name, path in files.items()}
        assert found == named
        assert sorted(one["secretName"] for one in volumes.values()) == there
        only = [{"key": "ca.crt", "path": "ca.crt"}]
        assert all(one["items"] == only for one in volumes.values()), "no key of a server's"


@pytest.mark.parametrize("name", GOLDEN)
def test_pod_security_restricted(name: str) -> None:
    """DEMAND TRN-2: every control of the standard's profile "restricted" that concerns such a pod."""
    made = GOLDEN[name]()
    spec = made["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & spec.keys()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"].get("runAsUser", 1) != 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    allowed = {"name", "emptyDir", "persistentVolumeClaim", "secret", "configMap"}
    assert all(volume.keys() <= allowed for volume in spec["volumes"])
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["privileged"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert "hostPort" not in json.dumps(container)


@pytest.mark.parametrize("name", GOLDEN)
def test_what_it_asks_for_is_what_it_may_use(name: str) -> None:
    """DEMAND TRN-2"""
    spec = GOLDEN[name]()["spec"]
    for container in spec["containers"]:
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["restartPolicy"] == "Never"


def limits(made: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = made["spec"]["containers"][0]["resources"]["limits"]
    return found


def test_memory_holds_the_training_its_shared_memory_and_its_watch() -> None:
    plain, shared = (
        small(),
        training_pod(run(resources={"memory": 2 * 2**30, "shared_memory": 2**30}), Pod(image=IMAGE), PLACE),
    )
    assert int(limits(plain)["memory"]) > 2 * 2**30
    assert int(limits(shared)["memory"]) - int(limits(plain)["memory"]) == 2**30
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(2**30)}} in shared["spec"]["volumes"]


def test_inputs_have_their_own_disk() -> None:
    rows = Output("rows", Path("/rows"), "sha256:" + "2" * 64, 7 * 2**30)
    more = training_pod(run(inputs={"rows": rows}), Pod(image=IMAGE), PLACE)
    assert int(limits(more)["ephemeral-storage"]) - int(limits(small())["ephemeral-storage"]) == 7 * 2**30 - 2**20


def test_gpus_by_type_and_by_slice() -> None:
    """DEMAND TRN-1"""
    assert limits(large())["nvidia.com/gpu"] == "4"
    assert large()["spec"]["nodeSelector"]["nvidia.com/gpu.product"] == "NVIDIA-H200"
    assert limits(slices())["nvidia.com/mig-1g.10gb"] == "2"
    assert "nvidia.com/gpu" not in limits(slices())


@pytest.mark.parametrize(
    ("spot", "label", "tainted"),
    [("eks", "eks.amazonaws.com/capacityType", False), ("karpenter", "karpenter.sh/capacity-type", False),
     ("gke", "cloud.google.com/gke-spot", True), ("aks", "kubernetes.azure.com/scalesetpriority", True)],
)  # fmt: skip
def test_spot_by_platform(spot: str, label: str, tainted: bool) -> None:
    spec = training_pod(run(), Pod(image=IMAGE, spot=spot), PLACE)["spec"]  # type: ignore[arg-type]
    assert label in spec["nodeSelector"]
    assert (label in {each["key"] for each in spec.get("tolerations", [])}) is tainted


def test_the_deadline_is_behind_the_time_limit() -> None:
    pod = Pod(image=IMAGE, start_within=timedelta(minutes=40))
    deadline = training_pod(run(time_limit=100.5), pod, PLACE)["spec"]["activeDeadlineSeconds"]
    # Delivering may take 300 s; and the kubelet counts from when it hears of the pod, before it fetches the image.
    assert isinstance(deadline, int) and deadline > 40 * 60 + 100.5 + 300


def test_secrets_are_references_only() -> None:
    """DEMAND OPS-6"""
    for variable in large()["spec"]["containers"][0]["env"]:
        if variable["name"] in ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_USERNAME"):
            assert "value" not in variable and "secretKeyRef" in variable["valueFrom"]


def test_a_secret_cannot_take_the_place_of_what_the_run_sets() -> None:
    with pytest.raises(DescriptionError, match="MLFLOW_RUN_ID"):
        training_pod(run(tracking_uri="http://x"), Pod(image=IMAGE, secrets={"MLFLOW_RUN_ID": "a/b"}), PLACE)


def test_the_place_cannot_change_the_contract() -> None:
    place = Place(command=["x"], variables={"WINDTUNNEL_RUN_ID": "another"})
    made = training_pod(run(), Pod(image=IMAGE), place)["spec"]["containers"][0]["env"]
    assert [each["value"] for each in made if each["name"] == "WINDTUNNEL_RUN_ID"] == ["0f" * 16]


def test_no_image_no_pod() -> None:
    with pytest.raises(DescriptionError, match=r"training\.pod\.image"):
        training_pod(run(), Pod(), PLACE)


def test_a_type_of_gpu_without_a_gpu_is_refused() -> None:
    with pytest.raises(DescriptionError, match="gpu is 0"):
        training_pod(run(resources={"gpu": 0, "gpu_type": "NVIDIA-H200"}), Pod(image=IMAGE), PLACE)


@given(st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_text_becomes_a_label(text: str) -> None:
    value = naming.label_value(text)
    assert len(value) <= 63 and LABEL.fullmatch(value)
    if value == text:
        assert len(text) <= 63


@given(st.text("ab-_./é ", min_size=0, max_size=90), st.text("ab-_./é ", min_size=0, max_size=90))
@settings(max_examples=300, deadline=None)
def test_no_two_texts_become_one_label(one: str, other: str) -> None:
    assert (naming.label_value(one) == naming.label_value(other)) == (one == other)


@given(
    st.from_regex(r"[a-z][a-z0-9-]{0,39}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,119}", fullmatch=True),
    st.integers(1, 10**6),
)
@settings(max_examples=300, deadline=None)
def test_every_run_has_a_name_that_fits(model: str, run_id: str, attempt: int) -> None:
    """DEMAND PIP-5: the same run and attempt always have the same name, others another."""
    name = naming.pod_name(model, run_id, attempt)
    assert len(name) <= 63 and NAME.fullmatch(name)
    assert name == naming.pod_name(model, run_id, attempt)
    assert name != naming.pod_name(model, run_id, attempt + 1)
    assert name != naming.pod_name(model, f"{run_id}x"[-120:], attempt) or f"{run_id}x"[-120:] == run_id


def test_pods_of_a_run_are_found_by_their_labels() -> None:
    labels = small()["metadata"]["labels"]
    for pair in naming.selector("0f" * 16, 1).split(","):
        key, _, value = pair.partition("=")
        assert labels[key] == value


if __name__ == "__main__":
    CASES.mkdir(exist_ok=True)
    for name, make in GOLDEN.items():
        (CASES / f"{name}.json").write_text(json.dumps(make(), indent=2, sort_keys=True) + "\n")
    sys.exit(0)
