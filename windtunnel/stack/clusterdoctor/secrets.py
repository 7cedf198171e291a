"""What pods are given beside them. Model servers: the registry's user, the keys of signatures, authorities. Trainings:
what their descriptions name, such as the user by whom they log in to MLflow.

Without one of them no pod starts, or none verifies its version: the release waits until ``serving.ready_within``, the
training until ``start_within``. Values are looked at for being there, and never told.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from windtunnel.errors import ForbiddenError
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import CONFIG_MAP, SECRET
from windtunnel.spec import Pod
from windtunnel.stack.clusterdoctor import needs
from windtunnel.stack.clusterdoctor.looking import Cluster
from windtunnel.stack.finding import Finding

PAGE, TRAINING_PAGE = "docs/how-to/release-on-seldon.md", "docs/how-to/train-in-a-pod.md"


def given_to_servers(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """What the settings of Seldon name in the namespace of the models; nothing without settings."""
    seldon = cluster.seldon
    if seldon is None or not {"releases", "releases-core2"} & {*cluster.parts}:
        return
    where = client.namespace
    yield Beside(client, seldon.registry_secret).finding("registry user", ("username", "password"), where)
    if seldon.registry_ca:
        yield Beside(client, seldon.registry_ca).finding("registry authority", "ca.crt", where)
    try:
        yield judge_keys(seldon.keys, client.get(CONFIG_MAP, seldon.keys), where)
    except ForbiddenError as error:
        mend = "without that right it is not looked at; ask somebody who has it to run the doctor"
        yield Finding("registry keys", "warn", error.message, mend)


def given_to_trainings(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """What trainings and steps of the models name in this namespace; nothing of those that name none."""
    if "training" not in cluster.parts:
        return
    for who, pod in needs.described(cluster.models, client.namespace):
        wanted = _wanted(pod)
        if not wanted:
            continue
        name, lacking = f"secrets of {who}", []
        for secret, keys in sorted(wanted.items()):
            found = Beside(client, secret)
            if found.refused:
                mend = "without that right it is not looked at; ask somebody who has it to run the doctor"
                yield Finding(name, "warn", found.refused, mend)
                break
            if found.data is None:
                lacking.append(f"no Secret {secret}")
            elif without := sorted(keys - found.data.keys()):
                lacking.append(f"no {', '.join(without)} in Secret {secret}")
        else:
            if lacking:
                text = f"namespace {client.namespace} has {'; '.join(lacking)}: no pod would start"
                yield Finding(name, "fail", text, f"kubectl -n {client.namespace} create secret ...: {TRAINING_PAGE}")
            else:
                yield Finding(name, "ok", ", ".join(sorted(wanted)))


def _wanted(pod: Pod) -> dict[str, set[str]]:
    """Secret -> its keys that a pod cannot do without. A pull secret that is not there fails the image."""
    out: dict[str, set[str]] = {}
    for place in pod.secrets.values():
        secret, _, key = place.partition("/")
        out.setdefault(secret, set()).add(key)
    mounted = [volume.secret for volume in pod.volumes if volume.secret is not None]
    for secret in (*pod.secrets_from, *pod.pull_secrets, *mounted):
        out.setdefault(secret, set())
    return out


def judge_keys(name: str, item: Mapping[str, Any] | None, namespace: str) -> Finding:
    """Whether pods find whose signatures count.

    Args:
        item: the ConfigMap as the API has it; None: it has none.
    """
    make = f"windtunnel registry keys public {name} | kubectl -n {namespace} apply -f -, where the registry is: {PAGE}"
    if item is None:
        text = f"there is no ConfigMap {name} in namespace {namespace}: model servers would not start"
        return Finding("registry keys", "fail", text, make)
    found = item.get("data") or {}
    if not found.get("keys.json") or not any(key.endswith(".pem") for key in found):
        text = f"ConfigMap {name} has no keys.json, or no KEYID.pem: no version's signature would count"
        return Finding("registry keys", "fail", text, make)
    return Finding("registry keys", "ok", f"ConfigMap {name} has {sum(key.endswith('.pem') for key in found)}")


class Beside:
    """A Secret beside the models; its values are compared and never told."""

    def __init__(self, client: Client, name: str) -> None:
        self.name, self.namespace = name, client.namespace
        self.refused = ""
        self.data: dict[str, Any] | None = None
        try:
            found = client.get(SECRET, name)
            self.data = None if found is None else dict(found.get("data") or {})
        except ForbiddenError as error:
            self.refused = error.message

    def text(self, key: str) -> str | None:
        """The value; None where there is none, or it may not be read."""
        try:
            return base64.b64decode((self.data or {})[key], validate=True).decode().strip()
        except (KeyError, TypeError, UnicodeDecodeError, binascii.Error):
            return None

    def finding(self, name: str, keys: str | Sequence[str], namespace: str) -> Finding:
        """Whether it is there and has these keys."""
        wanted = [keys] if isinstance(keys, str) else list(keys)
        if self.refused:
            mend = "without that right it is not looked at; ask somebody who has it to run the doctor"
            return Finding(name, "warn", self.refused, mend)
        files = " ".join(f"--from-file={key}=FILE" for key in wanted)
        make = f"kubectl -n {namespace} create secret generic {self.name} {files}"
        if self.data is None:
            text = f"there is no Secret {self.name} in namespace {namespace}: model servers would not start"
            return Finding(name, "fail", text, make)
        if lacking := [key for key in wanted if not self.text(key)]:
            text = f"Secret {self.name} has no {', '.join(lacking)}"
            return Finding(name, "fail", text, f"{make}, after deleting that one")
        return Finding(name, "ok", f"Secret {self.name} has {', '.join(wanted)}")
