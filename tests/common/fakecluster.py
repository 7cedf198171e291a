"""A Kubernetes API on loopback (kmock, over real HTTP) with nodes, pods, events, logs; lives by a script."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kmock
import yaml

Status = dict[str, Any]
RUNNING: Status = {
    "phase": "Running",
    "containerStatuses": [{"name": "training", "image": "x", "imageID": "x", "ready": True, "restartCount": 0,
                           "state": {"running": {"startedAt": "2026-11-21T10:00:00Z"}}}],
}  # fmt: skip
_POD = r"/api/v1/namespaces/([^/]+)/pods"


def over(code: int, reason: str = "Error", phase: str = "Failed", **more: Any) -> Status:
    """The status of a pod whose container has ended."""
    state = {"terminated": {"exitCode": code, "reason": reason}}
    container = {"name": "training", "image": "x", "imageID": "x", "ready": False, "restartCount": 0, "state": state}
    return {"phase": phase, "containerStatuses": [container], **more}


class Cluster:
    """Pods live as their script says: one status for each time the pod is read, the last one for ever; to a watch, one
    each ``tick`` seconds.

    Attributes:
        requests: method and path of every request, in order.
        pods: name -> the pod as it was made.
        events: name -> its events.
        nodes: None: nobody may list them.
        age: how old a pod says it is when it is made.
        failing: answers to give instead, each once: (method, part of the path, HTTP status).
        lingers: asked with the name of a pod that is to be deleted and its grace; True: it is being deleted until
            somebody takes it out of ``pods``.
        held: asked with a request, and whether it was done; True: it waits.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.pods: dict[str, dict[str, Any]] = {}
        self.removed: list[tuple[str, int | None]] = []
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.nodes: list[dict[str, Any]] | None = None
        self.logs: dict[str, str] = {}
        self.scripts: dict[str, list[Status | Callable[[], Status]]] = {}
        self.script: list[Status | Callable[[], Status]] = [{"phase": "Pending"}]
        self.made: Callable[[dict[str, Any]], None] = lambda pod: None
        self.lingers: Callable[[str, int | None], bool] = lambda name, grace: False
        self.held: Callable[[Any, bool], bool] = lambda request, done: False
        self.failing: list[tuple[str, str, int]] = []
        self.age = timedelta(0)
        self.tokens: set[str] = set()
        self.refusals: list[str] = []  # of pods that are to be made, each once: 403 and these words
        self.tick = 0.05
        self.version = 0
        self.listed: dict[str, dict[str, Any]] = {}
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.url = ""

    def __enter__(self) -> Cluster:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None and self._end is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(60)

    def kubeconfig(self, path: Path) -> Path:
        """Written to ``path``: a file with which any Kubernetes client finds this API."""
        made = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {"token": "a-token"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        }
        path.write_text(yaml.safe_dump(made))
        return path

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with kmock.KubernetesScaffold() as api, kmock.Server(api) as server:
            for method, path, answer in (
                ("get", rf"{_POD}/[^/]+/log", self._log),
                ("get", rf"{_POD}/[^/]+", self._read),
                ("get", _POD, self._list),
                ("post", _POD, self._create),
                ("delete", rf"{_POD}/[^/]+", self._delete),
                ("patch", rf"{_POD}/[^/]+", self._patch),
                ("get", r"/api/v1/namespaces/[^/]+/events", self._list_events),
                ("get", r"/api/v1/nodes", self._list_nodes),
            ):
                api[method, re.compile(f"^{path}$")] << self._answering(answer)
            self.url = str(server.url).rstrip("/")
            self._ready.set()
            await self._end.wait()

    def _answering(self, answer: Callable[[Any], Any]) -> Callable[[Any], Any]:
        async def respond(request: Any) -> Any:
            method, path = str(request.method).rpartition(".")[2].upper(), str(request.url.path)
            self.requests.append((method, path))
            self.tokens.add(str(request.headers.get("Authorization", "")))
            for at, (verb, part, status) in enumerate(self.failing):
                if verb == method and part in path:
                    del self.failing[at]
                    raise _error(status, "as the script says")
            while self.held(request, False):
                await asyncio.sleep(self.tick)
            answered = answer(request)
            while self.held(request, True):
                await asyncio.sleep(self.tick)
            return answered

        return respond

    @staticmethod
    def _name(request: Any) -> str:
        return str(request.url.path).split("/pods/")[1].split("/")[0]

    def status(self, name: str) -> Status:
        script = self.scripts[name]
        found = script.pop(0) if len(script) > 1 else script[0]
        return found() if callable(found) else found

    def _whole(self, name: str) -> dict[str, Any]:
        return {**self.pods[name], "status": self.status(name)}

    def _read(self, request: Any) -> Any:
        name = self._there(request)
        return self._whole(name)

    def _list(self, request: Any) -> Any:
        wanted = str(request.params.get("labelSelector", ""))
        if str(request.params.get("watch", "")).lower() in ("true", "1"):
            version, for_s = str(request.params["resourceVersion"]), float(request.params["timeoutSeconds"])
            return self._watch(self._namespace(request), wanted, version, for_s)
        found = self._selected(self._namespace(request), wanted)
        self.version += 1
        self.listed[str(self.version)] = found
        return {
            "kind": "PodList", "metadata": {"resourceVersion": str(self.version)}, "items": list(found.values()),
        }  # fmt: skip

    @staticmethod
    def _namespace(request: Any) -> str:
        return str(request.url.path).split("/namespaces/")[1].split("/")[0]

    def _there(self, request: Any) -> str:
        """Name of the pod that a request is about.

        Raises:
            KubernetesError: it is not in that namespace.
        """
        name = self._name(request)
        if name not in self.pods or not _lives(self.pods[name], self._namespace(request)):
            raise _error(404, f'pods "{name}" not found')
        return name

    def _selected(self, namespace: str, wanted: str) -> dict[str, Any]:
        return {
            name: self._whole(name)
            for name, pod in list(self.pods.items())
            if _selected(pod["metadata"]["labels"], wanted) and _lives(pod, namespace)
        }

    async def _watch(self, namespace: str, wanted: str, version: str, for_s: float) -> Any:
        """What changed since that list or event, and whatever changes now."""
        known, end = self.listed[version], asyncio.get_running_loop().time() + for_s
        yield {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}}
        while asyncio.get_running_loop().time() < end:
            now = self._selected(namespace, wanted)
            for name in known.keys() | now.keys():
                if (thing := now.get(name)) == known.get(name):
                    continue
                what = "DELETED" if thing is None else "MODIFIED" if name in known else "ADDED"
                self.version += 1
                at = str(self.version)
                meta = {**(thing or known[name])["metadata"], "resourceVersion": at}
                yield {"type": what, "object": {**(thing or known[name]), "metadata": meta}}
            known = self.listed[str(self.version)] = now
            await asyncio.sleep(self.tick)

    def _create(self, request: Any) -> Any:
        pod = dict(request.data)
        name = str(pod["metadata"]["name"])
        if self.refusals:
            raise _error(403, self.refusals.pop(0))
        pod["metadata"]["namespace"] = self._namespace(request)
        pod["metadata"]["creationTimestamp"] = (datetime.now(UTC) - self.age).isoformat()
        if name in self.pods:
            raise _error(409, f'pods "{name}" already exists')
        self.pods[name] = pod
        self.scripts[name] = list(self.script)
        self.made(pod)
        return self._whole(name)

    def _delete(self, request: Any) -> Any:
        name = self._there(request)
        said = request.data if isinstance(request.data, dict) else {}
        grace = request.params.get("gracePeriodSeconds") or said.get("gracePeriodSeconds")
        self.removed.append((name, int(grace) if grace else None))
        if self.lingers(name, int(grace) if grace else None):
            self.pods[name]["metadata"].setdefault("deletionTimestamp", datetime.now(UTC).isoformat())
            return self._whole(name)
        was = self._whole(name)
        del self.pods[name]
        return was

    def _patch(self, request: Any) -> Any:
        name = self._there(request)
        for part in ("labels", "annotations"):
            self.pods[name]["metadata"].setdefault(part, {}).update(request.data["metadata"].get(part) or {})
        return self._whole(name)

    def _log(self, request: Any) -> Any:
        text = self.logs.get(self._name(request), "the pod's log\n")
        if str(request.params.get("timestamps", "")).lower() == "true":
            text = "".join(f"2026-11-21T10:00:00.{at:09d}Z {line}\n" for at, line in enumerate(text.splitlines(), 1))
        return text.encode()

    def _list_events(self, request: Any) -> Any:
        name = str(request.params.get("fieldSelector", "")).rpartition("=")[2]
        made = [
            {
                "metadata": {
                    "name": f"{name}.{at}",
                    "uid": f"{name}.{at}",
                    "namespace": "training",
                    "resourceVersion": "1",
                },
                "involvedObject": {"name": name},
                "type": "Warning",
                **event,
            }
            for at, event in enumerate(self.events.get(name, []))
        ]
        return {"kind": "EventList", "metadata": {"resourceVersion": "1"}, "items": made}

    def _list_nodes(self, request: Any) -> Any:
        if self.nodes is None:
            raise _error(403, "nodes is forbidden")
        return {"kind": "NodeList", "metadata": {}, "items": self.nodes}


