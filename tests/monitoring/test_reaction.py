"""What a finding leads to: policy, cooldown, undecided versions."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.evidence import Kind, Outcome, Verdict
from windtunnel.monitoring import reaction
from windtunnel.spec import Retrain


def verdict(kind: Kind, outcome: Outcome) -> Verdict:
    return Verdict("m", kind, outcome, f"{kind} says so", "d", version="1")


DRIFT = verdict(Kind.DRIFT, Outcome.FAIL)
LOSS = verdict(Kind.PERFORMANCE, Outcome.FAIL)
QUIET = verdict(Kind.DRIFT, Outcome.PASS)
UNKNOWN = verdict(Kind.DRIFT, Outcome.INCONCLUSIVE)
HOUR = Retrain(cooldown="1h")


@pytest.mark.parametrize(
    ("name", "policy", "verdicts", "given", "reacts", "cause"),
    [
        ("nothing failed", HOUR, [QUIET], {}, None, "nothing failed"),
        ("unknown is not a finding", HOUR, [UNKNOWN], {}, None, "nothing failed"),
        ("drift", HOUR, [DRIFT], {}, "retrain", "drift: drift says so"),
        ("both", HOUR, [DRIFT, LOSS], {}, "retrain", "performance: performance says so"),
        ("no policy", None, [DRIFT], {}, None, "asks for no retraining"),
        ("only performance counts", Retrain(on=["performance"]), [DRIFT], {}, None, "only for performance"),
        ("performance counts", Retrain(on=["performance"]), [DRIFT, LOSS], {}, "retrain", "performance"),
        ("in the cooldown", HOUR, [DRIFT], {"retrain_at": 9_000.0}, None, "2600 s of the cooldown"),
        ("after the cooldown", HOUR, [DRIFT], {"retrain_at": 6_400.0}, "retrain", "drift"),
        ("not decided yet", HOUR, [DRIFT], {"retrain_at": 1.0, "pending": True}, None, "not decided yet"),
    ],
)
def test_reaction(
    name: str, policy: Any, verdicts: list[Verdict], given: dict[str, Any], reacts: Any, cause: str
) -> None:
    """DEMAND MON-7: by policy, damped, with the cause."""
    facts: dict[str, Any] = {"now": 10_000.0, "retrain_at": None} | given
    found = reaction.decide(policy, verdicts, **facts)
    assert found.react == reacts, name
    assert cause in found.cause
