"""MLflow's ``authorization_function`` that takes tokens of an identity provider beside MLflow's own passwords (REG-10).

The token's signature is checked with the provider's published keys; what it says is judged by
``windtunnel.registry.signin``. A person from there is an ordinary user of MLflow: after the door all is as ever.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flask import Response, request
from werkzeug.datastructures import Authorization

from windtunnel.registry.signin import ENV_OIDC, Bearer, SignIn, judge, settings
from windtunnel_mlflow.access import identity, people
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.tables import HOUSE

_logger = logging.getLogger(__name__)

#: Only by a private key: with a shared one whoever can check a token could make one.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
#: Seconds between two questions for the provider's keys that nobody but a token's unknown key asks for.
_KEYS_EVERY = 30.0
_KEYS_OLD = 3600.0
_TIMEOUT = 5.0
#: Seconds a verified token is remembered, so that not every request checks a signature.
_REMEMBERED = 60.0
_MOST = 10_000


class KeysUnknown(Exception):
    """The provider cannot be asked for its keys."""


class Door:
    """The keys of one identity provider, and the tokens verified lately."""

    def __init__(self, told: SignIn, clock: Callable[[], float] = time.time) -> None:
        self.told = told
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str, Any] = {}
        self._fetched = float("-inf")
        self._known: dict[bytes, tuple[float, Bearer]] = {}

    def person(self, token: str) -> Bearer | str:
        """Who comes with ``token``, or why it is not taken.

        Raises:
            KeysUnknown: nothing can be said now.
        """
        now, mark = self._clock(), hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        with self._lock:
            until, known = self._known.get(mark, (0.0, None))
        if known is not None and now < until:
            return known
        found = self._verify(token, now)
        if isinstance(found, Bearer):
            with self._lock:
                if len(self._known) >= _MOST:
                    self._known.clear()
                self._known[mark] = (min(now + _REMEMBERED, found.expires), found)
        return found

    def _verify(self, token: str, now: float) -> Bearer | str:
        import jwt

        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            return "it is no signed token"
        if header.get("alg") not in ALGORITHMS:
            return f"it is signed by {header.get('alg')!r}, which counts for nothing here"
        key = self._key(header.get("kid"), now)
        if key is None:
            return "it is signed by a key that the issuer does not publish"
        try:
            # Times, issuer and audience are judged in one place, with their reasons.
            claims = jwt.decode(
                token,
                key,
                algorithms=[str(header["alg"])],
                options={
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                    "verify_aud": False,
                    "verify_iss": False,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            return "its signature is not the issuer's"
        return judge(claims, self.told, now)

    def _key(self, kid: Any, now: float) -> Any:
        with self._lock:
            missing = self._pick(kid) is None
            if now - self._fetched > (_KEYS_EVERY if missing else _KEYS_OLD):
                try:
                    self._keys = fetch_keys(self.told.issuer)
                    self._fetched = now
                except KeysUnknown:
                    if missing:
                        raise
                    _logger.warning("the keys of %s are those of a while ago: it cannot be asked", self.told.issuer)
            return self._pick(kid)

    def _pick(self, kid: Any) -> Any:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid) if isinstance(kid, str) else None


def fetch_keys(issuer: str) -> dict[str, Any]:
    """Public signing keys of an issuer, by their id (OpenID Connect Discovery 1.0, section 4).

    Raises:
        KeysUnknown: it does not answer, or answers something else.
    """
    import httpx
    import jwt

    try:
        with httpx.Client(timeout=_TIMEOUT) as http:
            about = http.get(f"{issuer}/.well-known/openid-configuration").raise_for_status().json()
            if str(about["issuer"]).rstrip("/") != issuer:
                raise KeysUnknown(f"{issuer} calls itself {about['issuer']!r}")
            place = str(about["jwks_uri"])
            if not place.startswith("https://") and not issuer.startswith("http://"):
                raise KeysUnknown(f"{issuer} has its keys at {place!r}, which is not https")
            listed = http.get(place).raise_for_status().json()["keys"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise KeysUnknown(f"{issuer} cannot be asked for its keys: {type(error).__name__}: {error}") from error
    found: dict[str, Any] = {}
    for number, plain in enumerate(listed):
        if plain.get("use", "sig") != "sig" or plain.get("kty") == "oct":
            continue
        try:
            found[str(plain.get("kid", f"#{number}"))] = jwt.PyJWK(plain).key
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            continue  # of a kind that is not known here
    return found


_door: Door | None = None
_door_lock = threading.Lock()


def door() -> Door | None:
    """The door of this server; None where no identity provider is told."""
    global _door
    told = os.environ.get(ENV_OIDC)
    if not told:
        return None
    with _door_lock:
        if _door is None:
            _door = Door(settings(json.loads(told), ENV_OIDC))
        return _door


def _by_password() -> Authorization | Response:
    """What MLflow says of a user's name and password."""
    from mlflow.server import auth

    found: Authorization | Response = auth.authenticate_request_basic_auth()
    return found


