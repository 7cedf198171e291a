"""The doctor and its table of rights, asked of a real API server; ``make test-kubernetes``.

The user is a real service account with a real token, given exactly what the table says, and then less.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from windtunnel.errors import ConflictError, ForbiddenError
from windtunnel.kube import rights
from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import LIMIT_RANGE, POD, SECRET, SERVICE, Kind
from windtunnel.serving.seldon import Seldon
from windtunnel.stack.clusterdoctor import Cluster, examine, needs
from windtunnel.stack.finding import Finding

pytestmark = pytest.mark.kubernetes

_RBAC = "rbac.authorization.k8s.io"
ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount")
ROLE, BINDING = Kind(_RBAC, "v1", "roles", "Role"), Kind(_RBAC, "v1", "rolebindings", "RoleBinding")
QUOTA = Kind("", "v1", "resourcequotas", "ResourceQuota")
_RANGES: list[tuple[str, str, dict[str, str], str, str]] = [
    ("Container", "max", {"memory": "256Mi"}, "fail", "maximum memory usage per Container is 256Mi"),
    ("Container", "min", {"cpu": "200m"}, "fail", "minimum cpu usage per Container is 200m"),
    ("Container", "maxLimitRequestRatio", {"memory": "1"}, "ok", ""),
    ("Container", "default", {"cpu": "3"}, "warn", ""),
    ("Pod", "max", {"ephemeral-storage": "1Gi"}, "fail", "maximum ephemeral-storage usage per Pod is 1Gi"),
]


@pytest.fixture
def given(client: Client, tmp_path: Path) -> Iterator[Callable[[list[dict[str, list[str]]]], Access]]:
    """Access of a service account with just these rules."""
    name = f"doctor-{uuid.uuid4().hex[:8]}"
    meta = {"metadata": {"name": name}}
    client.create(ACCOUNT, {"apiVersion": "v1", "kind": "ServiceAccount", **meta})
    subject = {"kind": "ServiceAccount", "name": name, "namespace": client.namespace}
    role = {"apiGroup": _RBAC, "kind": "Role", "name": name}
    binding = {"apiVersion": f"{_RBAC}/v1", "kind": "RoleBinding", **meta, "roleRef": role, "subjects": [subject]}
    client.create(BINDING, binding)
    settings = client._connected().configuration
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    answer = client._ask("POST", ACCOUNT.path(client.namespace, name, "token"), body=asked, doing="ask for a token")
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": settings.host, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "it", "user": {"token": answer.body["status"]["token"]}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": client.namespace}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))

    def give(rules: list[dict[str, list[str]]]) -> Access:
        client.apply(ROLE, {"apiVersion": f"{_RBAC}/v1", "kind": "Role", **meta, "rules": rules})
        return Access(str(path))

    yield give
    for kind in (BINDING, ROLE, ACCOUNT):
        client.delete(kind, name)


def looked(access: Access, **more: Any) -> dict[str, Finding]:
    return {one.name: one for one in examine(Cluster(access, **more))}


_ALL = rights.PARTS | rights.PARTS_CORE2


@pytest.mark.parametrize("part", _ALL.values(), ids=list(_ALL))
def test_the_table_is_enough_and_one_verb_less_is_seen(
    given: Callable[[list[dict[str, list[str]]]], Access], part: rights.Part
) -> None:
    name, rules = f"rights of {part.name}", rights.rules(part)
    access = given(rules)
    # What is optional is told as such; a role of the namespace cannot give what is asked of the whole cluster.
    expected = "warn" if any(right.everywhere for right in part.rights) else "ok"
    until(lambda: looked(access, parts=(part.name,)).get(name, Finding("", "fail", "")).result == expected, 60)
    must = {right.resource for right in part.rights if not right.optional}
    last = next(rule for rule in reversed(rules) if rule["resources"][0] in must)
    others = [rule for rule in rules if rule is not last]
    given([*others, {**last, "verbs": last["verbs"][:-1]}] if last["verbs"][1:] else others)
    until(lambda: looked(access, parts=(part.name,))[name].result == "fail", 60)
    found = looked(access, parts=(part.name,))[name]
    assert f"may not {last['verbs'][-1]} {last['resources'][0]}" in found.found
    assert f"--verb={last['verbs'][-1]} --resource={last['resources'][0]}" in found.mend


def test_a_restricted_user_learns_what_cannot_be_looked_at(
    given: Callable[[list[dict[str, list[str]]]], Access], client: Client
) -> None:
    access = given([])
    found = looked(access, parts=("guard",))
    assert found["context"].result == found["api"].result == found["clock"].result == "ok"
    assert found["rights of guard"].result == "fail"
    assert {found[name].result for name in ("namespace", "quotas", "gpus", "storage classes")} == {"warn"}
    assert found["Seldon Core 2"].result in ("ok", "warn"), "discovery is everybody's"
    config = json.loads(Path(str(access.kubeconfig)).read_text())
    config["users"][0]["user"]["token"] = "not.a.token"
    Path(str(access.kubeconfig)).write_text(json.dumps(config))
    refused = looked(access)
    assert refused["reached"].result == "fail" and "log in again" in refused["reached"].mend


def test_who_administers_looks_for_an_account(
    given: Callable[[list[dict[str, list[str]]]], Access], access: Access, client: Client
) -> None:
    given(rights.rules(rights.GUARD))
    (account,) = [
        one["metadata"]["name"]
        for one in client.list(ACCOUNT)["items"]
        if one["metadata"]["name"].startswith("doctor-")
    ]
    user = f"system:serviceaccount:{client.namespace}:{account}"

    def result(part: str) -> str:
        return looked(access, user=user, parts=(part,))[f"rights of {part}"].result

    until(lambda: result("guard") == "ok", 60)
    assert result("releases") == "fail", "it may create nothing"


def test_what_limits_do_to_our_pods_as_the_real_one_does_it(access: Access, client: Client) -> None:
    """The doctor says so exactly where the API refuses the pod of a server, or writes something into it."""
    try:  # without controllers nobody makes the default one
        client.create(ACCOUNT, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})
    except ConflictError:
        pass
    [server] = needs.pods(Cluster(access, parts=("releases",)), client.namespace)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "server"}, "spec": server.spec}
    written: dict[str, Any] = {}

    def says() -> str:
        """The API's words; empty where it takes the pod."""
        try:
            answer = client._ask("POST", POD.path(client.namespace), {"dryRun": "All"}, pod, doing="try a pod")
        except ForbiddenError as error:
            return error.message
        written.update(answer.body["spec"]["containers"][0]["resources"]["limits"])
        return ""

    for kind, bound, amounts, result, words in _RANGES:
        limit = {"spec": {"limits": [{"type": kind, bound: amounts}]}}
        client.create(LIMIT_RANGE, {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "team"}, **limit})
        try:
            if words:  # an API server hears of it a moment later
                until(lambda words=words: words in says(), 90)
            elif bound == "default":
                until(lambda amounts=amounts: not says() and amounts.items() <= written.items(), 90)
            else:
                until(lambda: not says(), 90)
            found = looked(access, parts=("releases",))["limits team"]
            assert found.result == result, found
        finally:
            client.delete(LIMIT_RANGE, "team")


def test_a_collector_that_is_not_there_as_the_real_one_tells_it(access: Access, client: Client) -> None:
    seldon = Seldon(
        image="i", registry="http://r", collector=f"http://wt-nobody.{client.namespace}.svc:8080",
        collector_secret="wt-token",
    )  # fmt: skip
    found = looked(access, parts=("guard",), seldon=seldon)
    assert found["collector"].found == f"there is no service wt-nobody of namespace {client.namespace}"
    assert "there is no Secret wt-token" in found["collector token"].found
    service = {"metadata": {"name": "wt-nobody"}, "spec": {"ports": [{"port": 8080}], "selector": {"app": "nobody"}}}
    client.create(SERVICE, {"apiVersion": "v1", "kind": "Service", **service})
    client.create(
        SECRET, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wt-token"}, "data": {"token": "eA=="}}
    )
    try:
        until(lambda: "nobody answers" in looked(access, parts=("guard",), seldon=seldon)["collector"].found, 60)
        assert looked(access, parts=("guard",), seldon=seldon)["collector token"].result == "ok"
    finally:
        client.delete(SERVICE, "wt-nobody")
        client.delete(SECRET, "wt-token")


def test_namespace_and_quota_as_the_real_one_tells_them(access: Access, client: Client) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": {"hard": {"pods": "5"}}}
    client.create(QUOTA, quota)
    client.patch(QUOTA, "team", {"status": {"hard": {"pods": "5"}, "used": {"pods": "5"}}}, "status")
    try:
        found = looked(access)
        assert found["namespace"].found == client.namespace
        assert found["pod security"].result == "warn"
        # A controller that counts may have counted by now.
        assert found["quota team"].result in ("ok", "fail") and " of 5" in found["quota team"].found
    finally:
        client.delete(QUOTA, "team")
    gone = looked(Access(access.kubeconfig, namespace="windtunnel-nowhere"))
    assert "kubectl create namespace windtunnel-nowhere" in gone["namespace"].mend
