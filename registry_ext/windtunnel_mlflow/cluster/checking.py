"""A real check of a running registry, as ``helm test`` runs it: who may in, database, artifact store, seal and audit.

Everything goes over HTTP, as a client does it, and what was made is removed again.
"""

from __future__ import annotations

import ssl
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from windtunnel.errors import RegistryError, UnavailableError

_OURS, _MLFLOW = "/api/windtunnel/v1", "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
_RIGHT = "on S3 the server's role, or key, needs s3:{} there: docs/how-to/install-on-eks.md"
#: The experiment that checks leave their (deleted) runs in.
EXPERIMENT = "windtunnel-check"


def check(
    url: str, password: str, *, ca: Path | None = None, wait: float = 0.0, say: Callable[[str], None] = print
) -> None:
    """Go through every check; say each that passed.

    Args:
        url: of the server, without a path.
        password: of the user ``service``.
        ca: PEM file of who signed the server's certificate; None: the system's.
        wait: seconds to wait for the server to answer at all.

    Raises:
        RegistryError: an answer is not what it must be.
        UnavailableError: there is no answer.
    """
    verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(ca)) if ca else True
    with httpx.Client(base_url=url, timeout=30, verify=verify, trust_env=False) as http:
        try:
            _awake(http, wait)
            say(f"ok  {url}/health answers")
            http.auth = ("service", password)
            _door(http, password)
            say("ok  the service is let in, a stranger and a wrong password are not")
            _audit(http)
            say("ok  the audit is signed, and its checkpoints agree with the database")
            with _run(http) as (experiment, run):
                say("ok  the database took a run")
                _artifact(http, experiment, run)
                say("ok  the artifact store took a file, gave it back and removed it")
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"no answer from {url}: {type(error).__name__}: {error}",
                hint="is the pod ready, the name right, the certificate signed by who --ca says?",
            ) from error


def _awake(http: httpx.Client, wait: float) -> None:
    until = time.monotonic() + wait
    while True:
        try:
            answer = http.get("/health")
            # None of several servers serves yet.
            if answer.status_code != 503 or time.monotonic() > until:
                break
        except httpx.TransportError:
            if time.monotonic() > until:
                raise
        time.sleep(1)
    _expect(answer, 200, "/health")


def _expect(answer: httpx.Response, status: int, what: str, mend: str | None = None) -> Any:
    if answer.status_code != status:
        raise RegistryError(f"{what} answered {answer.status_code}, expected {status}: {answer.text[:300]}", hint=mend)
    return answer


def _door(http: httpx.Client, password: str) -> None:
    asked = f"{_OURS}/health"
    found = _expect(http.get(asked), 200, "the service's log-in").json()
    if found.get("user") != "service":
        raise RegistryError(f"the registry takes the service for {found.get('user')!r}")
    for auth in (("service", password + "x"), (f"nobody-{uuid.uuid4().hex[:8]}", "x")):
        _expect(http.get(asked, auth=auth), 401, "a wrong log-in")
    # None would mean the client's own log-in; a header without content is none at all.
    _expect(http.get(asked, auth=httpx.Auth()), 401, "no log-in")


def _audit(http: httpx.Client) -> None:
    _expect(http.post(f"{_OURS}/audit/checkpoint"), 200, "publishing a checkpoint")
    found = http.get(f"{_OURS}/audit/checkpoint").json()
    if found.get("problem"):
        raise RegistryError(f"the audit's checkpoints: {found['problem']}")
    if not found.get("checkpoint"):
        raise RegistryError("the audit has no checkpoint", hint="the server needs WINDTUNNEL_HOME, a volume")


@contextmanager
def _run(http: httpx.Client) -> Iterator[tuple[str, str]]:
    found = http.get(f"{_MLFLOW}/experiments/get-by-name", params={"experiment_name": EXPERIMENT})
    if found.status_code == 404:
        found = http.post(f"{_MLFLOW}/experiments/create", json={"name": EXPERIMENT})
        experiment = str(_expect(found, 200, "making an experiment").json()["experiment_id"])
    else:
        experiment = str(_expect(found, 200, "finding the experiment").json()["experiment"]["experiment_id"])
    made = http.post(f"{_MLFLOW}/runs/create", json={"experiment_id": experiment})
    run = str(_expect(made, 200, "making a run").json()["run"]["info"]["run_id"])
    try:
        yield experiment, run
    finally:
        with suppress(httpx.HTTPError):  # what went wrong before is what is told
            http.post(f"{_MLFLOW}/runs/delete", json={"run_id": run})


def _artifact(http: httpx.Client, experiment: str, run: str) -> None:
    place, content = f"{_ARTIFACTS}/{experiment}/{run}/artifacts/check.txt", uuid.uuid4().hex.encode()
    _expect(http.put(place, content=content), 200, "writing an artifact", _RIGHT.format("PutObject"))
    read = _expect(http.get(place), 200, "reading an artifact", _RIGHT.format("GetObject"))
    if read.content != content:
        raise RegistryError("the artifact store gave back other bytes than it was given")
    _expect(http.delete(place), 200, "removing an artifact", _RIGHT.format("DeleteObject"))
    if http.get(place).status_code == 200:
        # S3 says per object what it did not remove, and MLflow does not pass it on.
        raise RegistryError("the artifact store keeps what was removed", hint=_RIGHT.format("DeleteObject"))
