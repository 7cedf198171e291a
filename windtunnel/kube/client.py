"""Requests to the API: plain dicts in, plain dicts out, refusals as our errors, tried again where that is safe.

What may be repeated is: reads; deletes; an apply, whose second time changes nothing; a create, whose second time finds
the first and says so (``ConflictError``). After a connection that was cut nobody knows whether the API did what was
asked, so all of these are tried again, within ``patience_s``. Conflicts are the caller's to decide, and so is a
credential that is refused twice.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import quote, urlencode

from windtunnel.errors import UnavailableError
from windtunnel.kube.access import Access
from windtunnel.kube.answers import AGAIN, LONGEST_WAIT_S, Answer, error_of, wait_before
from windtunnel.kube.kinds import ACCESS_REVIEW, ACCESS_REVIEW_OF, Kind

#: Who owns the fields that we write, as the API's ``managedFields`` name it.
FIELD_MANAGER = "windtunnel"
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"


class Client:
    """The API of one cluster, for one namespace; safe to share between threads.

    Args:
        access: which cluster, as whom.
        timeout_s: to connect, and between two bytes of an answer.
        patience_s: how long one request is tried, waits included.
        sleep, monotonic: others than the clock's, for tests.
    """

    def __init__(
        self,
        access: Access | None = None,
        *,
        timeout_s: tuple[float, float] = (3.0, 15.0),
        patience_s: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.access = access or Access()
        self._timeout_s, self._patience_s = timeout_s, patience_s
        self._sleep, self._monotonic = sleep, monotonic
        self._lock = threading.Lock()
        self._api: Any = None
        self._namespace: str | None = None
        self._ahead = 0.0

    def now(self) -> float:
        """The API's own time, in seconds since the epoch, by what it said last; until it has said any, this machine's.

        Times that stand in objects are the API's: by another clock a pod is minutes older or younger than it is.
        """
        return time.time() + self._ahead

    @property
    def namespace(self) -> str:
        """The namespace that objects are looked for in.

        Raises:
            ForbiddenError: there is no access.
        """
        self._connected()
        assert self._namespace is not None
        return self._namespace

    @property
    def address(self) -> str:
        """The API's.

        Raises:
            ForbiddenError: there is no access.
        """
        return str(self._connected().configuration.host)

    @property
    def verified(self) -> bool:
        """Whether the API's certificate is checked; plain HTTP has none."""
        settings = self._connected().configuration
        return bool(settings.verify_ssl) and str(settings.host).startswith("https://")

    # -- objects

    def get(self, kind: Kind, name: str) -> dict[str, Any] | None:
        """One object; None when there is none.

        Raises:
            AbsentError: the API serves no such kind.
            ForbiddenError, UnavailableError, ClusterError: as they say.
        """
        answer = self._ask(
            "GET", kind.path(self.namespace, name), tolerate=(404,), doing=self._doing("read", kind, name)
        )
        if answer.status == 404:
            if not answer.told:
                raise error_of(answer, self._doing("read", kind, name))
            return None
        return _object(answer)

    def list(self, kind: Kind, *, labels: str = "", fields: str = "") -> dict[str, Any]:
        """The list object of all that match the selectors: ``items`` and ``metadata.resourceVersion``."""
        query = _selectors(labels, fields)
        return _object(self._ask("GET", kind.path(self.namespace), query, doing=self._doing("list", kind)))

    def listed(self, kind: Kind, *, labels: str = "", fields: str = "") -> tuple[dict[str, Any], float | None]:
        """As ``list``, and the API's own time when it answered, in seconds since the epoch; None: it did not say."""
        answer = self._ask(
            "GET", kind.path(self.namespace), _selectors(labels, fields), doing=self._doing("list", kind)
        )
        return _object(answer), answer.said_at

    def create(self, kind: Kind, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object.

        Raises:
            ConflictError: there is one of that name.
        """
        name = str(manifest["metadata"]["name"])
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        doing = self._doing("create", kind, name)
        return _object(self._ask("POST", kind.path(self.namespace), query, manifest, doing=doing))

    def apply(self, kind: Kind, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Server-side apply: the fields of ``manifest`` become ours and so, all others are left alone.

        With ``metadata.resourceVersion`` it is taken only while the object is what it was at that version.

        Raises:
            ConflictError: it is another one by now.
        """
        name = str(manifest["metadata"]["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        path, doing = kind.path(self.namespace, name), self._doing("apply", kind, name)
        return _object(self._ask("PATCH", path, query, manifest, content_type=_APPLY, doing=doing))

    def patch(self, kind: Kind, name: str, changes: Mapping[str, Any], sub: str | None = None) -> dict[str, Any]:
        """JSON merge patch of one object, or of its subresource ``sub``."""
        path, doing = kind.path(self.namespace, name, sub), self._doing("change", kind, name)
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        return _object(self._ask("PATCH", path, query, changes, content_type=_MERGE, doing=doing))

    def delete(self, kind: Kind, name: str, *, resource_version: str | None = None, grace_s: int | None = None) -> bool:
        """Delete an object and, after it, what belongs to it; False when there is none.

        Args:
            grace_s: what a pod is left to end in; its own unless told.

        Raises:
            ConflictError: it is not at ``resource_version`` any more.
        """
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if resource_version is not None:
            body["preconditions"] = {"resourceVersion": resource_version}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        path, doing = kind.path(self.namespace, name), self._doing("delete", kind, name)
        answer = self._ask("DELETE", path, body=body, tolerate=(404,), doing=doing)
        if answer.status == 404 and not answer.told:
            raise error_of(answer, doing)
        return answer.status != 404

    def may(self, verb: str, kind: Kind, sub: str = "", *, user: str | None = None) -> bool:
        """Whether these credentials may do ``verb`` to objects of ``kind``, in the namespace where they live in one.

        Args:
            user: ask for somebody else, such as ``system:serviceaccount:NAMESPACE:NAME``; asking is a right of its own.
        """
        asked: dict[str, Any] = {
            "resourceAttributes": {
                **({"namespace": self.namespace} if kind.namespaced else {}),
                "verb": verb,
                "group": kind.group,
                "resource": kind.plural,
                "subresource": sub,
            }
        }
        review = ACCESS_REVIEW
        if user is not None:
            review = ACCESS_REVIEW_OF
            asked |= {"user": user, "groups": groups_of(user)}
        body = {"apiVersion": review.api_version, "kind": review.name, "spec": asked}
        doing = f"ask whether {user or 'we'} may {verb} {kind.plural}"
        answer = self._ask("POST", review.path(self.namespace), body=body, doing=doing)
        return bool((_object(answer).get("status") or {}).get("allowed"))

    def look(self, path: str) -> Answer:
        """One GET of a path that is no object's, such as ``/version``; also a 404 is an answer.

        Raises:
            ForbiddenError, UnavailableError, ClusterError: as they say.
        """
        return self._ask("GET", path, tolerate=(404,), doing=f"read {path}")

    # -- through the API to a service

    def through(
        self,
        service: str,
        port: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Answer:
        """One HTTP request to a service of the namespace through the API's proxy; never tried again, but for a token
        that the API did not take: it may have been renewed, and the service has seen nothing yet.

        Args:
            port: its port's name or number.
            headers: further ones, which the service sees.

        Returns:
            Whatever came back: also the service's own refusals.

        Raises:
            UnavailableError: the API did not answer.
        """
        whole = f"/api/v1/namespaces/{self.namespace}/services/{quote(service)}:{quote(port)}/proxy{path}"
        for renewed in (False, True):
            answer = self._once(method, whole, {}, body, "application/json", (self._timeout_s[0], timeout_s), headers)
            if renewed or answer.status != 401 or not answer.told:
                break
            self._forget()
        return answer

    # -- watching

    def stream(
        self, kind: Kind, resource_version: str, *, labels: str = "", fields: str = "", for_s: int = 240
    ) -> Iterator[bytes]:
        """Lines of one watch request, from ``resource_version`` on: an empty one when it is open, then one per change;
        see ``watching.Watch`` for what to make of them.

        Raises:
            ExpiredError: the version is too old.
            UnavailableError: the connection was cut, or said nothing for longer than it may.
        """
        import urllib3

        query = _selectors(labels, fields) | {
            "watch": "1",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(for_s),
        }
        doing = self._doing("watch", kind)
        timeout = (self._timeout_s[0], for_s + self._timeout_s[1])
        with closing(
            self._open("GET", kind.path(self.namespace), query, None, "application/json", timeout)
        ) as response:
            if response.status >= 400:
                raise error_of(Answer.of(response.status, response.data, response.headers), doing)
            yield b""
            rest = b""
            try:
                for chunk in response.stream(None, decode_content=False):
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from (line for line in lines if line.strip())
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise UnavailableError(f"cannot {doing}: the connection was cut: {error!r}") from error

    # -- the wire

    def _doing(self, verb: str, kind: Kind, name: str | None = None) -> str:
        return f"{verb} {kind.where(self.namespace, name)}"

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        *,
        content_type: str = "application/json",
        tolerate: tuple[int, ...] = (),
        doing: str,
    ) -> Answer:
        """One request with its tries; an answer below 400, or one of ``tolerate``."""
        until = self._monotonic() + self._patience_s
        tried, renewed = 0, False
        while True:
            tried += 1
            try:
                answer = self._once(method, path, query or {}, body, content_type, self._timeout_s)
            except UnavailableError as error:
                wait = min(0.25 * 2.0 ** (tried - 1), 8.0)
                if self._monotonic() + wait > until:
                    raise UnavailableError(f"cannot {doing}: {error.message}", hint=error.hint) from error
                self._sleep(wait)
                continue
            self._ahead = answer.ahead(time.time(), self._ahead)
            if answer.status < 400 or answer.status in tolerate:
                return answer
            if answer.status == 401 and not renewed:
                renewed = True  # a token that was renewed on disk, or by its plug-in, since we read it
                self._forget()
                continue
            if answer.status not in AGAIN:
                raise error_of(answer, doing)
            wait = wait_before(answer, tried)
            if wait > LONGEST_WAIT_S or self._monotonic() + wait > until:
                raise error_of(answer, doing)
            self._sleep(wait)

    def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any,
        content_type: str,
        timeout: tuple[float, float],
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        import urllib3

        response = self._open(method, path, query, body, content_type, timeout, headers)
        try:
            return Answer.of(response.status, response.data, response.headers)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UnavailableError(f"the Kubernetes API broke off its answer: {error!r}") from error
        finally:
            response.release_conn()

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any,
        content_type: str,
        timeout: tuple[float, float],
        more: Mapping[str, str] | None = None,
    ) -> Any:
        """The response, its body not read; of whatever status."""
        import urllib3
        from kubernetes.client.exceptions import ApiException

        api = self._connected()
        headers = {"Accept": "application/json", "Content-Type": content_type, **(more or {})}
        try:
            api.update_params_for_auth(headers, [], ["BearerToken"])
            return api.rest_client.pool_manager.request(
                method,
                api.configuration.host.rstrip("/") + path + (f"?{urlencode(query)}" if query else ""),
                body=None if body is None else json.dumps(body).encode(),
                headers={**api.default_headers, **headers},
                timeout=urllib3.Timeout(connect=timeout[0], read=timeout[1]),
                preload_content=False,
                retries=False,
            )
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            raise UnavailableError(
                f"the Kubernetes API at {api.configuration.host} does not answer: {error}",
                hint="is the cluster there, and its certificate the one the kubeconfig names?",
            ) from error

    def _connected(self) -> Any:
        with self._lock:
            if self._api is None:
                self._api, self._namespace = self.access.connect()
            return self._api

    def _forget(self) -> None:
        with self._lock:
            self._api = None


def groups_of(user: str) -> list[str]:
    """The groups that the API puts a user into by itself."""
    prefix, _, rest = user.partition(":serviceaccount:")
    if prefix != "system" or ":" not in rest:
        return ["system:authenticated"]
    namespace = rest.partition(":")[0]
    return ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {name: text for name, text in (("labelSelector", labels), ("fieldSelector", fields)) if text}


def _object(answer: Answer) -> dict[str, Any]:
    if not isinstance(answer.body, dict):
        raise UnavailableError(
            f"the Kubernetes API answered {answer.status} and no JSON: {answer.message[:200]}",
            hint="is this the address of the API itself, not of a page in front of it?",
        )
    return answer.body
