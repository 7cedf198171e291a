"""Seldon's operator, its gateway, its executors and a Prometheus, as far as a rollout meets them; all over real HTTP.

The operator does what Seldon Core 1 does behind Istio (operator/controllers/seldondeployment_controller.go): a
Deployment per predictor; status per Deployment, without ``observedGeneration``; routes are written only while the pods
of every predictor are available, and what was removed is deleted only after that. The schema is our own, of the field
names in ``operator/apis/machinelearning.seldon.io/v1``; admission refuses what Seldon's webhook refuses.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from kubeapi import Cluster

GROUP = "/apis/machinelearning.seldon.io/v1"
ANY: Any = None
_UNIT: dict[str, Any] = dict.fromkeys(
    ["name", "children", "type", "implementation", "methods", "parameters", "modelUri", "serviceAccountName",
     "envSecretRefName", "storageInitializerImage"],
    ANY,
) | {
    "endpoint": dict.fromkeys(["service_host", "service_port", "type", "httpPort", "grpcPort"], ANY),
    "logger": {"url": ANY, "mode": ANY},
}  # fmt: skip
_COMPONENT = {
    "metadata": ANY,
    "spec": ANY,
    "hpaSpec": dict.fromkeys(["minReplicas", "maxReplicas", "metrics", "metricsv2"], ANY),
    "replicas": ANY,
    "kedaSpec": ANY,
    "pdbSpec": dict.fromkeys(["minAvailable", "maxUnavailable"], ANY),
}
_PREDICTOR = dict.fromkeys(
    ["name", "replicas", "annotations", "engineResources", "labels", "svcOrchSpec", "traffic", "explainer", "shadow",
     "ssl"],
    ANY,
) | {"graph": _UNIT, "componentSpecs": [_COMPONENT]}  # fmt: skip
_SPEC = dict.fromkeys(
    ["name", "oauth_key", "oauth_secret", "annotations", "protocol", "transport", "replicas", "serverType"], ANY
) | {"predictors": [_PREDICTOR]}
SCHEMA = {"apiVersion": ANY, "kind": ANY, "metadata": ANY, "status": ANY, "spec": _SPEC}


def problems(thing: dict[str, Any]) -> list[str]:
    """What the CRD's schema or Seldon's webhook has against a SeldonDeployment."""
    found = _strange(thing, SCHEMA, "")
    predictors = thing["spec"]["predictors"]
    if not predictors:
        found.append("Graph contains no predictors")
    names = [one["name"] for one in predictors]
    if len(set(names)) < len(names):
        found.append("Duplicate predictor name")
    shadows = [one for one in predictors if one.get("shadow")]
    if len(shadows) > 1:
        found.append("Multiple shadows are not allowed")
    if shadows and len(predictors) == 1:
        found.append("Shadow can not exist as only predictor")
    total, open_ = (
        sum(one.get("traffic", 0) for one in predictors if not one.get("shadow")),
        len(predictors) - len(shadows),
    )
    if total != 100 and open_ > 1:
        found.append(f"Traffic must sum to 100 for multiple predictors, not {total}")
    if 0 < total < 100 and len(predictors) == 1:
        found.append("Traffic must sum be 100 for a single predictor when set")
    for one in predictors:
        names = [c["name"] for part in one.get("componentSpecs", []) for c in part["spec"]["containers"]]
        if one["graph"].get("implementation") is None and one["graph"]["name"] not in names:
            found.append("Can't find container for Predictive Unit")
    if thing["spec"].get("protocol") not in ("v2", "seldon", "tensorflow", "kfserving"):
        found.append("Invalid protocol")
    return found


def _strange(value: Any, schema: Any, path: str) -> list[str]:
    if schema is ANY:
        return []
    if isinstance(schema, list):
        return [p for i, item in enumerate(value) for p in _strange(item, schema[0], f"{path}[{i}]")]
    return [
        problem
        for name, item in value.items()
        for problem in (
            _strange(item, schema[name], f"{path}.{name}") if name in schema else [f'unknown field "{path[1:]}.{name}"']
        )
    ]


def cluster() -> Cluster:
    return Cluster(
        {
            "seldondeployments": (GROUP, problems),
            "pods": ("/api/v1", None),
        }
    )


class Seldon:
    """Operator, gateway and Prometheus of one namespace.

    Attributes:
        fate: what becomes of a predictor: ``ready``, ``changed`` (its first step finds other bytes), ``broken`` (it
            ends again and again), ``slow`` (it never becomes available), ``crashed`` (it was, and is no more),
            ``forbidden`` (no pod may be made).
        stuck: the gateway keeps the routes it has.
        after_s: pods take so long.
    """

    def __init__(
        self, of: Cluster, fate: Callable[[str], str] = lambda predictor: "ready", after_s: float = 0.02
    ) -> None:
        self.cluster, self.fate, self.after_s = of, fate, after_s
        self.stuck = False
        self.clock: Callable[[], float] = time.time  # of Prometheus
        self.blind = False  # its Prometheus does not answer
        self.routes: dict[str, dict[str, int]] = {}
        self.mirrors: dict[str, tuple[str, int]] = {}
        self.available: dict[str, set[str]] = {}
        self.failing: set[str] = set()  # predictors that answer 500
        self.counts: Counter[tuple[str, str, str]] = Counter()  # model, predictor, code
        self.probes: Counter[str] = Counter()
        self._born: dict[str, float] = {}
        self._stop = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Seldon:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self._thread = threading.Thread(target=self._reconcile, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with self.cluster.changed:
            self.cluster.changed.notify_all()
        self._thread.join(10)
        self._server.shutdown()
        self._server.server_close()

    # -- the operator

    def _reconcile(self) -> None:
        while not self._stop.is_set():
            for thing in self.cluster.all("seldondeployments"):
                if not thing["metadata"].get("deletionTimestamp"):
                    self._one(thing)
            with self.cluster.changed:
                self.cluster.changed.wait(0.01)

    def _one(self, thing: dict[str, Any]) -> None:
        model = thing["metadata"]["name"]
        predictors = {one["name"]: one for one in thing["spec"]["predictors"]}
        up, told = set(), {}
        for name, one in predictors.items():
            replicas = one.get("replicas", 1)
            born = self._born.setdefault(f"{model}/{name}", time.monotonic())
            fate = self.fate(name)
            if not replicas:
                self._born.pop(f"{model}/{name}")
            elif fate == "ready" and time.monotonic() - born >= self.after_s:
                up.add(name)
                told[f"{model}-{name}-0-{one['componentSpecs'][0]['metadata']['name']}"] = {
                    "replicas": replicas, "availableReplicas": replicas,
                }  # fmt: skip
            self._pod(model, name, one, fate, name in up)
        with self._lock:
            self.available[model] = up
        for name in up:
            self.cluster.services[f"{model}-{name}"] = ("127.0.0.1", self.port, f"/direct/{model}/{name}")
        whole = bool(predictors) and set(predictors) == up
        if whole and not self.stuck:
            with self._lock:
                self.routes[model] = {
                    name: one.get("traffic", 0) if len(predictors) > 1 else 100
                    for name, one in predictors.items()
                    if not one.get("shadow")
                }
                shadows = [(name, one.get("traffic") or 100) for name, one in predictors.items() if one.get("shadow")]
                self.mirrors[model] = shadows[0] if shadows else ("", 0)
            for key in [
                key for key in self._born if key.startswith(f"{model}/") and key.split("/")[1] not in predictors
            ]:
                self._born.pop(key)
                gone = key.replace("/", "-")
                self.cluster.services.pop(gone, None)
                self.cluster.remove("pods", f"{gone}-pod")
        status = {
            "state": "Available" if whole else "Creating",
            "description": "",
            "deploymentStatus": told,
            "conditions": [{"type": "DeploymentsReady", "status": "True" if whole else "False", "reason": "scripted"}],
        }

        def say(now: dict[str, Any]) -> None:
            now["status"] = status

        try:
            if thing.get("status") != status:
                self.cluster.edit("seldondeployments", model, say)
        except KeyError:
            return  # deleted meanwhile

    def _pod(self, model: str, name: str, one: dict[str, Any], fate: str, up: bool) -> None:
        if not one.get("replicas", 1) or fate == "forbidden":
            self.cluster.remove("pods", f"{model}-{name}-pod")
            return
        init, main = {"name": "verify"}, {"name": model}
        if fate == "changed":
            message = json.dumps({"error": "IntegrityError", "message": "the files are not the sealed ones"})
            init |= {"lastState": {"terminated": {"exitCode": 3, "reason": "Error", "message": message}}}
        if fate == "broken":
            ended = {"exitCode": 1, "reason": "Error", "message": "weights are missing"}
            main |= {
                "restartCount": 2,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": ended},
            }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{model}-{name}-pod", "labels": dict(one["labels"])},
            "status": {"initContainerStatuses": [init], "containerStatuses": [main | {"ready": up}]},
        }
        self.cluster.put("pods", pod)

    # -- gateway, executors, Prometheus

    def ask(self, model: str) -> tuple[int, dict[str, Any]]:
        with self._lock:
            routes, up = dict(self.routes.get(model, {})), set(self.available.get(model, ()))
            shadow, percent = self.mirrors.get(model, ("", 0))
        if not sum(routes.values()):
            return 404, {"error": "no route"}
        chosen = random.choices(list(routes), list(routes.values()))[0]
        if shadow in up and random.random() * 100 < percent:
            self.direct(model, shadow)
        return self.direct(model, chosen) if chosen in up else (503, {"error": "no healthy upstream"})

    def direct(self, model: str, predictor: str) -> tuple[int, dict[str, Any]]:
        code = 500 if predictor in self.failing else 200
        with self._lock:
            self.counts[model, predictor, str(code)] += 1
        if code == 500:
            return 500, {"error": "the model raised"}
        return 200, {"model_name": model, "model_version": predictor[1:], "outputs": []}

    def query(self, text: str, at: str | None) -> list[dict[str, Any]]:
        found = re.search(r'deployment_name="([^"]*)"', text)
        assert found, text
        if at is not None:
            return []
        now, rows = self.clock(), []
        with self._lock:
            counts = {key: n for key, n in self.counts.items() if key[0] == found[1]}
        prefix = "seldon_api_executor_server_requests_seconds"
        for (model, predictor, code), n in counts.items():
            labels = {"deployment_name": model, "predictor_name": predictor, "instance": f"{model}-{predictor}"}
            rows.append((n, {"__name__": f"{prefix}_count", "code": code, **labels}))
            rows.append((now, {"wt": "at", "code": code, **labels}))
        for predictor in {key[1] for key in counts}:
            total = sum(n for key, n in counts.items() if key[1] == predictor)
            labels = {"deployment_name": found[1], "predictor_name": predictor, "instance": f"{found[1]}-{predictor}"}
            rows += [(total, {"__name__": f"{prefix}_bucket", "le": le, **labels}) for le in ("0.05", "+Inf")]
        return [{"metric": labels, "value": [now, str(value)]} for value, labels in rows]


def _handler(seldon: Seldon) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None: ...

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == "/api/v1/query":
                if seldon.blind:
                    return self._send(503, {"status": "error", "error": "scripted"})
                asked = parse_qs(raw.decode())
                rows = seldon.query(asked["query"][0], asked.get("time", [None])[0])
                return self._send(200, {"status": "success", "data": {"resultType": "vector", "result": rows}})
            if found := re.fullmatch(r"/seldon/models/([^/]+)/v2/models/\1/infer", self.path):
                return self._send(*seldon.ask(found[1]))
            if found := re.fullmatch(r"/direct/([^/]+)/([^/]+)/v2/models/\1/infer", self.path):
                seldon.probes[found[2]] += 1
                return self._send(*seldon.direct(found[1], found[2]))
            return self._send(404, {"error": self.path})

        def do_GET(self) -> None:
            ready = re.fullmatch(r"/direct/([^/]+)/([^/]+)/v2/models/\1/ready", self.path)
            self._send(200 if ready else 404, {})

        def _send(self, status: int, body: Any) -> None:
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    return Handler
