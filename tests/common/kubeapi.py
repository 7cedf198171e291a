"""A Kubernetes API over real HTTP, as much of it as our client uses, with faults on demand.

Kept like the real one: resourceVersion and generation, 409 on a stale version, server-side apply with field owners
(lists without merge keys belong to whoever applied them last), watches that go on from a version or end with 410,
strict field validation against a schema, bearer tokens, proxies to services.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Schema = Callable[[dict[str, Any]], list[str]]
#: Metadata that the API keeps by itself.
_KEPT = ("resourceVersion", "generation", "uid")


@dataclass
class Fault:
    """What happens to the next ``times`` requests whose ``METHOD PATH?QUERY`` matches.

    Attributes:
        status: answered instead; 0: the connection is cut, or, with ``wait_s`` alone, the answer is only late.
        wait_s: before anything else.
        done: the request is carried out before its answer is lost.
    """

    match: str
    status: int = 0
    times: int = 1
    wait_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "scripted"
    reason: str = ""
    done: bool = False


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    body: Any

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Cluster:
    """The API's state, and the server in front of it.

    Args:
        kinds: plural to (API prefix, schema); only these are served.
        token: the bearer token that is known; None: everybody.
    """

    def __init__(self, kinds: dict[str, tuple[str, Schema | None]], token: str | None = "secret") -> None:
        self.kinds, self.token = kinds, token
        self.namespaces = {"models"}
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.owners: dict[tuple[str, str], dict[str, set[tuple[str, ...]]]] = {}
        self.history: list[tuple[int, str, str, dict[str, Any]]] = []
        self.oldest = 0  # versions before this are forgotten
        self.version = 100
        self.changed = threading.Condition()
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.pages: dict[str, Any] = {}  # what a GET of exactly that path answers: discovery, things outside namespaces
        self.denied: list[str] = []  # patterns of METHOD PATH, or "verb plural", that are forbidden
        self.services: dict[str, tuple[str, int, str]] = {}  # name to host, port, prefix
        self.cut_watches = threading.Event()
        #: The whole API is away: it answers this status to everybody, or ``cut``, or ``hang``. Empty: it is there.
        self.away: int | str = ""
        self.stopping = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Cluster:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping = True
        with self.changed:
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, path: Path, token: str = "secret", namespace: str = "models") -> str:
        """Write one that leads here."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "me", "user": {"token": token}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me", "namespace": namespace}}],
        }
        path.write_text(json.dumps(config))
        return str(path)

    # -- for tests and controllers

    def get(self, plural: str, name: str) -> dict[str, Any] | None:
        with self.changed:
            return copy.deepcopy(self.objects.get((plural, name)))

    def all(self, plural: str) -> list[dict[str, Any]]:
        with self.changed:
            return [copy.deepcopy(one) for (kind, _), one in sorted(self.objects.items()) if kind == plural]

    def put(self, plural: str, thing: dict[str, Any]) -> None:
        """Somebody else writes: create, or replace as a whole."""
        with self.changed:
            self._store(plural, copy.deepcopy(thing))

    def edit(
        self, plural: str, name: str, change: Callable[[dict[str, Any]], Any], manager: str = "", sub: str = ""
    ) -> None:
        """Somebody else writes. With ``manager`` the fields that differ then are theirs, as of an update (by the
        subresource ``sub``): ``managedFields`` says so."""
        with self.changed:
            before, thing = self.objects[plural, name], copy.deepcopy(self.objects[plural, name])
            change(thing)
            if manager:
                owners = self.owners.setdefault((plural, name), {})
                taken = {path for path in _leaves(thing) if _at(before, path) != _at(thing, path)}
                for paths in owners.values():
                    paths -= taken
                owners.setdefault(f"{manager}/Update/{sub}", set()).update(taken)
                self._say_owners(plural, name, thing)
            self._store(plural, thing)

    def _say_owners(self, plural: str, name: str, thing: dict[str, Any]) -> None:
        said: list[dict[str, Any]] = []
        for who, paths in self.owners.get((plural, name), {}).items():
            manager, operation, *sub = who.split("/")
            fields: dict[str, Any] = {}
            for path in sorted(paths):
                _set(fields, tuple(f"f:{part}" for part in path), {})
            one = {"manager": manager, "operation": operation, "fieldsV1": fields, "time": "2026-01-01T00:00:00Z"}
            said += [{**one, **({"subresource": sub[0]} if sub and sub[0] else {})}] if paths else []
        thing["metadata"]["managedFields"] = said

    def remove(self, plural: str, name: str) -> None:
        with self.changed:
            self._drop(plural, name)

    def forget_history(self) -> None:
        with self.changed:
            self.oldest = self.version

    def asked(self, since: int = 0) -> list[str]:
        """``METHOD PATH`` of the requests so far, in order."""
        return [str(one) for one in self.requests[since:]]

    # -- storing; the lock is held

    def _store(self, plural: str, thing: dict[str, Any]) -> dict[str, Any]:
        metadata, name = thing["metadata"], thing["metadata"]["name"]
        before = self.objects.get((plural, name))
        if before is not None:
            if _bare(before) == _bare(thing):
                return before
            more = 0 if before.get("spec") == thing.get("spec") else 1
            metadata["uid"] = before["metadata"]["uid"]
            metadata["generation"] = before["metadata"]["generation"] + more
        else:
            metadata["uid"], metadata["generation"] = f"uid-{self.version}", 1
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        self.objects[plural, name] = thing
        self._tell("MODIFIED" if before else "ADDED", plural, thing)
        return thing

    def _drop(self, plural: str, name: str) -> None:
        thing = self.objects.pop((plural, name), None)
        self.owners.pop((plural, name), None)
        if thing is not None:
            self.version += 1
            thing = copy.deepcopy(thing)
            thing["metadata"]["resourceVersion"] = str(self.version)
            self._tell("DELETED", plural, thing)

    def _tell(self, what: str, plural: str, thing: dict[str, Any]) -> None:
        self.history.append((self.version, what, plural, copy.deepcopy(thing)))
        self.changed.notify_all()

    # -- verbs; each answers (status, body)

    def create(self, plural: str, body: dict[str, Any], manager: str) -> tuple[int, Any]:
        with self.changed:
            name = body["metadata"]["name"]
            if (plural, name) in self.objects:
                return _status(409, "AlreadyExists", f'{plural} "{name}" already exists')
            if problems := self._problems(plural, body):
                return _status(400, "BadRequest", f"strict decoding error: {'; '.join(problems)}")
            thing = self._store(plural, copy.deepcopy(body))
            self.owners[plural, name] = {f"{manager}/Update": set(_leaves(body))}
            return 201, copy.deepcopy(thing)

    def apply(self, plural: str, name: str, body: dict[str, Any], manager: str, force: bool) -> tuple[int, Any]:
        with self.changed:
            before = self.objects.get((plural, name))
            asked = body["metadata"].get("resourceVersion")
            if asked is not None and before is not None and asked != before["metadata"]["resourceVersion"]:
                return _status(409, "Conflict", f"{plural} {name!r}: the object has been modified")
            uid = body["metadata"].get("uid")  # of what is not there, a version alone does not keep it from being made
            if uid is not None and (before is None or uid != before["metadata"]["uid"]):
                return _status(
                    409, "Conflict", f"{plural} {name!r}: uid mismatch: the provided object specified uid {uid}"
                )
            if problems := self._problems(plural, body):
                return _status(400, "BadRequest", f"strict decoding error: {'; '.join(problems)}")
            owners = self.owners.setdefault((plural, name), {})
            me, mine = f"{manager}/Apply", set(_leaves(body))
            others = {path for who, paths in owners.items() if who != me for path in paths}
            thing: dict[str, Any] = copy.deepcopy(before) if before else {"metadata": {}}
            taken = {path for path in mine & others if before and _at(before, path) != _at(body, path)}
            if taken and not force:
                return _status(409, "Conflict", f"Apply failed with conflicts: {sorted(taken)}")
            for path in owners.get(me, set()) - mine - others:
                _delete(thing, path)
            for path in mine:
                _set(thing, path, copy.deepcopy(_at(body, path)))
            owners[me] = mine
            for who, paths in owners.items():
                if who != me:
                    paths -= taken
            thing["apiVersion"], thing["kind"] = body["apiVersion"], body["kind"]
            if "managedFields" in thing["metadata"]:  # said only where somebody else has owned something
                self._say_owners(plural, name, thing)
            return (200 if before else 201), copy.deepcopy(self._store(plural, thing))

    def merge(self, plural: str, name: str, body: dict[str, Any]) -> tuple[int, Any]:
        with self.changed:
            before = self.objects.get((plural, name))
            if before is None:
                return _status(404, "NotFound", f'{plural} "{name}" not found')
            return 200, copy.deepcopy(self._store(plural, _merge(copy.deepcopy(before), body)))

    def delete(self, plural: str, name: str, body: Any) -> tuple[int, Any]:
        with self.changed:
            before = self.objects.get((plural, name))
            if before is None:
                return _status(404, "NotFound", f'{plural} "{name}" not found')
            asked = ((body or {}).get("preconditions") or {}).get("resourceVersion")
            if asked is not None and asked != before["metadata"]["resourceVersion"]:
                return _status(409, "Conflict", "the resourceVersion in the precondition does not match")
            self._drop(plural, name)
            return 200, {"kind": "Status", "status": "Success"}

    def listed(self, plural: str, labels: str) -> tuple[int, Any]:
        with self.changed:
            items = [one for one in self.all(plural) if _selected(one, labels)]
            return 200, {"kind": "List", "metadata": {"resourceVersion": str(self.version)}, "items": items}

    def watched(self, plural: str, labels: str, since: int, for_s: float) -> Iterator[dict[str, Any]]:
        end = time.monotonic() + for_s
        if since < self.oldest:
            yield {"type": "ERROR", "object": _status(410, "Expired", f"too old resource version: {since}")[1]}
            return
        while not self.stopping:
            with self.changed:
                fresh = [one for one in self.history if one[0] > since]
                if not fresh:
                    left = end - time.monotonic()
                    if left <= 0:
                        return
                    self.changed.wait(min(left, 0.5))
            for at, what, kind, thing in fresh:
                since = at
                if kind == plural and _selected(thing, labels):
                    yield {"type": what, "object": thing}
            if self.cut_watches.is_set() or self.away:
                raise ConnectionAbortedError

    def _problems(self, plural: str, body: dict[str, Any]) -> list[str]:
        schema = self.kinds[plural][1]
        return schema(body) if schema else []


