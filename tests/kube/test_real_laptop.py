"""What ``windtunnel cluster demo`` gives to ``kubectl``, given to a real API server; ``make test-kubernetes``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from windtunnel.errors import ConflictError, ForbiddenError
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import CONFIG_MAP, NAMESPACE, POD, SECRET, SERVICE, Kind
from windtunnel.stack.laptop import Laptop, demo, objects, secrets

pytestmark = pytest.mark.kubernetes
LAPTOP = Laptop("kind", "windtunnel", Path(__file__).parents[2], demo=True)
_RBAC = "rbac.authorization.k8s.io"
ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount")
KINDS = {
    one.name: one
    for one in (
        ACCOUNT,
        CONFIG_MAP,
        SECRET,
        SERVICE,
        Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
        Kind("apps", "v1", "deployments", "Deployment"),
        Kind("batch", "v1", "jobs", "Job"),
        Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
        Kind(_RBAC, "v1", "roles", "Role"),
        Kind(_RBAC, "v1", "rolebindings", "RoleBinding"),
    )
}
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def manifests(namespace: str) -> list[dict[str, Any]]:
    image = demo.airflow_image(LAPTOP)
    made = objects.all_of_the_demo(namespace, image, demo.dag_file(LAPTOP))
    made.append(objects.callers(namespace, image, demo.inference_url(), demo.RATE))
    made.append(objects.keys(namespace, {"keys.json": "{}"}))
    return [*json.loads(secrets.demo(namespace, "word"))["items"], *made]


def test_all_of_it_is_taken_twice_in_a_restricted_namespace(client: Client) -> None:
    """DEMAND OPS-6: as it is, and once more, as a second 'cluster demo' gives it; its pods too are let in."""
    client.patch(NAMESPACE, client.namespace, {"metadata": {"labels": RESTRICTED}})
    found = manifests(client.namespace)
    for _, one in ((turn, one) for turn in range(2) for one in found):
        live = client.apply(KINDS[one["kind"]], one)
        assert _holds(live, one), (one["kind"], one["metadata"]["name"])
    try:  # where no controller makes it
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        client.create(ACCOUNT, account)
    except ConflictError:
        pass
    templates = {one["metadata"]["name"]: one["spec"]["template"] for one in found if "template" in one.get("spec", {})}
    assert len(templates) == 4
    for name, template in templates.items():
        spec = {"restartPolicy": "Always", **template["spec"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"try-{name}"}, "spec": spec}
        client.create(POD, pod)
        open_ = {**spec, "containers": [{**spec["containers"][0], "securityContext": {"privileged": True}}]}
        with pytest.raises(ForbiddenError, match="restricted"):
            client.create(POD, {**pod, "metadata": {"name": f"open-{name}"}, "spec": open_})
        client.delete(POD, f"try-{name}", grace_s=0)
        until(lambda name=name: client.get(POD, f"try-{name}") is None, 30)  # type: ignore[misc]


def _holds(live: Any, asked: Any) -> bool:
    """Whether what was asked for is in what there is; nothing was pruned."""
    if isinstance(asked, dict):
        if asked.get("kind") == "Secret":
            asked = {key: value for key, value in asked.items() if key != "stringData"}
        return isinstance(live, dict) and all(key in live and _holds(live[key], asked[key]) for key in asked)
    if isinstance(asked, list):
        return isinstance(live, list) and len(live) == len(asked) and all(map(_holds, live, asked))
    return bool(live == asked)
