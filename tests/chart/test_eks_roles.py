"""Roles of EKS: each pod that asks the object store has the annotated service account, and may ask for its role."""

from __future__ import annotations

from typing import Any

import pytest

ARN = "arn:aws:iam::123456789012:role/"
ANNOTATION = "eks.amazonaws.com/role-arn"


def _given(helpers: Any, **more: Any) -> dict[str, Any]:
    roles = {
        part: {"serviceAccount": {"annotations": {ANNOTATION: f"{ARN}{part}"}}}
        for part in ("registry", "collector", "training")
    }
    rest = {
        "collector": {"enabled": True, "to": "s3://models/predictions", "namespaces": ["models"]},
        "training": {"moreNamespaces": ["more"]},
        "guard": {"enabled": True, "namespace": "models", "modelServer": "a/b:1"},
        "releases": {"enabled": True, "namespace": "models"},
    }
    return dict(helpers.merged(helpers.merged(helpers.merged(helpers.preset("eks"), roles), rest), more))


def test_the_annotation_reaches_every_pod_that_asks_the_store(helpers: Any) -> None:
    """DEMAND TRN-2, OPS-2: and no other pod has a role; there is no key beside it, which boto3 would take first."""
    from windtunnel.spec import Pod
    from windtunnel.tracking.contract import RunSpec
    from windtunnel.tracking.pods.manifest import Place, training_pod

    objects = helpers.render(_given(helpers))
    accounts = {
        (one["metadata"].get("namespace", "ml"), one["metadata"]["name"]): one["metadata"].get("annotations", {})
        for one in objects
        if one["kind"] == "ServiceAccount"
    }
    roles = {where: found[ANNOTATION].removeprefix(ARN) for where, found in accounts.items() if ANNOTATION in found}
    assert roles == {
        ("ml", "wt-registry"): "registry", ("ml", "wt-collector"): "collector",
        ("windtunnel-training", "windtunnel-training"): "training", ("more", "windtunnel-training"): "training",
    }  # fmt: skip
    used = {name: pod["serviceAccountName"] for name, pod in helpers.pods(objects)}
    assert used["Deployment/wt-registry"] == "wt-registry" and used["StatefulSet/wt-collector"] == "wt-collector"
    variables = {
        variable["name"]
        for _, pod in helpers.pods(objects)
        for container in pod["containers"]
        for variable in container.get("env", [])
    }
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} & variables
    asked = Pod(image="here", service_account="windtunnel-training", namespace="windtunnel-training")
    made = training_pod(RunSpec("r", "sea", "a:b"), asked, Place(["python"]))
    assert (made["metadata"]["namespace"], made["spec"]["serviceAccountName"]) in roles
    # The role's token is a volume of its own, which EKS adds; the cluster's is not mounted.
    assert made["spec"]["automountServiceAccountToken"] is False
    # EKS' webhook leaves alone what is set already.
    env = {one["name"] for one in made["spec"]["containers"][0]["env"]}
    assert not {name for name in env if name.startswith("AWS_")}


@pytest.mark.parametrize(
    ("listen", "agent"), [("0.0.0.0", "169.254.170.23/32"), ("::", "fd00:ec2::23/128")], ids=["IPv4", "IPv6"]
)
@pytest.mark.parametrize("asked", [True, False])
def test_pods_may_ask_the_agent_of_pod_identity(helpers: Any, asked: bool, listen: str, agent: str) -> None:
    """And nobody the node's own role."""
    objects = helpers.render(_given(helpers, listen=listen, networkPolicy={"podIdentity": asked}))
    for name, may in (("wt-registry", True), ("wt-collector", True), ("wt-guard", False)):
        rules = helpers.of(objects, "NetworkPolicy", name)["spec"]["egress"]
        found = [rule["ports"] for rule in rules if {"ipBlock": {"cidr": agent}} in rule.get("to", [])]
        assert found == ([[{"port": 80, "protocol": "TCP"}]] if may and asked else []), name
        blocks = [one["ipBlock"] for rule in rules for one in rule.get("to", []) if "ipBlock" in one]
        assert sum(block["cidr"].startswith(("169.254.", "fd00:ec2:")) for block in blocks) == len(found)
    outside = helpers.of(objects, "NetworkPolicy", "wt-registry")["spec"]["egress"]
    (block,) = [one for rule in outside if {"port": 443, "protocol": "TCP"} in rule["ports"] for one in rule["to"]]
    assert block["ipBlock"]["except"] == ["169.254.169.254/32"]
