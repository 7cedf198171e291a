"""DEMAND REG-10, REG-11: what a token must say, to whom, for how long."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import StackError
from windtunnel.registry.signin import RESERVED, Bearer, SignIn, judge, settings

NOW = 1_800_000_000.0
TOLD = SignIn(issuer="https://login.example.org/team", audience="windtunnel", roles={"ml-approvers": "approver"})
GOOD: dict[str, Any] = {
    "iss": "https://login.example.org/team",
    "aud": "windtunnel",
    "exp": NOW + 3600,
    "iat": NOW - 10,
    "email": "eve@example.org",
    "email_verified": True,
    "groups": ["staff", "ml-approvers"],
}


def test_a_good_token_is_a_person_with_the_roles_of_its_groups() -> None:
    assert judge(GOOD, TOLD, NOW) == Bearer("eve@example.org", frozenset({"approver"}), NOW + 3600)
    assert judge({**GOOD, "aud": ["other", "windtunnel"]}, TOLD, NOW) == judge(GOOD, TOLD, NOW)
    assert judge({**GOOD, "iss": GOOD["iss"] + "/"}, TOLD, NOW) == judge(GOOD, TOLD, NOW)
    nobody = judge({**GOOD, "groups": None}, TOLD, NOW)
    assert isinstance(nobody, Bearer) and nobody.roles == frozenset()
    given_here = judge(GOOD, TOLD.model_copy(update={"roles": {}}), NOW)
    assert isinstance(given_here, Bearer) and given_here.roles is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"iss": "https://login.example.org"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"aud": "grafana"}, "somebody else"),
        ({"aud": ["grafana"]}, "somebody else"),
        ({"aud": None}, "somebody else"),
        ({"aud": "windtunnel2"}, "somebody else"),
        ({"exp": NOW - 61}, "expired"),
        ({"exp": None}, "until when"),
        ({"iat": None}, "until when"),
        ({"exp": True}, "until when"),
        ({"exp": "tomorrow"}, "until when"),
        ({"exp": float("inf")}, "until when"),
        ({"exp": float("nan")}, "until when"),
        ({"iat": NOW + 120, "exp": NOW + 240}, "not good yet"),
        ({"nbf": NOW + 120}, "not good yet"),
        ({"exp": NOW + 25 * 3600}, "longer than 24 hours"),
        ({"email_verified": False}, "verified"),
        ({"email_verified": "true"}, "verified"),
        ({"email_verified": None}, "verified"),
        ({"email": None}, "no user's name"),
        ({"email": ""}, "no user's name"),
        ({"email": "a:b"}, "no user's name"),
        ({"email": "a\nb"}, "no user's name"),
        ({"email": "x" * 256}, "no user's name"),
        ({"email": ["eve@example.org"]}, "no user's name"),
        *[({"email": name}, "the stack's own") for name in (*sorted(RESERVED), "Admin", "SERVICE")],
    ],
)
def test_anything_less_is_told_why(changed: dict[str, Any], said: str) -> None:
    found = judge({name: value for name, value in {**GOOD, **changed}.items() if value is not None}, TOLD, NOW)
    assert isinstance(found, str) and said in found


def test_clocks_may_be_a_minute_apart() -> None:
    for moment in (NOW - 60, NOW + 3600 + 59):
        assert isinstance(judge({**GOOD, "iat": NOW}, TOLD, moment), Bearer)


@pytest.mark.parametrize(("amr", "good"), [(["pwd", "mfa"], True), ("mfa", True), (["pwd"], False), (None, False)])
def test_a_second_factor_can_be_demanded(amr: Any, good: bool) -> None:
    strict = TOLD.model_copy(update={"amr": ("mfa", "hwk")})
    assert isinstance(judge({**GOOD, "amr": amr}, strict, NOW), Bearer) is good


@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "nbf", "amr"]),
        st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.lists(st.text(), max_size=3),
    )
)
def test_whatever_it_says_the_answer_is_a_person_or_a_reason(claims: dict[str, Any]) -> None:
    found = judge({**GOOD, **claims}, TOLD, NOW)
    if isinstance(found, Bearer):
        assert found.name.lower() not in RESERVED and NOW < found.expires + 61 <= NOW + 24 * 3600 + 122 + 61
        assert found.roles is not None and found.roles <= {"approver"}
    else:
        assert found


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({"audience": "a"}, "issuer"),
        ({"issuer": "http://login.example.org", "audience": "a"}, "https"),
        ({"issuer": "https://login.example.org", "audience": ""}, "audience"),
        ({"issuer": "https://login.example.org", "audience": "a", "roles": {"g": "service"}}, "roles.g"),
        ({"issuer": "https://login.example.org", "audience": "a", "max_hours": 0}, "max_hours"),
        ({"issuer": "https://login.example.org", "audience": "a", "secret": "x"}, "secret"),
    ],
)
def test_settings_that_cannot_be_are_refused(plain: dict[str, Any], said: str) -> None:
    with pytest.raises(StackError, match=said):
        settings(plain, "windtunnel.toml: [oidc]")
