"""Names and the payload of asset events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel import names
from windtunnel.errors import DescriptionError
from windtunnel.events import Event, new_correlation_id


@pytest.mark.parametrize("good", ["a", "visits", "churn-2", "a" * 40])
def test_good_names(good: str) -> None:
    assert names.check_model_name(good) == good


@pytest.mark.parametrize("bad", ["", "A", "1a", "-a", "a_b", "a b", "a" * 41, "a\n"])
def test_bad_names_say_what_to_use(bad: str) -> None:
    with pytest.raises(DescriptionError, match="use 1 to 40 of a-z"):
        names.check_model_name(bad)


@given(st.text())
def test_every_foreign_name_has_a_slug(foreign: str) -> None:
    assert names.check_model_name(names.slug(foreign))


def test_different_foreign_names_have_different_slugs() -> None:
    assert len({names.slug(n) for n in ("Churn Model", "churn model", "churn_model", "churn-model")}) == 4


def test_asset_uri() -> None:
    assert names.asset_uri("visits", "drift") == "windtunnel://visits/drift"
    with pytest.raises(ValueError, match="unknown asset kind"):
        names.asset_uri("visits", "rain")


def test_event_round_trip() -> None:
    event = Event("visits", new_correlation_id(), "drift in lncoins", version="3", digest="sha256:ab")
    assert set(event.extra()) == {"v", "model", "version", "digest", "correlation_id", "cause"}
    assert Event.from_extra(event.extra()) == event


@pytest.mark.parametrize("extra", [None, {}, {"model": "visits"}, {"from_rest_api": True}])
def test_somebody_elses_event_is_none_of_ours(extra: dict[str, object] | None) -> None:
    assert Event.from_extra(extra) is None
