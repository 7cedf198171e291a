"""A namespace of its own on the cluster that KUBECONFIG names, for the tests marked ``kubernetes``."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from windtunnel.errors import ForbiddenError, UnavailableError
from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import NAMESPACE

ASKED_FOR = "WINDTUNNEL_TEST_KUBERNETES"


@pytest.fixture(scope="module")
def access() -> Iterator[Access]:
    if os.environ.get(ASKED_FOR) != "1":
        pytest.skip(f"needs the API server of a cluster: {ASKED_FOR}=1 and KUBECONFIG ('make test-kubernetes')")
    name = f"windtunnel-test-{uuid.uuid4().hex[:8]}"
    client = Client(Access(), patience_s=10.0)
    try:
        client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    except (ForbiddenError, UnavailableError) as error:
        pytest.skip(f"no cluster to test with: {error}")
    try:
        yield Access(namespace=name)
    finally:
        client.delete(NAMESPACE, name)


@pytest.fixture(scope="module")
def client(access: Access) -> Client:
    return Client(access)
