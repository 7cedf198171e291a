"""The governed registry from the outside: one method per endpoint of ``/api/windtunnel/v1``. No MLflow import."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from windtunnel import canonical
from windtunnel.errors import FencedError, IntegrityError, NotFoundError, RefusedError, RegistryError, UnavailableError
from windtunnel.evidence import Verdict
from windtunnel.registry.auditcalls import AuditCalls
from windtunnel.registry.exchangecalls import ExchangeCalls
from windtunnel.registry.findcalls import FindCalls
from windtunnel.registry.keepingcalls import KeepingCalls
from windtunnel.registry.lineagecalls import LineageCalls
from windtunnel.registry.ordercalls import OrderCalls
from windtunnel.registry.policycalls import PolicyCalls
from windtunnel.registry.records import (
    ChampionRecord,
    Explanation,
    ModelSummary,
    PostedVerdict,
    RolloutRecord,
    VersionRecord,
)

PREFIX = "/api/windtunnel/v1"

#: Seconds ``register`` waits for the seal: reading the files once takes about a second per GB.
SEAL_TIMEOUT = 600.0
#: A connection that could not be made was no request yet, so it is tried again.
_CONNECT_RETRIES = 2


class RegistryClient(AuditCalls, ExchangeCalls, FindCalls, KeepingCalls, LineageCalls, OrderCalls, PolicyCalls):
    """A connection to one registry, usable from many threads.

    Args:
        url: the MLflow server's URL.
        username: MLflow user; ``service`` for the stack's own programs.
        password: its password.
        token: of the identity provider, instead of both.
        timeout: seconds for one request.
        verify: what the server's certificate is checked with, as for ``httpx``: False not at all.

    Every method raises ``NotFoundError`` (no such thing), ``RefusedError`` (a policy or another change is in the
    way; ``code`` and ``missing`` say what), ``RegistryError`` (the request itself is wrong) or ``UnavailableError``
    (no answer).
    """

    def __init__(
        self,
        url: str,
        username: str = "",
        password: str = "",
        timeout: float = 10.0,
        *,
        token: str | None = None,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url + PREFIX,
            auth=None if token else (username, password),
            headers={"Authorization": f"Bearer {token}"} if token else None,
            timeout=timeout,
            # A proxy from the environment has no business between programs on one machine or in one cluster.
            trust_env=False,
            transport=transport or httpx.HTTPTransport(verify=verify, retries=_CONNECT_RETRIES),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- versions

    def register(
        self,
        model: str,
        *,
        source: str,
        run_id: str | None,
        key: str | None = None,
        recipe: dict[str, Any],
        correlation_id: str | None,
        cause: str | None,
        parent: str | None = None,
        semver: str | None = None,
        model_id: str | None = None,
        timeout: float = SEAL_TIMEOUT,
    ) -> VersionRecord:
        """Register a version and wait until it is sealed.

        Args:
            model: created in MLflow when it is not there.
            source: ``runs:/...``, ``models:/m-...`` or ``mlflow-artifacts:/...``; must belong to ``run_id``.
            run_id: the MLflow run.
            key: the same key gives the same version; the run id when None.
            recipe: ``{"recipe", "code", "params", "features", "data", "algorithm", "signature"}``, what is known of it.
            correlation_id: the story it belongs to.
            cause: why it was trained, in words.
            parent: version to compare with; the champion, else the newest, when None.
            semver: semantic version to use instead of the rule's, only upwards.
            model_id: MLflow logged model the source belongs to, where it is not the run's.
            timeout: seconds to wait for the seal.

        Raises:
            IntegrityError: the files could not be sealed; the message says why.
            UnavailableError: not sealed within ``timeout``; registering again goes on waiting.
        """
        body = {
            "source": source,
            "run_id": run_id,
            "key": key,
            "recipe": recipe,
            "correlation_id": correlation_id,
            "cause": cause,
            "parent": parent,
            "semver": semver,
            "model_id": model_id,
        }
        found = VersionRecord.from_dict(self._call("POST", f"/models/{_q(model)}/versions", json=body))
        deadline = time.monotonic() + timeout
        pause = 0.1
        while found.status == "PENDING_REGISTRATION":
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"version {found.version} of {model!r} is not sealed after {timeout:.0f} s",
                    hint="register again with the same key to go on waiting",
                )
            time.sleep(pause)
            pause = min(2.0, pause * 1.5)
            found = self.version(model, found.version)
        if not found.ready:
            raise IntegrityError(
                f"version {found.version} of {model!r} could not be sealed: {found.status_reason}",
                hint="log the model, then register again with the same key",
            )
        return found

    def version(self, model: str, version: str | int) -> VersionRecord:
        """One version."""
        return VersionRecord.from_dict(self._call("GET", f"/models/{_q(model)}/versions/{_q(version)}"))

    def versions(self, model: str) -> list[VersionRecord]:
        """All versions, newest first."""
        return [VersionRecord.from_dict(v) for v in self._call("GET", f"/models/{_q(model)}/versions")["versions"]]

    def models(self) -> list[ModelSummary]:
        """Every model with champion, newest rollout and the newest verdict of each kind."""
        return [ModelSummary.from_dict(m) for m in self._call("GET", "/models")["models"]]

    def champion(self, model: str) -> VersionRecord | None:
        """The champion; None when there is none, also when the model is not registered yet."""
        return self._maybe(f"/models/{_q(model)}/champion", "champion")

    def champion_history(self, model: str) -> list[ChampionRecord]:
        """Which version was champion when, oldest first."""
        found = self._call("GET", f"/models/{_q(model)}/champion/history")["history"]
        return [ChampionRecord.from_dict(row) for row in found]

    def pending(self, model: str) -> VersionRecord | None:
        """The version a release should take up, or None.

        The version of an open rollout comes first, so that what was begun is finished; otherwise the newest READY
        version, newer than the champion, that was not released, rolled back or withdrawn yet.
        """
        return self._maybe(f"/models/{_q(model)}/pending", "pending")

    def withdraw(self, model: str, version: str | int, reason: str) -> VersionRecord:
        """Take a version out of use: alias and open rollout end in one transaction."""
        path = f"/models/{_q(model)}/versions/{_q(version)}/withdraw"
        return VersionRecord.from_dict(self._call("POST", path, json={"reason": reason}))

    # -- evidence and policy

    def post_verdict(self, verdict: Verdict) -> str:
        """Send a verdict; sending it twice keeps one. Returns its id."""
        return str(self._call("POST", "/verdicts", json=_encoded(verdict))["id"])

    def verdicts(
        self,
        model: str,
        *,
        subject: str | None = None,
        kind: str | None = None,
        version: str | int | None = None,
        limit: int = 100,
    ) -> list[PostedVerdict]:
        """Verdicts about a model, newest first; claimed ones, which never count, are marked."""
        given = {"subject": subject, "kind": kind, "version": version, "limit": limit}
        found = self._call(
            "GET", f"/models/{_q(model)}/verdicts", params={k: str(v) for k, v in given.items() if v is not None}
        )
        return [PostedVerdict.from_dict(row) for row in found["verdicts"]]

    def explain(self, model: str, version: str | int, to: str = "champion") -> Explanation:
        """What a version still needs before it may go there: champion (production), staging, challenger, archived."""
        found = self._call("GET", f"/models/{_q(model)}/versions/{_q(version)}/explain", params={"to": to})
        return Explanation.from_dict(found)

    def policy(self, model: str) -> dict[str, Any]:
        """The kinds of evidence in force, ``champion`` and ``first``; ``policy_document`` has the whole."""
        return self._call("GET", f"/models/{_q(model)}/policy")

    def set_policy(self, model: str, policy: dict[str, Any]) -> dict[str, Any]:
        """Pass on a description's policy (``windtunnel.spec.policy.Policy`` as a dict); returns what is in force.

        Where an administrator has set a policy, it can only add kinds.
        """
        return self._call("PUT", f"/models/{_q(model)}/policy", json=policy)

    # -- rollouts

    def open_rollout(
        self, model: str, version: str | int, *, plan: dict[str, Any], holder: str, correlation_id: str | None
    ) -> RolloutRecord:
        """Open the rollout of a version.

        The same holder gets the same rollout and token again, also after its end; another holder of the same
        version takes it over with a higher token.

        Raises:
            RefusedError: WT_ROLLOUT_RUNNING when another version's rollout is open.
        """
        body = {"version": str(version), "plan": plan, "holder": holder, "correlation_id": correlation_id}
        return RolloutRecord.from_dict(self._call("POST", f"/models/{_q(model)}/rollouts", json=body))

    def rollout(self, rollout_id: str) -> RolloutRecord:
        """One rollout."""
        return RolloutRecord.from_dict(self._call("GET", f"/rollouts/{_q(rollout_id)}"))

    def rollouts(self, model: str, *, limit: int = 100) -> list[RolloutRecord]:
        """Rollouts of a model, newest first."""
        found = self._call("GET", f"/models/{_q(model)}/rollouts", params={"limit": str(limit)})["rollouts"]
        return [RolloutRecord.from_dict(row) for row in found]

    def update_rollout(
        self,
        rollout_id: str,
        token: int,
        *,
        state: str | None = None,
        step: int | None = None,
        weight: float | None = None,
        reason: str | None = None,
    ) -> RolloutRecord:
        """Write down how a rollout stands.

        Args:
            state: running, promoting, rolled_back or withdrawn; ``promoted`` is reached by ``promote`` alone.
            step: index of the plan's step.
            weight: the candidate's share of traffic, 0 to 100.
            reason: one sentence.

        Raises:
            FencedError: another holder has taken over.
        """
        body = {"token": token, "state": state, "step": step, "weight": weight, "reason": reason}
        return RolloutRecord.from_dict(self._call("PATCH", f"/rollouts/{_q(rollout_id)}", json=body))

    def promote(
        self, rollout_id: str, token: int, expected_champion: str | int | None, *, version: str | int | None = None
    ) -> VersionRecord:
        """Make the rollout's version champion, in one transaction. Asking again after success is harmless.

        Args:
            version: which of several candidates won; the others end as taken back. None: the one there is.

        Raises:
            RefusedError: WT_POLICY with what is missing; WT_CONFLICT naming the champion that won meanwhile.
            FencedError: another holder has taken over.
        """
        expected = None if expected_champion is None else str(expected_champion)
        body = {"token": token, "expected_champion": expected}
        if version is not None:
            body["version"] = str(version)
        return VersionRecord.from_dict(self._call("POST", f"/rollouts/{_q(rollout_id)}/promote", json=body))

    # -- house

    def health(self) -> dict[str, Any]:
        """``{"status": "ok", "version", "user"}`` when the registry answers this user."""
        return self._call("GET", "/health")

    # -- the wire

    def _maybe(self, path: str, key: str) -> VersionRecord | None:
        try:
            found = self._call("GET", path)[key]
        except NotFoundError:
            return None
        return VersionRecord.from_dict(found) if found else None

    def _call(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, **kwargs)
        except httpx.TimeoutException as error:
            raise UnavailableError(
                f"the registry at {self.url} did not answer {method} {path} in time", hint="is the MLflow server up?"
            ) from error
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"the registry at {self.url} cannot be reached: {error}", hint="is the MLflow server up?"
            ) from error
        if response.is_success:
            try:
                found = response.json()
            except ValueError:
                found = None
            if not isinstance(found, dict):
                raise UnavailableError(
                    f"{self.url} answered {method} {path} with something that is not the registry's JSON",
                    hint="does the URL point to the MLflow server with the app 'windtunnel'?",
                )
            return found
        raise _error(response, f"{method} {path}")

    @contextmanager
    def _stream(self, method: str, path: str, **kwargs: Any) -> Iterator[Iterator[bytes]]:
        try:
            with self._http.stream(method, self.url + path, **kwargs) as response:
                if not response.is_success:
                    response.read()
                    raise _error(response, f"{method} {path}")
                yield response.iter_bytes(1 << 20)
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"{method} {path} at {self.url} broke off: {error}", hint="is the MLflow server up? Then do it again"
            ) from error


def _error(response: httpx.Response, what: str) -> Exception:
    try:
        plain = response.json()
        code, message = str(plain["error_code"]), str(plain["message"])
    except (ValueError, KeyError, TypeError):
        plain, code, message = {}, "WT_HTTP", response.text[:200]
    hint = plain.get("hint")
    status = response.status_code
    if status >= 500:
        return UnavailableError(f"the registry failed at {what} (HTTP {status}): {message}", hint=hint)
    if status == 401 and code == "WT_CREDENTIAL":
        return RefusedError(f"the registry: {message} ({what})", hint=hint, code=code)
    if status == 401:
        return RefusedError(
            f"the registry does not know this user or password ({what})",
            hint="check the user name and the secret file",
            code="WT_CREDENTIAL",
        )
    if status == 404:
        return NotFoundError(message, hint=hint, code=code)
    if code == "WT_FENCED":
        return FencedError(message, hint=hint)
    if status in (403, 409):
        return RefusedError(message, hint=hint, code=code, missing=tuple(plain.get("missing") or ()))
    return RegistryError(f"{message} ({what})", hint=hint, code=code)


def _q(part: str | int) -> str:
    return quote(str(part), safe="")


def _encoded(verdict: Verdict) -> dict[str, Any]:
    # NaN and infinities have no JSON; they travel in canonical form, as everything that is hashed does.
    return dict(json.loads(canonical.dumps(verdict.to_dict())))
