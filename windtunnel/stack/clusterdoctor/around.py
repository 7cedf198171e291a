"""What stands beside the cluster: object store, Prometheus, gateway; each only where it is named."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.errors import UnavailableError, WindtunnelError
from windtunnel.kube.client import Client
from windtunnel.serving.traffic.promnames import SELDON, Names
from windtunnel.stack.clusterdoctor.looking import Cluster
from windtunnel.stack.finding import Finding

if TYPE_CHECKING:
    from windtunnel.serving.seldon import Seldon

TIMEOUT_S = 5.0


def object_store(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """An object is written, read back and removed."""
    name = "object store"
    if cluster.store is None:
        yield Finding(name, "warn", "not looked at", "name it: --store s3://BUCKET/PREFIX")
        return
    from windtunnel.data.objects import connect

    key, sent = f"windtunnel-doctor/{uuid.uuid4().hex}", uuid.uuid4().bytes
    try:
        objects = connect(cluster.store)
        objects.put_bytes(key, sent)
        try:
            got = objects.get_bytes(key)
        finally:
            objects.delete([key])
        left = objects.get_bytes(key)
    except WindtunnelError as error:
        mend = error.hint or "credentials are boto3's own: AWS_* variables, a profile or a role; see docs"
        yield Finding(name, "fail", f"{cluster.store}: {error.message}", mend)
        return
    except ImportError as error:
        yield Finding(name, "fail", f"{cluster.store} needs {error.name}", 'pip install "windtunnel[s3]"')
        return
    if got != sent:
        yield Finding(name, "fail", f"{cluster.store} gave back other bytes than it was given", "is it a cache?")
    elif left is not None:
        yield Finding(name, "fail", f"{cluster.store} keeps what was deleted ({key})", "allow s3:DeleteObject")
    else:
        yield Finding(name, "ok", f"{cluster.store} takes, gives and removes")


def prometheus(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """It answers, scrapes somebody, and yields to our queries what they are for."""
    from windtunnel.stack.clusterdoctor import queries

    name, url = "prometheus", cluster.prometheus
    if url is None:
        yield Finding(name, "warn", "not looked at", "name it: --prometheus URL, or prometheus in --seldon's file")
        return
    asking = queries.Http(partial(_ask, url.rstrip("/"), cluster.seldon))
    try:
        rows = asking.vector("count(up == 1)")
    except UnavailableError as error:
        yield Finding(name, "fail", error.message, "is this Prometheus' own address, and reachable from here?")
        return
    if not rows or not rows[0].value:
        yield Finding(name, "fail", f"{url} scrapes nobody", "see its targets page: nothing is up")
        return
    yield Finding(name, "ok", f"{url}: {rows[0].value:.0f} targets are up")
    scraped = "Seldon's executors are"
    if cluster.seldon is not None and cluster.seldon.api == "core2":
        scraped = "the agents of Core 2's Servers are"
    names, labels = SELDON, None
    if cluster.seldon is not None:
        names, labels = cluster.seldon.names, cluster.seldon.prometheus_labels
    models: dict[str, Names] = {}
    with contextlib.suppress(WindtunnelError):  # which namespace it is, is told by another finding
        here = names.only(client.namespace, labels)
        models = {one.name: here for one in cluster.models if one.target == "kubernetes"}
    try:
        yield from queries.judge(asking, names, models, scraped)
    except UnavailableError as error:
        yield Finding("metrics", "fail", error.message, f"see {queries.PAGE}")


def _ask(url: str, seldon: Seldon | None, path: str, asked: dict[str, str]) -> Any:
    """``data`` of the answer; text: what went wrong."""
    import ssl

    import httpx

    headers: dict[str, str] = {}
    try:
        if seldon is not None and seldon.prometheus_token_file:
            token = Path(seldon.prometheus_token_file).read_text(encoding="utf-8").strip()
            headers["Authorization"] = f"Bearer {token}"
        own = seldon.prometheus_ca if seldon is not None else None
        verify = ssl.create_default_context(cafile=own) if own else True
        send = partial(httpx.post, data=asked) if path.endswith("/query") else partial(httpx.get, params=asked)
        answer = send(f"{url}{path}", headers=headers, verify=verify, timeout=TIMEOUT_S)
        if answer.status_code in (401, 403):
            return f"{url} answered {answer.status_code}: it wants to know who asks (prometheus_token_file)"
        told: Any = answer.json()
        if told["status"] != "success":
            return f"{url} answered {answer.status_code}: {told.get('error')}"
        return told["data"]
    except (httpx.HTTPError, OSError) as error:
        return f"{url} does not answer: {error!r}"
    except (ValueError, KeyError, TypeError):
        return f"{url} is no Prometheus: it answered {answer.status_code} and nothing we understand"


def gateway(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """Something listens there. Which model it leads to is seen at a release, by counting who answers."""
    name, url = "gateway", cluster.gateway
    if url is None:
        yield Finding(name, "warn", "not looked at", "name it: --gateway URL, or gateway in --seldon's file")
        return
    import httpx

    try:
        namespace = client.namespace
    except WindtunnelError:  # told by another finding
        namespace = "default"
    asked = url.replace("{namespace}", namespace).replace("{model}", "windtunnel-doctor")
    try:
        answer = httpx.get(f"{asked.rstrip('/')}/v2/models/windtunnel-doctor/ready", timeout=TIMEOUT_S)
    except (httpx.HTTPError, OSError, httpx.InvalidURL) as error:
        mend = "names of services are known inside the cluster only: run the doctor in a pod, or forward a port"
        yield Finding(name, "fail", f"{asked} does not answer: {error!r}", mend)
        return
    server = answer.headers.get("server", "no name")
    result, mend = ("ok", "") if answer.status_code < 500 else ("warn", "see the gateway's own log")
    yield Finding(name, result, f"{asked} answers ({answer.status_code}, {server})", mend)
