"""How a task ends when the answer is no: for good, with a sentence, never retried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowFailException

if TYPE_CHECKING:
    from windtunnel.evidence import Verdict


def refuse_unless_pass(verdict: Verdict, consequence: str) -> None:
    """End the task unless the verdict is PASS; INCONCLUSIVE does not pass.

    Raises:
        AirflowFailException: the verdict is FAIL or INCONCLUSIVE.
    """
    if str(verdict.outcome) != "PASS":
        raise AirflowFailException(f"{verdict.kind} {verdict.outcome}: {verdict.reason}; {consequence}")
