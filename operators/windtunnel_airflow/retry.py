"""Retry by kind of failure (PIP-3), by Airflow's own retry policies.

Transient failures are tried three times more, 30 s doubling to 300 s. Data errors, resource errors and errors
of the description, the code or the policy are final: the same try would only end the same way.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import RetryAction, RetryDecision, RetryPolicy

from windtunnel.errors import TransientError, UnavailableError, WindtunnelError

RETRIES = 3
FIRST_DELAY = timedelta(seconds=30)
LAST_DELAY = timedelta(seconds=300)


class WindtunnelRetryPolicy(RetryPolicy):
    """Says for each exception whether another try can help.

    ``TransientError`` and ``UnavailableError`` are retried; any other ``WindtunnelError`` is final; errors of
    the standard library that mean "not now" (no connection, time-out) are retried; anything else falls to Airflow.

    Args:
        first: pause before the second try, seconds; it doubles from try to try.
        last: no pause is longer than this, seconds.
    """

    def __init__(self, first: float = FIRST_DELAY.total_seconds(), last: float = LAST_DELAY.total_seconds()) -> None:
        self.first = first
        self.last = last

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        action, reason = judge(exception)
        if action is RetryAction.RETRY:
            return RetryDecision.retry(delay=delay(try_number, self.first, self.last), reason=reason)
        if action is RetryAction.FAIL:
            return RetryDecision.fail(reason=reason)
        return RetryDecision.default()

    def serialize(self) -> dict[str, Any]:
        return {"__type": "WindtunnelRetryPolicy", "first": self.first, "last": self.last}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> WindtunnelRetryPolicy:
        return cls(float(data["first"]), float(data["last"]))


def judge(exception: BaseException) -> tuple[RetryAction, str]:
    """(what to do, why) for one exception."""
    kind = type(exception).__name__
    if isinstance(exception, (TransientError, UnavailableError, ConnectionError, TimeoutError)):
        return RetryAction.RETRY, f"{kind}: something outside failed; worth another try"
    if isinstance(exception, WindtunnelError):
        return RetryAction.FAIL, f"{kind}: another try would end the same way"
    return RetryAction.DEFAULT, kind


def delay(
    try_number: int, first: float = FIRST_DELAY.total_seconds(), last: float = LAST_DELAY.total_seconds()
) -> timedelta:
    """Pause before the try after ``try_number`` (1-based): 30 s doubling to 300 s unless told."""
    return timedelta(seconds=min(first * 2 ** max(try_number - 1, 0), last))


def default_args(first: timedelta = FIRST_DELAY, last: timedelta = LAST_DELAY, **more: Any) -> dict[str, Any]:
    """``default_args`` of every Windtunnel DAG."""
    return {
        "retries": RETRIES,
        "retry_delay": first,
        "retry_exponential_backoff": 2,
        "max_retry_delay": last,
        "retry_policy": WindtunnelRetryPolicy(first.total_seconds(), last.total_seconds()),
        **more,
    }
