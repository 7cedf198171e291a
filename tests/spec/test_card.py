"""Cards: what they say, how they lie over each other, what a description's is (DEMAND REG-14)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from windtunnel.errors import DescriptionError
from windtunnel.spec import Card, Model, load
from windtunnel.spec.card import FIELDS, of_description, over


def test_a_card_says_only_what_it_says() -> None:
    assert Card().said == {}
    found = Card(purpose="  ", risk="low", uses=["a"])
    assert found.said == {"uses": ["a"], "risk": "low"}, "blanks say nothing"
    assert list(Card.model_fields) == list(FIELDS)


@pytest.mark.parametrize(
    "plain",
    [{"risk": "none"}, {"uses": "a"}, {"uses": ["a" * 501]}, {"limits": [" "]}, {"purpose": "a" * 2001}, {"colour": 1}],
)
def test_what_is_no_card(plain: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Card.model_validate(plain)


def test_what_says_nothing_lets_the_card_below_be_seen() -> None:
    below, above = {"risk": "low", "owner": "a"}, {"risk": "high", "uses": []}
    assert over(below, None, above) == {"risk": "high", "owner": "a"}
    assert list(over({"text": "x"}, {"purpose": "y"})) == ["purpose", "text"], "in the order of the fields"
    assert over() == over(None) == {}


def test_a_descriptions_owner_and_words_are_its_cards() -> None:
    data = {"source": "s", "time": "t", "target": "y", "features": ["x"]}
    plain = {"name": "sea", "owner": "team", "data": data, "training": {"entry_point": "a.b:c"}}

    def card(**more: Any) -> dict[str, Any]:
        return of_description(Model.model_validate({**plain, **more}))

    assert card() == {"owner": "team"}
    assert card(description="Tides") == {"owner": "team", "purpose": "Tides"}
    own = {"owner": "office", "limits": ["storms"]}
    assert card(description="Tides", card=own) == {"owner": "office", "purpose": "Tides", "limits": ["storms"]}


def test_a_file_with_a_mistake_is_told_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "card.yaml"
    file.write_text("card:\n  purpose: tides\n  risk: dangerous\n", encoding="utf-8")
    with pytest.raises(DescriptionError, match=r"card.yaml:3: risk: .*'low', 'medium' or 'high'"):
        load.load_card(file)
    file.write_text("risk: low\n", encoding="utf-8")
    assert load.load_card(file) == Card(risk="low")
    file.write_text("name: sea\nowner: a\n", encoding="utf-8")
    with pytest.raises(DescriptionError, match="describes a model"):
        load.load_card(file)
