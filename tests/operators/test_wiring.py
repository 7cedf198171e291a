"""Who waits for whom and reads what from whom; what is refused when the file is parsed (PIP-1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from windtunnel.errors import DescriptionError
from windtunnel_airflow.wiring import wire


def step(name: str, **parts: Any) -> dict[str, Any]:
    return {"name": name, "run": "wt_small:go", **parts}


def test_the_plain_pipeline(describe: Callable[..., Any]) -> None:
    found = wire(describe())
    assert found.order == ("data", "check", "train", "evaluate", "register")
    assert found.inputs == {}
    assert found.for_training == {}


def test_who_reads_from_whom(describe: Callable[..., Any]) -> None:
    steps = [
        step("weigh", before=["train"], inputs=["rows"], outputs=["weights"]),
        step("score", after=["train"], before=["evaluate"], inputs=["model", "holdout", "weights"], outputs=["scores"]),
    ]
    found = wire(describe(steps=steps))
    assert found.inputs == {
        "weigh": {"rows": "data"},
        "score": {"model": "train", "holdout": "data", "weights": "weigh"},
    }
    assert found.for_training == {"weights": "weigh"}
    assert found.waits["train"] == {"check", "weigh"}
    assert found.waits["evaluate"] == {"train", "score"}
    assert all(
        found.order.index(other) < found.order.index(name) for name in found.order for other in found.waits[name]
    )


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([step("a", after=["b"]), step("b", after=["a"])], ["wait for each other", "a", "b"]),
        ([step("a", after=["register"], before=["data"])], ["wait for each other", "register"]),
        ([step("a", after=["nothing"])], ["steps[0].after", "'nothing'"]),
        ([step("a", inputs=["nothing"])], ["steps[0].inputs", "'nothing'"]),
        ([step("train")], ["steps[0].name", "'train'"]),
        ([step("a"), step("a")], ["steps[1].name", "'a'"]),
        ([step("a", inputs=["score"]), step("b", after=["train"], outputs=["score"])], ["'score'", "'b'", "after"]),
        ([step("a", inputs=["model"])], ["'model'", "'train'"]),
        ([step("a", outputs=["x"], critical=False), step("b", after=["a"], inputs=["x"])], ["'b'", "'x'", "'a'"]),
    ],
)
def test_mistakes_are_found_when_the_file_is_parsed(
    describe: Callable[..., Any], steps: list[dict[str, Any]], words: list[str]
) -> None:
    """DEMAND PIP-1: cycles, unknown references and misplaced inputs are refused by name."""
    with pytest.raises((ValidationError, DescriptionError)) as error:
        wire(describe(steps=steps))
    for word in words:
        assert word in str(error.value)
