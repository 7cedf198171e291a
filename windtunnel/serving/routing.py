"""What Envoy shall route where: pure functions from the arms of all models to Envoy's resources.

Nothing here touches the disk or a socket, so each shape of configuration is a golden test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from windtunnel import canonical, names

#: The one route configuration all models share; the listener asks for it by this name.
ROUTE_CONFIG = "windtunnel"
#: Routes are counted out of this many slots, so a weight is exact to one percent.
SLOTS = 100
#: Headers of ours that only the router may set; what a client sends under these names is dropped.
VERSION_HEADER = "x-windtunnel-version"
PROBE_HEADER = "x-windtunnel-probe"
#: Marks a copied request; the server logs its rows as ``shadow``.
SHADOW_HEADER = "x-windtunnel-shadow"
#: Marks a tester's request; the server logs its rows with arm ``audience``, and no gate compares them.
AUDIENCE_HEADER = "x-windtunnel-audience"
#: Value that the request is counted by; set from the release's own header where there is one.
SEGMENT_HEADER = "x-windtunnel-segment"
#: Tell the listener of copies where a copy shall go; a client's own are dropped before any route is chosen.
_COPY_CLUSTER = "x-windtunnel-copy-cluster"
_COPY_VERSION = "x-windtunnel-copy-version"
#: What no client may say.
RESERVED_HEADERS = (VERSION_HEADER, SHADOW_HEADER, AUDIENCE_HEADER, _COPY_CLUSTER, _COPY_VERSION)
#: Copies go through a listener of their own, so that they are counted like requests and apart from them.
SHADOW_CLUSTER = "windtunnel.shadow"
#: Routes by which the access log tells whose request it was: ``infer:MODEL``, ``audience:MODEL``, ``shadow``.
INFER, AUDIENCE, SHADOW = "infer", "audience", "shadow"

_TYPE = "type.googleapis.com/envoy."
#: A server closes an idle connection after 75 s (``launch.py``); Envoy must let go first, or a request
#: that meets the closing would fail without reaching anybody.
UPSTREAM_IDLE = "30s"


@dataclass(frozen=True, slots=True)
class Upstream:
    """One version's server as the router sees it.

    Attributes:
        port: of the model server on loopback.
        max_concurrency: requests in flight; more wait.
        queue: requests that may wait; more are answered 503 with Retry-After.
    """

    model: str
    version: str
    port: int
    max_concurrency: int = 64
    queue: int = 256

    @property
    def cluster(self) -> str:
        return names.arm_id(self.model, self.version)


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """How one model's requests are split.

    Attributes:
        slots: version of each of the ``SLOTS`` slots, or empty when nothing may serve.
        timeout_s: the router answers 504 after this.
        sticky: request header whose value keeps a user in one slot.
        ready_from: version whose readiness stands for the model's.
        mirror: ``(version, percent)``: that share of the requests is copied to that version.
        audience: ``(header, value, version)``: requests with that header go to that version.
        segment_header: request header whose value the access log carries.
    """

    model: str
    slots: tuple[str, ...] = ()
    timeout_s: float = 10.0
    sticky: str | None = None
    ready_from: str | None = None
    mirror: tuple[str, int] | None = None
    audience: tuple[str, str, str] | None = None
    segment_header: str | None = None


@dataclass(frozen=True, slots=True)
class Routed:
    """What a route configuration does with one model's requests; see ``ModelRoute``."""

    weights: dict[str, int] = field(default_factory=dict)
    mirror: tuple[str, int] | None = None
    audience: tuple[str, str, str] | None = None


def assign(before: Sequence[str], weights: Mapping[str, int]) -> tuple[str, ...]:
    """Give each version as many of the ``SLOTS`` slots as its weight, moving as few as possible.

    The first version (the champion) lies at the bottom and gives and takes at its top, the others give and
    take downwards from the top: a user changes arm only when their slot must change hands, and back at earlier
    weights two arms have the same users as before.

    Args:
        before: the slots as they are now; empty at the start.
        weights: version to percent; they sum to 100, or to 0 when nothing may serve.

    Raises:
        ValueError: a weight is negative, or they sum to anything else.
    """
    if any(weight < 0 for weight in weights.values()) or sum(weights.values()) not in (0, SLOTS):
        raise ValueError(f"weights must sum to {SLOTS} or 0, found {dict(weights)}")
    if not sum(weights.values()):
        return ()
    slots: list[str | None] = list(before) if len(before) == SLOTS else [None] * SLOTS
    first = next(iter(weights))
    for version in {slot for slot in slots if slot is not None}:
        held = [index for index, slot in enumerate(slots) if slot == version]
        surplus = max(0, len(held) - weights.get(version, 0))
        for index in held[len(held) - surplus :] if version == first else held[:surplus]:
            slots[index] = None
    free = [index for index, slot in enumerate(slots) if slot is None]
    for version, weight in weights.items():
        missing = weight - sum(slot == version for slot in slots)
        for _ in range(missing):
            slots[free.pop(0 if version == first else -1)] = version
    return tuple(slot for slot in slots if slot is not None)


