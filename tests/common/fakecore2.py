"""Seldon Core 2's operator, scheduler, mesh, agents and a Prometheus, as far as a rollout meets them; over real HTTP.

What the real ones do decides what these do:

- an Experiment's route is made anew from its candidates in order, and stops at the first without a replica that serves
  it; what stands by then goes out with the next change of any model (scheduler/pkg/envoy/processor/incremental.go);
- an Experiment that is not valid changes nothing (scheduler/pkg/store/experiment/validate.go);
- weights that sum to nothing make the mesh refuse every route it is given from then on (Envoy's WeightedCluster);
- a request finds its route by header ``seldon-model``, by its path only without one (xdscache/resource.go), and the
  agent rewrites the path's name up to the first dot (scheduler/pkg/agent/rproxy.go);
- a Model is loaded by a Server that has what it requires; status is told for the latest generation only
  (operator/scheduler/model.go).

The schema is our own, of the field names in ``operator/apis/mlops/v1alpha1``.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from kubeapi import Cluster

GROUP = "/apis/mlops.seldon.io/v1alpha1"
ANY: Any = None
_SCALE = ("replicas", "minReplicas", "maxReplicas")
SPECS: dict[str, Any] = {
    "Experiment": {
        "default": ANY,
        "candidates": [dict.fromkeys(["name", "weight"], ANY)],
        "mirror": dict.fromkeys(["name", "percent"], ANY),
        "resourceType": ANY,
    },
    "Model": dict.fromkeys(
        ["storageUri", "requirements", "memory", "server", "preloaded", "dedicated", "logger", "explainer", "llm",
         "parameters", "dataflow", "modelType", "artifactVersion", "schemaUri", "secretName", *_SCALE],
        ANY,
    ),
    "Server": dict.fromkeys(
        ["serverConfig", "extraCapabilities", "capabilities", "imageOverrides", "podSpec", "deploymentStrategy",
         "statefulSetPersistentVolumeClaimRetentionPolicy", "disableAutoUpdate", *_SCALE],
        ANY,
    ),
}  # fmt: skip
_NEEDED = {"Experiment": ["candidates"], "Model": ["storageUri"], "Server": ["serverConfig"]}


def problems(thing: dict[str, Any]) -> list[str]:
    """What the CRDs have against an object."""
    kind, spec = thing["kind"], thing["spec"]
    found = [f"spec.{name} is required" for name in _NEEDED[kind] if name not in spec]
    return found + _strange(spec, SPECS[kind], "spec")


def _strange(value: Any, schema: Any, path: str) -> list[str]:
    if schema is ANY:
        return []
    if isinstance(schema, list):
        return [p for i, item in enumerate(value) for p in _strange(item, schema[0], f"{path}[{i}]")]
    unknown = [f'unknown field "{path}.{name}"' for name in value if name not in schema]
    return unknown + [p for name in value if name in schema for p in _strange(value[name], schema[name], name)]


def cluster() -> Cluster:
    kinds: dict[str, Any] = dict.fromkeys(("experiments", "models", "servers"), (GROUP, problems))
    return Cluster({**kinds, "pods": ("/api/v1", None)})


@dataclass
class Route:
    clusters: list[tuple[str, int]] = field(default_factory=list)
    mirror: tuple[str, int] | None = None


class Core2:
    """Operator, scheduler, mesh and Prometheus of one namespace.

    Attributes:
        fate: what becomes of a Model: ``ready``, ``changed`` (its Server's first step finds other bytes), ``broken``
            (the model server cannot load it), ``slow`` (it is never loaded). One that was ready may change its fate.
        stuck: the mesh keeps the routes it has.
        after_s: loading takes so long.
        before_2_9: a Model tells no replicas that are available.
        failing: Models that answer 500.
        wrong: Models to the version they say they are, where it is another than their own.
    """

    def __init__(self, of: Cluster, fate: Callable[[str], str] = lambda model: "ready", after_s: float = 0.02) -> None:
        self.cluster, self.fate, self.after_s = of, fate, after_s
        self.stuck = self.poisoned = self.before_2_9 = False
        self.routes: dict[str, Route] = {}  # as the mesh has them
        self.live: set[str] = set()
        self.failing: set[str] = set()
        self.wrong: dict[str, str] = {}
        self.counts: Counter[tuple[str, str]] = Counter()  # Server, code
        self.probes: Counter[str] = Counter()
        self.clock: Callable[[], float] = time.time  # of Prometheus
        self.blind = False  # its Prometheus does not answer
        self._cache: dict[str, Route] = {}  # as the scheduler has them
        self._experiments: dict[str, dict[str, Any]] = {}  # accepted ones, by name
        self._told: dict[str, int] = {}  # generation of an Experiment that was handled last
        self._born: dict[str, float] = {}
        self._stop = threading.Event()
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        of.services["seldon-mesh"] = ("127.0.0.1", self.port, "")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Core2:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with self.cluster.changed:
            self.cluster.changed.notify_all()
        self._thread.join(10)
        self._server.shutdown()
        self._server.server_close()

    # -- operator and scheduler

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                changed = self._models()
                for thing in self.cluster.all("experiments"):
                    if self._told.get(thing["metadata"]["name"]) != thing["metadata"]["generation"]:
                        self._start(thing)
                present = {one["metadata"]["name"] for one in self.cluster.all("experiments")}
                for name in [name for name in self._experiments if name not in present]:
                    del self._experiments[name], self._told[name]
                    self._cache.pop(f"{name}.experiment", None)
                    self._push()
                for model in changed:
                    self._model_changed(model)
            with self.cluster.changed:
                self.cluster.changed.wait(0.01)

    def _models(self) -> list[str]:
        """Load and unload; the Models that serve since, or no more."""
        servers = {one["metadata"]["name"]: one for one in self.cluster.all("servers")}
        live, now = set(), time.monotonic()
        models = {one["metadata"]["name"]: one for one in self.cluster.all("models")}
        for name, one in models.items():
            home = servers.get(str(one["spec"].get("server")))
            able = home is not None and set(one["spec"].get("requirements", [])) <= set(home["spec"]["capabilities"])
            born, fate = self._born.setdefault(name, now), self.fate(name)
            if able and fate == "ready" and now - born >= self.after_s:
                live.add(name)
            state = (
                "ModelAvailable" if name in live else "ModelFailed" if fate == "broken" and able else "ModelProgressing"
            )
            if not able:
                state = "ScheduleFailed"
            self._tell(
                "models", one, "ModelReady", state == "ModelAvailable", state, "scripted" if able else "no server"
            )
            self._pod(one, fate)
        for name in [name for name in self._born if name not in models]:
            del self._born[name]
            self.cluster.remove("pods", f"{name}-0")
        changed = sorted(live ^ self.live)
        self.live = live
        return changed

    def _pod(self, one: dict[str, Any], fate: str) -> None:
        verify: dict[str, Any] = {"name": "verify"}
        if fate == "changed":
            message = json.dumps({"error": "IntegrityError", "message": "the files are not the sealed ones"})
            verify["lastState"] = {"terminated": {"exitCode": 3, "reason": "Error", "message": message}}
        metadata = {"name": f"{one['metadata']['name']}-0", "labels": dict(one["metadata"].get("labels") or {})}
        status = {"initContainerStatuses": [verify], "containerStatuses": []}
        self.cluster.put("pods", {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status})

    def _start(self, thing: dict[str, Any]) -> None:
        """The scheduler is told of an Experiment's new generation."""
        name, spec = thing["metadata"]["name"], thing["spec"]
        self._told[name] = thing["metadata"]["generation"]
        names = [one["name"] for one in spec["candidates"]]
        mirror = (spec.get("mirror") or {}).get("name")
        if not names and mirror is None:
            return self._tell("experiments", thing, "ExperimentReady", False, "no candidates or mirror", "")
        if len({*names, mirror}) < len(names) + 1:
            return self._tell("experiments", thing, "ExperimentReady", False, "a name stands twice", "")
        self._experiments[name] = thing
        return self._experiment_changed(thing)

    def _experiment_changed(self, thing: dict[str, Any]) -> None:
        name, spec = thing["metadata"]["name"], thing["spec"]
        route = self._cache[f"{name}.experiment"] = Route()
        for one in spec["candidates"]:
            if one["name"] not in self.live:
                return self._tell(
                    "experiments", thing, "ExperimentReady", False, f"no live replica of {one['name']}", ""
                )
            route.clusters.append((one["name"], one["weight"]))
        if spec.get("mirror"):
            if spec["mirror"]["name"] not in self.live:
                return self._tell("experiments", thing, "ExperimentReady", False, "no live replica of the mirror", "")
            route.mirror = (spec["mirror"]["name"], spec["mirror"]["percent"])
        self._push()
        return self._tell("experiments", thing, "ExperimentReady", True, "experiment active", "")

    def _model_changed(self, model: str) -> None:
        self._cache.pop(model, None)
        if model in self.live:
            self._cache[model] = Route([(model, 100)])
        for thing in list(self._experiments.values()):
            spec = thing["spec"]
            if model in [one["name"] for one in spec["candidates"]] + [(spec.get("mirror") or {}).get("name")]:
                self._experiment_changed(thing)
        self._push()

    def _push(self) -> None:
        if any(route.clusters and not sum(weight for _, weight in route.clusters) for route in self._cache.values()):
            self.poisoned = True
        if not self.stuck and not self.poisoned:
            whole = {name: route for name, route in self._cache.items() if route.clusters}
            self.routes = {name: Route(list(route.clusters), route.mirror) for name, route in whole.items()}

    def _tell(self, plural: str, thing: dict[str, Any], what: str, good: bool, reason: str, message: str) -> None:
        condition = {"type": what, "status": "True" if good else "False", "reason": reason, "message": message}
        status: dict[str, Any] = {"conditions": [condition]}
        if plural == "models":
            spec = thing["spec"]
            shall = spec.get("replicas") or spec.get("minReplicas") or 1
            status["replicas"] = shall
            if good and not self.before_2_9:  # 0 is left out
                status["availableReplicas"] = shall

        def say(now: dict[str, Any]) -> None:
            if now["metadata"]["generation"] == thing["metadata"]["generation"]:
                now["status"] = status

        try:
            if thing.get("status") != status:
                self.cluster.edit(plural, thing["metadata"]["name"], say)
        except KeyError:
            return  # deleted meanwhile

    # -- mesh, agents, Prometheus

    def infer(self, path: str, header: str | None) -> tuple[int, dict[str, Any]]:
        """A request at the mesh."""
        found = re.match(r"/v2/models/([^/]+)", path)
        target = header or (found[1] if found else "")
        with self._lock:
            route = self.routes.get(target)
        if route is None:
            return 404, {"error": "no route"}
        chosen = random.choices([name for name, _ in route.clusters], [weight for _, weight in route.clusters])[0]
        if route.mirror and random.random() * 100 < route.mirror[1]:
            self.agent(route.mirror[0], path)
        return self.agent(chosen, path)

    def agent(self, model: str, path: str) -> tuple[int, dict[str, Any]]:
        with self._lock:
            if model not in self.live:
                return 503, {"error": "no healthy upstream"}
        rewritten = re.sub(r"(/v2/models/)([\w\-]+)(/versions/\w+)?(.*)$", rf"\g<1>{model}_1\g<4>", path)
        code, body = self._server_of(model, rewritten)
        with self._lock:
            self.counts[model, str(code)] += 1
        return code, body

    def _server_of(self, model: str, path: str) -> tuple[int, dict[str, Any]]:
        if path == f"/v2/models/{model}_1/ready":
            return 200, {}
        if path != f"/v2/models/{model}_1/infer":
            return 404, {"error": f"no such path: {path}"}
        if model in self.failing:
            return 500, {"error": "the model raised"}
        name, _, version = model.rpartition("-v")
        return 200, {"model_name": name, "model_version": self.wrong.get(model, version), "outputs": []}

    def query(self, text: str, at: str | None) -> list[dict[str, Any]]:
        found = re.search(r'server=~"([^"]*)",method=~"post\|grpc"', text)
        assert found, text
        if at is not None:
            return []
        now, rows, prefix = self.clock(), [], "seldon_model_infer_api_seconds"
        with self._lock:
            counts = {key: n for key, n in self.counts.items() if re.fullmatch(found[1], key[0])}
        for (server, code), n in counts.items():
            labels = {"server": server, "server_replica": "0", "method": "post", "code": code, "instance": server}
            rows.append((n, {"__name__": f"{prefix}_count", **labels}))
            rows.append((now, {"wt": "at", **labels}))
            rows += [(n, {"__name__": f"{prefix}_bucket", "le": le, **labels}) for le in ("0.05", "+Inf")]
        return [{"metric": labels, "value": [now, str(value)]} for value, labels in rows]


def _handler(core: Core2) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None: ...

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == "/api/v1/query":
                if core.blind:
                    return self._send(503, {"status": "error", "error": "scripted"})
                asked = parse_qs(raw.decode())
                rows = core.query(asked["query"][0], asked.get("time", [None])[0])
                return self._send(200, {"status": "success", "data": {"resultType": "vector", "result": rows}})
            return self._infer()

        def do_GET(self) -> None:
            self._infer()

        def _infer(self) -> None:
            header = self.headers.get("seldon-model")
            core.probes[header or ""] += 1
            self._send(*core.infer(self.path, header))

        def _send(self, status: int, body: Any) -> None:
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    return Handler