def _lives(pod: dict[str, Any], namespace: str) -> bool:
    """Whether it is in that namespace; one that does not say is in all of them."""
    return pod["metadata"].get("namespace", namespace) == namespace


def _selected(labels: dict[str, str], selector: str) -> bool:
    for term in filter(None, selector.split(",")):
        if term.startswith("!"):
            if term[1:] in labels:
                return False
        elif "!=" in term:
            key, value = term.split("!=")
            if labels.get(key) == value:
                return False
        else:
            key, _, value = term.partition("=")
            if labels.get(key) != value:
                return False
    return True


def _error(status: int, message: str) -> Exception:
    found: Exception = kmock.KubernetesError(status=status, reason=f"Status{status}", message=message)
    return found


class Kubelet:
    """Runs the pods of a cluster as processes: their command, their environment and nothing else, folders of their own.

    Args:
        folder: stands for the node's disk.
        code: what the image holds beside Python's packages, as a folder to import from.
        secrets: ``SECRET/KEY`` -> value.
    """

    def __init__(self, cluster: Cluster, folder: Path, code: Path, secrets: dict[str, str] | None = None) -> None:
        self.cluster, self.folder, self.code, self.secrets = cluster, folder, code, secrets or {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        cluster.made = self.run

    def _variable(self, given: dict[str, Any], mounted: dict[str, Path]) -> str | None:
        if "value" in given:
            return str(mounted.get(given["value"], given["value"]))
        reference = given["valueFrom"].get("secretKeyRef")
        return self.secrets[f"{reference['name']}/{reference['key']}"] if reference else None

    def run(self, pod: dict[str, Any]) -> None:
        name, container = str(pod["metadata"]["name"]), pod["spec"]["containers"][0]
        paths = [str(each["mountPath"]) for each in container["volumeMounts"]]
        mounted = {path: self.folder / name / path.strip("/") for path in paths}
        for path in mounted.values():
            path.mkdir(parents=True)
        found = {each["name"]: self._variable(each, mounted) for each in container["env"]}
        environment = {key: value for key, value in found.items() if value is not None}
        log = self.folder / name / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *container["command"][1:]], stdout=out, stderr=out, cwd=mounted["/windtunnel"],
                env={**environment, "PATH": os.environ["PATH"], "PYTHONPATH": str(self.code)},
            )  # fmt: skip
        self.processes[name] = process

        def status() -> Status:
            code = process.poll()
            self.cluster.logs[name] = log.read_text()
            if code is None:
                return RUNNING
            return over(code, "Completed", "Succeeded") if code == 0 else over(code)

        self.cluster.scripts[name] = [status]

    def stop(self) -> None:
        """End what still runs."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
            process.wait(100)