def cluster(upstream: Upstream) -> dict[str, Any]:
    """Envoy cluster of one version: loopback, bounded, no retries, no outlier detection.

    A crashed candidate must show as errors of its own; nothing here hides or moves them.
    """
    return {
        "@type": f"{_TYPE}config.cluster.v3.Cluster",
        "name": upstream.cluster,
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "metadata": {"filter_metadata": {"windtunnel": {"model": upstream.model, "version": upstream.version}}},
        "load_assignment": {
            "cluster_name": upstream.cluster,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _loopback(upstream.port)}}]}],
        },
        "circuit_breakers": {
            # Over HTTP/1.1 a request in flight is a connection: more than max_connections wait,
            # more than max_pending_requests are refused at once.
            "thresholds": [
                {
                    "max_connections": upstream.max_concurrency,
                    "max_pending_requests": upstream.queue,
                    "max_requests": upstream.max_concurrency + upstream.queue,
                    "max_retries": 0,
                }
            ]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": UPSTREAM_IDLE},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def clusters(upstreams: Iterable[Upstream]) -> dict[str, Any]:
    """The content of the CDS file; ``version_info`` is a digest of the rest."""
    return _versioned([cluster(item) for item in sorted(upstreams, key=lambda u: (u.model, u.version))])


def routes(models: Iterable[ModelRoute]) -> dict[str, Any]:
    """The content of the RDS file: inference and readiness of each model, 404 for everything else."""
    listed: list[dict[str, Any]] = [
        {
            "name": "health",
            "match": {"path": "/v2/health/ready", "headers": [_method("GET")]},
            "direct_response": {"status": 200, "body": {"inline_string": '{"ready":true}\n'}},
        }
    ]
    for model in sorted(models, key=lambda m: m.model):
        if model.slots and model.audience:
            listed.append(_audience(model, model.audience))
        listed += [_infer(model), _ready(model)]
    listed.append(
        {
            "name": "nowhere",
            "match": {"prefix": "/"},
            "direct_response": {
                "status": 404,
                "body": {"inline_string": '{"error":"no such path: expected POST /v2/models/MODEL/infer"}\n'},
            },
        }
    )
    return _versioned(
        [
            {
                "@type": f"{_TYPE}config.route.v3.RouteConfiguration",
                "name": ROUTE_CONFIG,
                "virtual_hosts": [{"name": "models", "domains": ["*"], "routes": listed}],
                "request_headers_to_remove": [PROBE_HEADER],
            }
        ]
    )


def shadow_routes() -> dict[str, Any]:
    """Where the listener of copies sends them: to the cluster that the route which made the copy names."""
    return {
        "name": "windtunnel-shadow",
        "virtual_hosts": [
            {
                "name": "copies",
                "domains": ["*"],
                "request_headers_to_remove": [_COPY_CLUSTER, _COPY_VERSION],
                "routes": [
                    {
                        "name": SHADOW,
                        "match": {"prefix": "/"},
                        # Who made the copy keeps its time: it gives up after the model's time-out.
                        "route": {"cluster_header": _COPY_CLUSTER, "timeout": "0s"},
                        "request_headers_to_add": [
                            _set(SHADOW_HEADER, "true"),
                            _set(VERSION_HEADER, f"%REQ({_COPY_VERSION})%"),
                        ],
                    }
                ],
            }
        ],
    }


def shadow_cluster(path: str) -> dict[str, Any]:
    """The cluster of the listener of copies, on the unix socket ``path``.

    It bounds nothing: the candidate's own cluster does, whose refusals are counted as such.
    """
    unbounded = 1 << 20
    return {
        "name": SHADOW_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": SHADOW_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": path}}}}]}],
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": unbounded,
                    "max_pending_requests": unbounded,
                    "max_requests": unbounded,
                    "max_retries": 0,
                }
            ]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}extensions.upstreams.http.v3.HttpProtocolOptions",
                # A copy is a stream, not a connection: a candidate that hangs costs no file descriptor here.
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }


def routed(route_config: Mapping[str, Any]) -> dict[str, Routed]:
    """By model, read back from a route configuration (``routes`` or Envoy's config dump)."""
    found: dict[str, Routed] = {}
    for host in route_config.get("virtual_hosts", []):
        for route in host.get("routes", []):
            kind, _, model = str(route.get("name", "")).partition(":")
            action = route.get("route", {})
            before = found.get(model, Routed())
            if kind == AUDIENCE:
                found[model] = replace(before, audience=_read_audience(route, model))
            elif kind == INFER:
                weights: dict[str, int] = {}
                for part in action.get("weighted_clusters", {}).get("clusters", []):
                    version = _version(model, part["name"])
                    weights[version] = weights.get(version, 0) + int(part.get("weight", 0))
                found[model] = replace(before, weights=weights, mirror=_read_mirror(route))
    return found


