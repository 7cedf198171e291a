"""DEMAND REG-10: only the issuer's published private keys make a token, however it is dressed."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from identity_provider import Provider

from windtunnel.registry.signin import Bearer, SignIn
from windtunnel_mlflow.access.signin import Door, KeysUnknown


@pytest.fixture
def provider() -> Iterator[Provider]:
    found = Provider()
    yield found
    found.close()


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def door_of(provider: Provider, clock: Clock | None = None) -> Door:
    return Door(SignIn(issuer=provider.issuer, audience="windtunnel"), clock or Clock())


@pytest.mark.parametrize("curve", [False, True])
def test_a_real_token_is_taken_and_its_keys_are_fetched_once(provider: Provider, curve: bool) -> None:
    provider.rotate("mine", curve)
    door = door_of(provider)
    for name in ("eve@example.org", "bob@example.org", "eve@example.org"):
        found = door.person(provider.token(email=name))
        assert isinstance(found, Bearer) and found.name == name
    assert provider.asked == 2, "discovery and keys, once"


def test_what_is_not_signed_by_the_issuer_is_nobody(provider: Provider) -> None:
    door = door_of(provider)
    good = provider.token()
    head, body, signature = good.split(".")
    other = rsa.generate_private_key(65537, 2048)
    public = (
        provider.keys["one"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    admin = base64.urlsafe_b64encode(json.dumps(provider.claims(email="boss@example.org")).encode()).rstrip(b"=")
    none = base64.urlsafe_b64encode(b'{"alg":"none","kid":"one"}').rstrip(b"=").decode()
    small = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"one"}').rstrip(b"=").decode()
    import hashlib
    import hmac

    # The public key used as a shared secret, made by hand: libraries refuse to make it.
    made = hmac.new(public, f"{small}.{body}".encode(), hashlib.sha256).digest()
    confused = f"{small}.{body}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"
    forged = {
        "another key": jwt.encode(provider.claims(), other, "RS256", headers={"kid": "one"}),
        "a shared secret": confused,
        "no signature": f"{none}.{body}.",
        "no signature, with one": f"{none}.{body}.{signature}",
        "other claims": f"{head}.{admin.decode()}.{signature}",
        "its own key": jwt.encode(
            provider.claims(), other, "RS256",
            headers={"kid": "one", "jku": "http://127.0.0.1:1/keys", "jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}},
        ),
        "cut": good[:-4],
        "empty": "",
        "words": "eve",
        "dots": "..",
        "not ascii": "é.é.é",
    }  # fmt: skip
    assert isinstance(door.person(good), Bearer)
    for kind, token in forged.items():
        assert isinstance(door.person(token), str), kind


def test_keys_rotate_and_strange_keys_do_not_make_it_ask_without_end(provider: Provider) -> None:
    clock = Clock()
    door = door_of(provider, clock)
    old = provider.token()
    assert isinstance(door.person(old), Bearer)
    provider.rotate("two")
    new = provider.token()
    assert door.person(new) == "it is signed by a key that the issuer does not publish", "asked a moment ago"
    for _ in range(20):
        door.person(provider.token(headers={"kid": "strange"}))
    assert provider.asked == 2
    clock.ahead = 31.0
    assert isinstance(door.person(new), Bearer)
    assert provider.asked == 4
    clock.ahead = 200.0
    assert isinstance(door.person(old), str), "the old key is no longer published, and nothing remembers it"


def test_a_provider_that_is_down_is_not_a_no(provider: Provider) -> None:
    clock = Clock()
    door, token = door_of(provider, clock), provider.token()
    provider.down = True
    with pytest.raises(KeysUnknown):
        door.person(token)
    provider.down = False
    clock.ahead = 31.0
    assert isinstance(door.person(token), Bearer)
    provider.down, clock.ahead = True, 400.0
    assert isinstance(door.person(provider.token(email="bob@example.org")), Bearer), "known keys are good for an hour"


def test_a_remembered_token_ends_when_it_expires(provider: Provider) -> None:
    clock = Clock()
    door = door_of(provider, clock)
    token = provider.token(exp=int(time.time()) + 30)
    assert isinstance(door.person(token), Bearer)
    clock.ahead = 30 + 61
    assert door.person(token) == "it has expired"