def _handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None: ...

        def _do(self) -> None:
            split = urlsplit(self.path)
            query = dict(parse_qsl(split.query, keep_blank_values=True))
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(raw) if raw else None
            with cluster.changed:
                cluster.requests.append(Request(self.command, split.path, query, body))
                fault = self._fault()
            if fault is not None:
                time.sleep(fault.wait_s)
                if fault.done:
                    self._answer(split.path, query, body)
                if fault.status:
                    return self._send(
                        fault.status, _status(fault.status, fault.reason, fault.message)[1], fault.headers
                    )
                if not fault.wait_s or fault.done:
                    return self._cut()
            elif cluster.away:
                return self._gone(cluster.away)
            if query.get("watch", "").lower() in ("1", "true"):
                return self._watch(split.path, query)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who asked is gone
                self._send(*self._answer(split.path, query, body))
            return None

        do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _do

        def _cut(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def _gone(self, how: int | str) -> None:
            if isinstance(how, int):
                reason = "Unauthorized" if how == 401 else "ServiceUnavailable"
                return self._send(*_status(how, reason, reason))
            if how == "hang":  # until it is back, or whoever asked has gone
                self.connection.settimeout(0.05)
                while cluster.away == how and not cluster.stopping:
                    with contextlib.suppress(TimeoutError):
                        if not self.connection.recv(1):
                            break
            return self._cut()

        def _fault(self) -> Fault | None:
            for fault in cluster.faults:
                if fault.times and re.search(fault.match, f"{self.command} {self.path}"):
                    fault.times -= 1
                    return fault
            return None

        def _known(self) -> bool:
            return cluster.token is None or self.headers.get("Authorization") == f"Bearer {cluster.token}"

        def _answer(self, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
            if not self._known():
                return _status(401, "Unauthorized", "Unauthorized")
            if any(re.search(pattern, f"{self.command} {path}") for pattern in cluster.denied):
                return _status(403, "Forbidden", f'User "me" cannot do this: {self.command} {path}')
            if self.command == "GET" and path in cluster.pages:
                return 200, cluster.pages[path]
            if path.endswith("subjectaccessreviews"):
                asked = body["spec"]["resourceAttributes"]
                resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
                allowed = f"{asked['verb']} {resource}" not in cluster.denied
                return 201, {**body, "status": {"allowed": allowed}}
            if proxied := re.fullmatch(r"/api/v1/namespaces/([^/]+)/services/([^/]+)/proxy(/.*)", path):
                return self._through(proxied[2], proxied[3], body)
            found = re.fullmatch(r"(/apis?/.+?)/namespaces/([^/]+)/([^/]+)(?:/([^/]+))?(?:/status)?", path)
            known = cluster.kinds.get(found[3]) if found else None
            if found is None or known is None or known[0] != found[1]:
                return 404, "404 page not found\n"
            plural, name = found[3], found[4]
            if found[2] not in cluster.namespaces:
                return _status(404, "NotFound", f'namespaces "{found[2]}" not found')
            if self.command == "POST":
                return cluster.create(plural, body, query.get("fieldManager", "?"))
            if name is None:
                return cluster.listed(plural, query.get("labelSelector", ""))
            if self.command == "GET":
                thing = cluster.get(plural, name)
                return (200, thing) if thing else _status(404, "NotFound", f'{plural} "{name}" not found')
            if self.command == "DELETE":
                return cluster.delete(plural, name, body)
            if self.headers["Content-Type"] == "application/apply-patch+yaml":
                return cluster.apply(plural, name, body, query["fieldManager"], query.get("force") == "true")
            assert self.headers["Content-Type"] == "application/merge-patch+json", self.headers["Content-Type"]
            return cluster.merge(plural, name, body)

        def _through(self, service: str, path: str, body: Any) -> tuple[int, Any]:
            place = cluster.services.get(service.partition(":")[0])
            if place is None:
                return _status(503, "ServiceUnavailable", f'no endpoints available for service "{service}"')
            connection = http.client.HTTPConnection(place[0], place[1], timeout=10)
            try:
                sent = None if body is None else json.dumps(body)
                own = {name: value for name, value in self.headers.items() if name.lower() == "seldon-model"}
                connection.request(self.command, place[2] + path, sent, {"Content-Type": "application/json", **own})
                answer = connection.getresponse()
                raw = answer.read() or b"{}"
                return answer.status, json.loads(raw) if raw[:1] in b"{[" else raw.decode()
            finally:
                connection.close()

        def _watch(self, path: str, query: dict[str, str]) -> None:
            plural = path.rsplit("/", 1)[1]
            if not self._known():
                return self._send(*_status(401, "Unauthorized", "Unauthorized"))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.close_connection = True
            for_s, labels = float(query.get("timeoutSeconds", "60")), query.get("labelSelector", "")
            try:
                for event in cluster.watched(plural, labels, int(query["resourceVersion"]), for_s):
                    line = json.dumps(event).encode() + b"\n"
                    self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")
            except OSError:
                self._cut()
            return None

        def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

    return Handler


def _status(code: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
    return code, {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


def _bare(thing: dict[str, Any]) -> dict[str, Any]:
    return {**thing, "metadata": {name: value for name, value in thing["metadata"].items() if name not in _KEPT}}


def _leaves(thing: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths to everything that is no map: a list is one field, as lists without merge keys are."""
    for name, value in thing.items():
        if (not path and name in ("apiVersion", "kind")) or (path == ("metadata",) and name in _KEPT):
            continue
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name)


def _at(thing: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(thing, dict) or name not in thing:
            return None
        thing = thing[name]
    return thing


def _set(thing: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        thing = thing.setdefault(name, {})
    thing[path[-1]] = value


def _delete(thing: dict[str, Any], path: tuple[str, ...]) -> None:
    inner = thing.get(path[0])
    if len(path) > 1 and isinstance(inner, dict):
        _delete(inner, path[1:])
        if inner:  # what has nothing left goes, too
            return
    thing.pop(path[0], None)


def _merge(into: Any, changes: Any) -> Any:
    if not isinstance(changes, dict) or not isinstance(into, dict):
        return changes
    for name, value in changes.items():
        if value is None:
            into.pop(name, None)
        else:
            into[name] = _merge(into.get(name), value) if isinstance(value, dict) else value
    return into


def _selected(thing: dict[str, Any], labels: str) -> bool:
    has = thing["metadata"].get("labels") or {}
    for part in filter(None, labels.split(",")):
        name, equals, value = part.partition("=")
        if name not in has or (equals and has[name] != value):
            return False
    return True