def routed_weights(route_config: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Percent by model and version, read back from a route configuration (``routes`` or Envoy's config dump)."""
    return {model: found.weights for model, found in routed(route_config).items()}


def _read_audience(route: Mapping[str, Any], model: str) -> tuple[str, str, str] | None:
    for header in route.get("match", {}).get("headers", []):
        if header.get("name") != ":method":
            value = str(header.get("string_match", {}).get("exact", ""))
            return str(header["name"]), value, _version(model, route["route"]["cluster"])
    return None


def _read_mirror(route: Mapping[str, Any]) -> tuple[str, int] | None:
    for policy in route.get("route", {}).get("request_mirror_policies", []):
        percent = int(policy.get("runtime_fraction", {}).get("default_value", {}).get("numerator", 0))
        for item in route.get("request_headers_to_add", []):
            if item["header"]["key"] == _COPY_VERSION:
                return str(item["header"]["value"]), percent
    return None


def _version(model: str, cluster: Any) -> str:
    return str(cluster).removeprefix(names.arm_id(model, ""))


def _infer(model: ModelRoute) -> dict[str, Any]:
    route: dict[str, Any] = {
        "name": f"{INFER}:{model.model}",
        "match": {"path": f"/v2/models/{model.model}/infer", "headers": [_method("POST")]},
    }
    if not model.slots:
        return route | _nothing_serves(model.model)
    weighted: dict[str, Any] = {
        "clusters": [
            {
                "name": names.arm_id(model.model, version),
                "weight": sum(1 for _ in run),
                "request_headers_to_add": [_set(VERSION_HEADER, version)],
                "response_headers_to_add": [_set(VERSION_HEADER, version)],
            }
            for version, run in groupby(model.slots)
        ]
    }
    action: dict[str, Any] = {"weighted_clusters": weighted, "timeout": f"{model.timeout_s:.3f}s"}
    if model.sticky:
        weighted["use_hash_policy"] = True
        action["hash_policy"] = [{"header": {"header_name": model.sticky.lower()}}]
    headers = _segment(model)
    if model.mirror:
        version, percent = model.mirror
        action["request_mirror_policies"] = [
            {
                "cluster": SHADOW_CLUSTER,
                "runtime_fraction": {"default_value": {"numerator": percent, "denominator": "HUNDRED"}},
            }
        ]
        headers += [_set(_COPY_CLUSTER, names.arm_id(model.model, version)), _set(_COPY_VERSION, version)]
    return route | {"route": action} | ({"request_headers_to_add": headers} if headers else {})


def _audience(model: ModelRoute, audience: tuple[str, str, str]) -> dict[str, Any]:
    """Before the weighted route: who brings the header gets that version. Never copied: it is the candidate's own."""
    header, value, version = audience
    return {
        "name": f"{AUDIENCE}:{model.model}",
        "match": {
            "path": f"/v2/models/{model.model}/infer",
            "headers": [_method("POST"), {"name": header.lower(), "string_match": {"exact": value}}],
        },
        "route": {"cluster": names.arm_id(model.model, version), "timeout": f"{model.timeout_s:.3f}s"},
        "request_headers_to_add": [*_segment(model), _set(AUDIENCE_HEADER, "true"), _set(VERSION_HEADER, version)],
        "response_headers_to_add": [_set(VERSION_HEADER, version)],
    }


def _segment(model: ModelRoute) -> list[dict[str, Any]]:
    if not model.segment_header:
        return []
    return [_set(SEGMENT_HEADER, f"%REQ({model.segment_header.lower()})%")]


def _ready(model: ModelRoute) -> dict[str, Any]:
    route: dict[str, Any] = {
        "name": f"ready:{model.model}",
        "match": {"path": f"/v2/models/{model.model}/ready", "headers": [_method("GET")]},
    }
    if not model.slots or model.ready_from is None:
        return route | _nothing_serves(model.model)
    return route | {"route": {"cluster": names.arm_id(model.model, model.ready_from), "timeout": "5s"}}


def _nothing_serves(model: str) -> dict[str, Any]:
    body = f'{{"error":"model {model} has no version that may serve"}}\n'
    return {
        "direct_response": {"status": 503, "body": {"inline_string": body}},
        "response_headers_to_add": [_set("retry-after", "30"), _set("content-type", "application/json")],
    }


def _method(name: str) -> dict[str, Any]:
    return {"name": ":method", "string_match": {"exact": name}}


def _set(key: str, value: str) -> dict[str, Any]:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _loopback(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _versioned(resources: list[dict[str, Any]]) -> dict[str, Any]:
    return {"version_info": canonical.digest(resources)[7:23], "resources": resources}
