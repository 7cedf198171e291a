"""What every registry's verdict endpoint must do (DESIGN: contract Verdicts).

Derive from ``VerdictEndpointConformance``, give the fixtures ``trusted`` (a client of the service), ``other`` (a client
of an ordinary user) and ``subject`` (model name and digest of a sealed version), and name the class ``Test...``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from windtunnel.errors import RegistryError
from windtunnel.evidence import Kind, Outcome, Verdict


class VerdictEndpointConformance:
    """The suite."""

    @pytest.fixture
    def trusted(self) -> Any:
        raise NotImplementedError

    @pytest.fixture
    def other(self) -> Any:
        raise NotImplementedError

    @pytest.fixture
    def subject(self) -> tuple[str, str]:
        raise NotImplementedError

    @pytest.fixture
    def verdict(self, subject: tuple[str, str]) -> Verdict:
        return Verdict(
            model=subject[0],
            kind=Kind.EVALUATION,
            outcome=Outcome.PASS,
            reason="deviance 4.00 is below 4.61",
            subject=subject[1],
            version="1",
            numbers={"deviance": 4.0, "unknown": math.nan, "rows": 2**60, "worst": -math.inf},
            thresholds={"deviance": 4.61},
            window=(1.5, 2.5),
            inputs=("sha256:a", "sha256:b"),
            report_uri="mlflow-artifacts:/0/r.html",
            dag_id="visits.train",
            dag_run_id="manual__1",
            task_id="evaluate",
            correlation_id="c" * 32,
        )

    def test_comes_back_as_it_was_sent(self, trusted: Any, verdict: Verdict) -> None:
        identifier = trusted.post_verdict(verdict)
        assert identifier == verdict.id
        kept = trusted.verdicts(verdict.model, kind="evaluation")[0]
        assert kept.id == identifier
        assert kept.verdict.id == verdict.id
        assert math.isnan(kept.verdict.numbers["unknown"])
        assert kept.verdict.numbers["rows"] == 2**60
        assert kept.verdict.numbers["worst"] == -math.inf
        assert kept.verdict.window == (1.5, 2.5)

    def test_actor_and_time_are_the_registrys_word(self, trusted: Any, verdict: Verdict) -> None:
        trusted.post_verdict(replace(verdict, actor="the-king", created_at=1.0))
        kept = trusted.verdicts(verdict.model)[0].verdict
        assert kept.actor == "service"
        assert kept.created_at is not None and kept.created_at > 1e9

    def test_sending_twice_keeps_one(self, trusted: Any, verdict: Verdict) -> None:
        assert trusted.post_verdict(verdict) == trusted.post_verdict(verdict)
        assert len(trusted.verdicts(verdict.model, subject=verdict.subject, kind="evaluation")) == 1

    def test_a_claim_is_kept_and_marked(self, other: Any, verdict: Verdict) -> None:
        other.post_verdict(verdict)
        assert [kept.claimed for kept in other.verdicts(verdict.model, kind="evaluation")] == [True]

    def test_a_claim_made_first_does_not_shadow_the_true_verdict(
        self, trusted: Any, other: Any, verdict: Verdict
    ) -> None:
        other.post_verdict(verdict)
        trusted.post_verdict(verdict)
        assert {kept.claimed for kept in trusted.verdicts(verdict.model)} == {True, False}

    def test_a_claim_never_counts(self, other: Any, trusted: Any, verdict: Verdict) -> None:
        other.post_verdict(verdict)
        missing = trusted.explain(verdict.model, "1").missing
        assert any("evaluation" in line for line in missing)
        trusted.post_verdict(verdict)
        assert not any("evaluation" in line for line in trusted.explain(verdict.model, "1").missing)

    @pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.INCONCLUSIVE])
    def test_the_newest_counts_and_only_pass_is_a_pass(self, trusted: Any, verdict: Verdict, outcome: Outcome) -> None:
        trusted.post_verdict(verdict)
        trusted.post_verdict(replace(verdict, outcome=outcome, reason="looked again"))
        assert any(f"newest is {outcome}" in line for line in trusted.explain(verdict.model, "1").missing)

    def test_about_other_content_does_not_count(self, trusted: Any, verdict: Verdict) -> None:
        trusted.post_verdict(replace(verdict, subject="sha256:" + "9" * 64))
        assert any("evaluation" in line for line in trusted.explain(verdict.model, "1").missing)

    def test_filters(self, trusted: Any, verdict: Verdict) -> None:
        trusted.post_verdict(verdict)
        trusted.post_verdict(replace(verdict, kind=Kind.DRIFT, version=None, subject="sha256:w"))
        # A registry may have found something out by itself when it sealed the version.
        own = {Kind.SCAN}
        assert {k.verdict.kind for k in trusted.verdicts(verdict.model)} - own == {Kind.EVALUATION, Kind.DRIFT}
        assert {k.verdict.kind for k in trusted.verdicts(verdict.model, version="1")} - own == {Kind.EVALUATION}
        assert [k.verdict.kind for k in trusted.verdicts(verdict.model, subject="sha256:w")] == [Kind.DRIFT]
        assert len(trusted.verdicts(verdict.model, limit=1)) == 1

    @pytest.mark.parametrize("field", ["outcome", "kind", "subject", "model"])
    def test_nonsense_is_refused(self, trusted: Any, verdict: Verdict, field: str) -> None:
        broken = replace(verdict, **{field: ""})
        with pytest.raises(RegistryError) as refused:
            trusted.post_verdict(broken)
        assert refused.value.code == "WT_VERDICT"
