"""A verdict: one judgement about one subject, with everything needed to question it later."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from windtunnel.canonical import digest


class Outcome(StrEnum):
    """PASS, FAIL or INCONCLUSIVE. Unknown is not good: INCONCLUSIVE never counts as a pass."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"

    @classmethod
    def worst(cls, outcomes: list[Outcome]) -> Outcome:
        """FAIL beats INCONCLUSIVE beats PASS; no outcome at all is INCONCLUSIVE."""
        for bad in (cls.FAIL, cls.INCONCLUSIVE):
            if bad in outcomes:
                return bad
        return cls.PASS if outcomes else cls.INCONCLUSIVE


class Kind(StrEnum):
    """What was judged."""

    DATA_CHECK = "data-check"
    EVALUATION = "evaluation"
    BENCHMARK = "benchmark"
    GATE = "gate"  # one step of a rollout
    ROLLOUT = "rollout"  # the whole rollout
    DRIFT = "drift"
    PERFORMANCE = "performance"
    SCAN = "scan"  # what its files would run when loaded
    INTEGRITY = "integrity"  # its files and its signature, looked at again


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judgement.

    Attributes:
        model: the model's name.
        kind: what was judged.
        outcome: PASS, FAIL or INCONCLUSIVE.
        reason: one sentence a person understands, with the decisive number in it.
        subject: digest of what was judged (a model version's content, a data snapshot).
        version: the registry's version, where there is one yet.
        numbers: what was measured, JSON values only.
        thresholds: what it was held against.
        window: (start, end) of the data, seconds since the epoch, UTC.
        inputs: digests of everything that went in.
        report_uri: the report for the eyes.
        actor: who judged; filled in by the registry from the credential.
        dag_id, dag_run_id, task_id: the run that judged.
        correlation_id: the story it belongs to.
        created_at: seconds since the epoch; filled in by the registry.
    """

    model: str
    kind: Kind
    outcome: Outcome
    reason: str
    subject: str
    version: str | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, Any] = field(default_factory=dict)
    window: tuple[float, float] | None = None
    inputs: tuple[str, ...] = ()
    report_uri: str | None = None
    actor: str | None = None
    dag_id: str | None = None
    dag_run_id: str | None = None
    task_id: str | None = None
    correlation_id: str | None = None
    created_at: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = asdict(self)
        plain["kind"] = str(self.kind)
        plain["outcome"] = str(self.outcome)
        plain["window"] = list(self.window) if self.window else None
        plain["inputs"] = list(self.inputs)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Verdict:
        """The inverse of ``to_dict``; unknown keys are ignored so that old readers read new verdicts.

        Raises:
            KeyError: a required field is absent.
            ValueError: kind or outcome is unknown.
        """
        known = {f.name for f in fields(cls)}
        kept = {key: value for key, value in plain.items() if key in known}
        kept["kind"] = Kind(kept["kind"])
        kept["outcome"] = Outcome(kept["outcome"])
        kept["window"] = tuple(kept["window"]) if kept.get("window") else None
        kept["inputs"] = tuple(kept.get("inputs") or ())
        return cls(**kept)

    @property
    def id(self) -> str:
        """Digest of what is judged, not of who or when: sending it twice gives one verdict."""
        plain = self.to_dict()
        for volatile in ("actor", "created_at"):
            plain.pop(volatile)
        return digest(plain)
