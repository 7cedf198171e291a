"""Verdicts: what counts, what does not, and that sending one twice is one."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from windtunnel.evidence import Kind, Outcome, Verdict

P, F, U = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE


def verdict() -> Verdict:
    return Verdict(
        model="visits",
        kind=Kind.EVALUATION,
        outcome=P,
        reason="poisson_deviance 3.82 is at most 4.7",
        subject="sha256:aa",
        numbers={"poisson_deviance": 3.82},
        window=(1.0, 2.0),
        inputs=("sha256:bb",),
    )


def test_round_trip() -> None:
    assert Verdict.from_dict(verdict().to_dict()) == verdict()


def test_an_old_reader_reads_a_new_verdict() -> None:
    assert Verdict.from_dict(verdict().to_dict() | {"invented_later": 1}) == verdict()


def test_who_and_when_do_not_change_the_identity() -> None:
    assert replace(verdict(), actor="service", created_at=5.0).id == verdict().id


@pytest.mark.parametrize("change", [{"outcome": F}, {"subject": "sha256:cc"}, {"numbers": {}}, {"reason": "x"}])
def test_anything_else_does(change: dict[str, object]) -> None:
    assert replace(verdict(), **change).id != verdict().id  # type: ignore[arg-type]


@pytest.mark.parametrize("outcomes", [list(c) for n in range(4) for c in product((P, F, U), repeat=n)])
def test_unknown_is_not_good(outcomes: list[Outcome]) -> None:
    """DEMAND ROL-3: only outcomes that are all PASS, and at least one, make a PASS."""
    worst = Outcome.worst(outcomes)
    assert (worst is P) == (bool(outcomes) and set(outcomes) == {P})
    assert (worst is F) == (F in outcomes)