def authenticate() -> Authorization | Response:
    """MLflow's ``authorization_function``: a bearer token, else MLflow's own password."""
    from mlflow.server import auth

    given, here = request.authorization, door()
    if here is None:
        return _by_password()
    if given is None or given.type != "bearer":
        if given is not None and not here.told.passwords and (given.username or "") not in ("admin", "service"):
            return _no("people sign in at the identity provider here, not with a password", here)
        return _by_password()
    try:
        found = here.person(given.token or "")
    except KeysUnknown as error:
        _logger.warning("%s", error)
        return _answer(503, "the identity provider cannot be asked for its keys", {"Retry-After": "30"})
    if isinstance(found, str):
        return _no(f"the token is not taken: {found}", here)
    if not auth.store.has_user(found.name):
        if not here.told.provision:
            return _no(f"there is no user {found.name!r} here", here, "ask an administrator to add it")
        _provision(found.name)
    if found.roles is not None:
        _bring_roles(found.name, found.roles)
    return Authorization("bearer", {"username": found.name})


def _provision(name: str) -> None:
    """A user with a password that nobody knows."""
    with _as_server("add-person", name=name):
        try:
            people.add(name, secrets.token_urlsafe(48))
        except Refusal as refusal:
            if refusal.code != "WT_PERSON":  # another request of the same person was quicker
                raise


def _bring_roles(name: str, wanted: frozenset[str]) -> None:
    if people.given(name) != wanted:
        with _as_server("grant-roles", name=name, roles=sorted(wanted)):
            people.grant(name, wanted)


@contextmanager
def _as_server(action: str, **detail: Any) -> Iterator[None]:
    """An audited change that the server itself makes, because the identity provider says so."""
    from mlflow.server import handlers

    token = identity.server_side.set(True)
    try:
        with handlers._get_model_registry_store().change(HOUSE, action, by="the identity provider", **detail):
            yield
    finally:
        identity.server_side.reset(token)


def _no(why: str, here: Door, hint: str | None = None) -> Response:
    challenge = f'Bearer realm="windtunnel", error="invalid_token", error_description="{_plain(why)}"'
    return _answer(401, why, {"WWW-Authenticate": challenge}, hint or f"sign in at {here.told.issuer}")


def _answer(status: int, why: str, headers: dict[str, str], hint: str | None = None) -> Response:
    body: dict[str, Any] = {"error_code": "WT_CREDENTIAL", "message": why, "missing": [], "hint": hint}
    return Response(json.dumps(body), status=status, mimetype="application/json", headers=headers)


def _plain(text: str) -> str:
    """What may stand in a quoted header (RFC 6750, section 3)."""
    return "".join(one if one.isascii() and one.isprintable() and one not in '"\\' else "?" for one in text)
