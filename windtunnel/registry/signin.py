"""Who a token of an identity provider is, and whether it is good (OpenID Connect Core 1.0, section 3.1.3.7). Pure.

Its signature has been verified by the caller; here is what it says, and to whom.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from windtunnel.errors import StackError

#: For the server: the settings as JSON. Without it there are MLflow's own users and passwords alone.
ENV_OIDC = "WINDTUNNEL_OIDC"
#: Users that no token can be: the stack's own, and whoever holds the machine.
RESERVED = frozenset({"service", "admin", "windtunnel"})
#: Roles that a group may bring. Of an administrator, too: who may change the identity provider's groups decides then.
Given = Literal["viewer", "data_scientist", "ml_engineer", "approver", "admin"]
#: Seconds two clocks may be apart.
LEEWAY = 60.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class SignIn(BaseModel):
    """``[oidc]`` of ``windtunnel.toml``.

    Attributes:
        issuer: as the tokens name it; ``ISSUER/.well-known/openid-configuration`` says where its keys are.
        audience: what tokens for this registry are for.
        name: the claim that is the user's name here.
        groups: the claim with the person's groups.
        roles: group to role; with any, each token brings exactly the roles of its groups. Empty: roles are given here.
        provision: make a user for somebody who comes for the first time.
        passwords: people may also come with a password of MLflow's; without, only the stack's own users may.
        max_hours: longest life of a token that is taken (REG-11).
        amr: methods of which the token must name one, as ``mfa`` (RFC 8176).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str
    audience: str = Field(min_length=1)
    name: str = "email"
    groups: str = "groups"
    roles: dict[str, Given] = Field(default_factory=dict)
    provision: bool = False
    passwords: bool = True
    max_hours: float = Field(24.0, gt=0)
    amr: tuple[str, ...] = ()

    @field_validator("issuer")
    @classmethod
    def _reached_safely(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            return value.rstrip("/")
        raise ValueError("expected https://..., for its keys decide who is who")


@dataclass(frozen=True, slots=True)
class Bearer:
    """Somebody whom the identity provider vouches for.

    Attributes:
        name: user in MLflow.
        roles: exactly these; None where roles are given here and not there.
        expires: seconds since the epoch.
    """

    name: str
    roles: frozenset[str] | None
    expires: float


def settings(plain: Mapping[str, Any], where: str) -> SignIn:
    """The settings from plain values.

    Raises:
        StackError: a key is unknown, missing or wrong; all of them are told.
    """
    try:
        return SignIn.model_validate(plain)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise StackError(f"{where}: {wrong}", hint="docs/how-to/sign-in-with-oidc.md has every key") from error


def judge(claims: Mapping[str, Any], told: SignIn, now: float) -> Bearer | str:
    """The person behind a token's claims, or why it is not taken.

    Args:
        claims: of a token whose signature is the issuer's.
        now: seconds since the epoch.
    """
    if str(claims.get("iss", "")).rstrip("/") != told.issuer:
        return "it is of another issuer"
    audience = claims.get("aud")
    if told.audience not in (audience if isinstance(audience, list) else [audience]):
        return "it is for somebody else (aud)"
    moments = {name: _moment(claims.get(name)) for name in ("exp", "iat", "nbf")}
    expires, issued, begins = moments["exp"], moments["iat"], moments["nbf"]
    if expires is None or issued is None:
        return "it does not say until when and since when it is good (exp, iat)"
    if now >= expires + LEEWAY:
        return "it has expired"
    if issued > now + LEEWAY or (begins is not None and begins > now + LEEWAY):
        return "it is not good yet"
    if expires - issued > told.max_hours * 3600 + LEEWAY:
        return f"it lives longer than {told.max_hours:g} hours"
    if told.amr and not set(told.amr) & set(_texts(claims.get("amr"))):
        return f"it does not say that the person came by {' or '.join(told.amr)} (amr)"
    name = claims.get(told.name)
    if not isinstance(name, str) or not name or len(name) > 255 or not name.isprintable() or ":" in name:
        return f"its claim {told.name!r} is no user's name"
    if told.name == "email" and claims.get("email_verified") is not True:
        return "nobody has verified its e-mail address (email_verified)"
    if name.lower() in RESERVED:
        return f"{name!r} is a user of the stack's own"
    roles = frozenset(told.roles[group] for group in _texts(claims.get(told.groups)) if group in told.roles)
    return Bearer(name, roles if told.roles else None, expires)


def _moment(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        return None
    return float(value)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []
