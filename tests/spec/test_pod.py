"""``training.pod`` and the resources of pods: what is refused, at which line; what is said where it does not count."""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import Any

import pytest

from windtunnel.spec import Model, Pod, Resources, Toleration, Volume, load
from windtunnel.spec.mistakes import DescriptionWarning, InvalidDescription

PLAIN: dict[str, Any] = {
    "name": "sea",
    "owner": "tides",
    "target": "kubernetes",
    "data": {"source": "a.csv", "time": "t", "target": "y", "features": ["x"]},
    "training": {
        "entry_point": "sea.model:train",
        "resources": {"cpu": 8, "memory": "64Gi", "gpu": 2, "mig": "3g.40gb", "shared_memory": "8Gi"},
        "pod": {
            "image": "registry.example.com/sea/trainer@sha256:" + "0" * 64,
            "pull_secrets": ["registry"],
            "node_selector": {"topology.kubernetes.io/zone": "eu-1a"},
            "tolerations": [{"key": "team", "value": "sea", "effect": "NoExecute", "within": "1h"}],
            "volumes": [{"path": "/data", "claim": "sea-data"}, {"path": "/etc/sea", "config_map": "sea"}],
            "secrets": {"MLFLOW_TRACKING_TOKEN": "mlflow/token"},
            "cost_centre": "tides-42",
            "spot": "karpenter",
        },
    },
}


def with_pod(**pod: Any) -> dict[str, Any]:
    return {**PLAIN, "training": {**PLAIN["training"], "pod": pod}}


def test_a_pod_survives_yaml() -> None:
    """DEMAND TRN-1"""
    model = Model.model_validate(PLAIN)
    assert model.training.pod is not None
    assert model.training.pod.tolerations == [
        Toleration(key="team", value="sea", effect="NoExecute", within=timedelta(hours=1))
    ]
    assert model.training.resources.shared_memory == 8 * 2**30
    assert load.loads(load.dumps(model)) == model


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        ({"image": "https://registry/x"}, "expected an image"),
        ({"image": "two words"}, "expected an image"),
        ({"namespace": "Team_A"}, "expected a namespace"),
        ({"service_account": "My Account"}, "expected the name of a Kubernetes object"),
        ({"pull_secrets": ["-x"]}, "expected the name of a Secret"),
        ({"labels": {"windtunnel.dev/model": "other"}}, "set by the platform"),
        ({"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}, "set by the platform"),
        ({"labels": {"team": "a b"}}, "at most 63"),
        ({"labels": {"team": "x" * 64}}, "at most 63"),
        ({"labels": {"a/b/c": "x"}}, "expected a label's key"),
        ({"annotations": {"windtunnel.dev/run-id": "x"}}, "set by the platform"),
        ({"cost_centre": "-"}, "at most 63"),
        ({"node_selector": {"zone": "a/b"}}, "at most 63"),
        ({"affinity": {"nodeAfinity": {}}}, "nodeAffinity, podAffinity, podAntiAffinity"),
        ({"affinity": {"nodeAffinity": []}}, "expected keys with values"),
        ({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}, "Exists compares no value"),
        ({"tolerations": [{"value": "b"}]}, "Equal needs key"),
        ({"tolerations": [{"key": "a", "within": "1m"}]}, "NoExecute only"),
        ({"spot": "azure"}, "expected 'eks', 'karpenter', 'gke' or 'aks'"),
        ({"volumes": [{"path": "data", "claim": "a"}]}, "absolute path"),
        ({"volumes": [{"path": "/", "claim": "a"}]}, "absolute path"),
        ({"volumes": [{"path": "/data/../etc", "claim": "a"}]}, "absolute path"),
        ({"volumes": [{"path": "/windtunnel/runs", "claim": "a"}]}, "is taken"),
        ({"volumes": [{"path": "/data"}]}, "found none"),
        ({"volumes": [{"path": "/data", "claim": "a", "secret": "b"}]}, "found claim, secret"),
        ({"volumes": [{"path": "/data", "secret": "b", "read_only": False}]}, "read-only"),
        ({"volumes": [{"path": "/data", "claim": "a", "below": "../x"}]}, "relative to the volume"),
        ({"volumes": [{"path": "/d", "claim": "a"}, {"path": "/d/", "claim": "b"}]}, "two volumes"),
        ({"secrets": {"WINDTUNNEL_RUN_ID": "a/b"}}, "other than WINDTUNNEL_"),
        ({"user": 0}, "greater than or equal to 1"),
        ({"host_network": True}, "unknown key"),
        ({"start_within": "soon"}, "expected a duration"),
    ],
)
def test_what_is_refused(pod: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidDescription, match="not a valid") as error:
        load.loads(load.dumped(with_pod(**pod)), "sea.yaml")
    assert said in str(error.value)
    assert "sea.yaml:" in str(error.value) and "training.pod" in str(error.value)


