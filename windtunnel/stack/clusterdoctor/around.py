"""What stands beside the cluster: object store, Prometheus, gateway; each only where it is named."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.errors import WindtunnelError
from windtunnel.kube.client import Client
from windtunnel.serving.traffic.promnames import SELDON, SELDON_CORE2
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
    """It answers, scrapes somebody, and knows the metrics that our queries ask for."""
    name, url = "prometheus", cluster.prometheus
    if url is None:
        yield Finding(name, "warn", "not looked at", "name it: --prometheus URL, or prometheus in --seldon's file")
        return
    url = url.rstrip("/")
    up = _ask(url, "count(up == 1)", cluster.seldon)
    if isinstance(up, str):
        yield Finding(name, "fail", up, "is this Prometheus' own address, and reachable from here?")
        return
    if not up:
        yield Finding(name, "fail", f"{url} scrapes nobody", "see its targets page: nothing is up")
        return
    yield Finding(name, "ok", f"{url}: {up:.0f} targets are up")
    names, scraped = SELDON, "Seldon's executors are"
    if cluster.seldon is not None and cluster.seldon.api == "core2":
        names, scraped = SELDON_CORE2, "the agents of Core 2's Servers are"
    wanted = [names.requests, names.buckets, "process_start_time_seconds"]
    missing = [metric for metric in wanted if not _ask(url, f'count({{__name__="{metric}"}})', cluster.seldon)]
    if missing:
        mend = (
            f"no model has been called yet, or {scraped} not scraped: gates would wait. "
            "See docs/reference/prometheus.md"
        )
        yield Finding("metrics", "warn", f"Prometheus has no {', '.join(missing)}", mend)
    else:
        yield Finding("metrics", "ok", ", ".join(wanted))


def _ask(url: str, query: str, seldon: Seldon | None) -> float | str:
    """The value of an instant query of one number, 0 for none; text: what went wrong."""
    import ssl

    import httpx

    headers: dict[str, str] = {}
    try:
        if seldon is not None and seldon.prometheus_token_file:
            token = Path(seldon.prometheus_token_file).read_text(encoding="utf-8").strip()
            headers["Authorization"] = f"Bearer {token}"
        own = seldon.prometheus_ca if seldon is not None else None
        verify = ssl.create_default_context(cafile=own) if own else True
        asked = {"query": query}
        answer = httpx.post(f"{url}/api/v1/query", data=asked, headers=headers, verify=verify, timeout=TIMEOUT_S)
        if answer.status_code in (401, 403):
            return f"{url} answered {answer.status_code}: it wants to know who asks (prometheus_token_file)"
        told: Any = answer.json()
        if told["status"] != "success":
            return f"{url} answered {answer.status_code}: {told.get('error')}"
        rows = told["data"]["result"]
        return float(rows[0]["value"][1]) if rows else 0.0
    except (httpx.HTTPError, OSError) as error:
        return f"{url} does not answer: {error!r}"
    except (ValueError, KeyError, TypeError, IndexError):
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
