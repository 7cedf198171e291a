"""MLflow's REST API by plain HTTP: retries with back-off, and errors that name what was asked."""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from windtunnel.errors import DescriptionError, NotFoundError, RefusedError, RegistryError, UnavailableError

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"

#: Answers that say "not now".
_AGAIN = frozenset({429, 502, 503, 504})
_MOST_PAUSE = 20.0
EXISTS = "RESOURCE_ALREADY_EXISTS"
#: MLflow's authentication answers so for what the user may not see, and for what is not there.
HIDDEN = "PERMISSION_DENIED"


@dataclass(frozen=True)
class Address:
    """Where a server is and who we are there.

    Args:
        url: base URL.
        login, password: HTTP basic authentication; without a login none.
        token: bearer token; goes before login and password.
        verify: whether the server's certificate is checked.
        ca: file of certificates to check it with; the system's when empty.
        headers: sent with each request.
        timeout: seconds for one request.
        attempts: how often one request is tried.
    """

    url: str
    login: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    verify: bool = True
    ca: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float = 10.0
    attempts: int = 5

    def tls(self) -> ssl.SSLContext | bool:
        """What httpx checks the certificate with.

        Raises:
            DescriptionError: the CA file cannot be read.
        """
        if not self.verify:
            return False
        if not self.ca:
            return True
        try:
            return ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise DescriptionError(
                f"the CA file {self.ca!r} of the MLflow connection cannot be used: {error}",
                hint="expected the path of a PEM file that the worker can read",
            ) from error


class MlflowRest:
    """A connection to one MLflow server, usable from many threads.

    Every call raises ``NotFoundError`` (no such thing), ``RefusedError`` (not allowed, or another change is in the
    way), ``RegistryError`` (the request is wrong; ``code`` is MLflow's) or ``UnavailableError`` (no answer after all
    attempts).
    """

    def __init__(self, address: Address, *, transport: httpx.BaseTransport | None = None, pause: float = 0.5) -> None:
        self.address = address
        self.pause = pause
        headers = dict(address.headers)
        if address.token:
            headers["Authorization"] = f"Bearer {address.token}"
        self._http = httpx.Client(
            base_url=address.url,
            auth=(address.login, address.password) if address.login and not address.token else None,
            headers=headers,
            timeout=address.timeout,
            verify=address.tls(),
            # A proxy from the environment has no business between programs on one machine.
            trust_env=httpx.URL(address.url).host not in ("127.0.0.1", "localhost", "::1"),
            transport=transport,
        )
        self._never = threading.Event()

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """GET below ``/api/2.0/mlflow``; parameters that are None are left out."""
        return self.call("GET", API + path, params=_given(params))

    def send(self, method: str, path: str, *, repeat: bool = True, **body: Any) -> dict[str, Any]:
        """POST, PATCH or DELETE below ``/api/2.0/mlflow``; values that are None are left out.

        Args:
            repeat: whether the request may be sent again when its answer was lost.
        """
        return self.call(method, API + path, body=_given(body), repeat=repeat)

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        repeat: bool = True,
    ) -> dict[str, Any]:
        """One request, tried up to ``address.attempts`` times, and its JSON object."""
        response, asked = self._answer(method, path, params=params, body=body, repeat=repeat)
        return self._plain(response, asked)

    def file(self, path: str) -> bytes:
        """A file of the server's artifact store, by its path there; for small ones, as it is held in memory."""
        return self._answer("GET", ARTIFACTS + quote(path))[0].content

    def _answer(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        repeat: bool = True,
    ) -> tuple[httpx.Response, str]:
        said = ", ".join(f"{key}={value!r}"[:120] for key, value in (params or body or {}).items() if key in _NAMING)
        asked = f"{method} {path}" + (f" ({said})" if said else "")
        for attempt in range(1, max(1, self.address.attempts) + 1):
            last = attempt >= self.address.attempts
            try:
                response = self._http.request(method, path, params=params, json=None if body is None else dict(body))
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                if last or isinstance(error.__cause__, ssl.SSLError) or "CERTIFICATE" in str(error):
                    raise self._unreachable(asked, error, attempt) from error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if last or not repeat or isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL)):
                    raise self._unreachable(asked, error, attempt) from error
            else:
                if response.is_success:
                    return response, asked
                if last or response.status_code not in _AGAIN:
                    raise failure(response, asked, self.address.url)
                asked_pause = response.headers.get("Retry-After", "")
                if asked_pause.isdecimal():
                    self._never.wait(min(float(asked_pause), _MOST_PAUSE))
                    continue
            self._never.wait(min(self.pause * 2 ** (attempt - 1), _MOST_PAUSE) * random.uniform(0.5, 1.0))
        raise AssertionError("the last attempt returns or raises")

    def pages(self, path: str, key: str, limit: int, *, post: bool = False, **query: Any) -> Iterator[dict[str, Any]]:
        """Results of a search over all its pages, ``limit`` at most."""
        token: str | None = None
        left = limit
        while left > 0:
            asked = {**query, "max_results": min(left, 200), "page_token": token}
            page = self.send("POST", path, **asked) if post else self.get(path, **asked)
            found = page.get(key) or []
            yield from found[:left]
            left -= len(found)
            token = page.get("next_page_token")
            if not token:
                return

    def _unreachable(self, asked: str, error: Exception, attempts: int) -> UnavailableError:
        return UnavailableError(
            f"no answer from the MLflow server {self.address.url} to {asked} after {attempts} attempts: "
            f"{type(error).__name__}: {error}",
            hint="is it up, and are host, port and TLS of the connection right?",
        )

    def _plain(self, response: httpx.Response, asked: str) -> dict[str, Any]:
        try:
            found = response.json() if response.content else {}
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UnavailableError(
                f"{self.address.url} answered {asked} with something that is not MLflow's JSON",
                hint="does the connection's host point to the MLflow server itself?",
            )
        return found


#: What of a request an error names; never all of it, values may be long or secret.
_NAMING = (
    "name",
    "new_name",
    "version",
    "alias",
    "stage",
    "run_id",
    "experiment_id",
    "experiment_name",
    "key",
    "filter",
)


def failure(response: httpx.Response, asked: str, url: str) -> Exception:
    """The error behind an answer that is none."""
    try:
        plain = response.json()
        code, message = str(plain["error_code"]), str(plain.get("message") or "")
    except (ValueError, KeyError, TypeError):
        plain, code, message = {}, f"HTTP_{response.status_code}", response.text.strip()[:200]
    status, hint = response.status_code, plain.get("hint")
    words = f"{asked} at {url}: {message or code} (HTTP {status})"
    if status >= 500 or status == 429:
        return UnavailableError(words, hint=hint)
    if status == 401:
        return RefusedError(
            words, hint="check login and password, or the token, of the MLflow connection", code="WT_CREDENTIAL"
        )
    if status == 404 or code == "RESOURCE_DOES_NOT_EXIST":
        return NotFoundError(words, hint=hint, code=code)
    if status in (403, 409):
        code = HIDDEN if status == 403 and code in ("HTTP_403", "PERMISSION_DENIED") else code
        return RefusedError(words, hint=hint, code=code, missing=tuple(plain.get("missing") or ()))
    return RegistryError(words, hint=hint, code=code)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def now_ms() -> int:
    """Milliseconds since the epoch, MLflow's unit of time."""
    return int(time.time() * 1000)