def test_a_mistake_names_its_own_line() -> None:
    """DEMAND PIP-1"""
    text = load.dumped(with_pod(image="a", volumes=[{"path": "/data", "claim": "a"}, {"path": "/tmp/x", "claim": "b"}]))
    line = next(at for at, each in enumerate(text.splitlines(), 1) if "/tmp/x" in each)
    with pytest.raises(InvalidDescription) as error:
        load.loads(text, "sea.yaml")
    assert [mistake.path for mistake in error.value.mistakes] == [("training", "pod", "volumes", 1)]
    assert abs((error.value.mistakes[0].line or 0) - line) <= 1


def test_a_secret_written_where_its_name_belongs_is_not_repeated() -> None:
    """DEMAND OPS-6: an error message goes to logs and screens."""
    with pytest.raises(InvalidDescription) as error:
        Pod(secrets={"TOKEN": "s3cr3t-value-of-the-token"})
    assert "SECRET/KEY" in str(error.value)
    assert "s3cr3t" not in str(error.value)


@pytest.mark.parametrize("bad", ["40gb", "1g", "0g.5gb", "1g.5gb+x", "nvidia.com/mig-1g.5gb"])
def test_a_mig_profile_has_its_form(bad: str) -> None:
    with pytest.raises(InvalidDescription, match="mig"):
        Resources(gpu=1, mig=bad)


def test_slices_without_a_number_are_refused() -> None:
    with pytest.raises(InvalidDescription, match="needs gpu"):
        Resources(mig="1g.10gb")


def test_what_does_not_count_locally_is_said() -> None:
    """DEMAND TRN-1: one description for both targets; what a target does not use is no silent no-op."""
    with pytest.warns(DescriptionWarning, match=r"training\.pod, training\.resources\.mig, .*shared_memory"):
        Model.model_validate({**PLAIN, "target": "local"})
    with pytest.warns(DescriptionWarning, match=r"training\.pod is for"):
        Model.model_validate({**with_pod(image="a"), "training": {"entry_point": "a:b", "pod": {}, "target": "local"}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Model.model_validate(PLAIN)
        Model.model_validate({**PLAIN, "target": "local", "training": {**PLAIN["training"], "target": "kubernetes"}})


def test_a_volume_says_what_it_is() -> None:
    assert Volume(path="/data", claim="a", read_only=False).claim == "a"


def test_what_a_trainjob_cannot_say_is_refused_when_the_dag_is_parsed() -> None:
    """DEMAND TRN-4: with the runtime's field that says it; where it makes no nodes, it says nothing but that."""
    by = {"runtime": "windtunnel-torch"}
    theirs = {"pull": "Always", "priority_class": "p", "runtime_class": "nvidia", "secrets_from": ["a"]}
    many = with_pod(image="a", trainjob=by, **theirs)
    many["training"]["nodes"] = 4
    with pytest.raises(InvalidDescription, match="imagePullPolicy of container node in the runtime") as error:
        Model(**many)
    assert {mistake.path for mistake in error.value.mistakes} == {("training", "pod", key) for key in theirs}
    one = with_pod(image="a", trainjob=by, **theirs)
    one["steps"] = [{"name": "s", "run": "a:b", "target": "kubernetes", "pod": {"image": "a", "trainjob": by}}]
    with pytest.warns(DescriptionWarning, match=r"steps\.s\.pod\.trainjob, training\.pod\.trainjob is for a training"):
        Model.model_validate(one)
    with pytest.raises(InvalidDescription, match="name of a training runtime"):
        Pod(trainjob={"runtime": "Torch"})
