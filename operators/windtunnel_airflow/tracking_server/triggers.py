"""The trigger behind the sensors of an MLflow server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from windtunnel.errors import UnavailableError
from windtunnel_airflow.tracking_server import conditions
from windtunnel_airflow.tracking_server.poller import poller_of


class MlflowConditionTrigger(BaseTrigger):
    """Ask an MLflow server until a condition is met.

    Events: ``{"status": "met", "found"}``, ``{"status": "failed", "message"}`` when it can never be met,
    ``{"status": "timeout", "message"}``, ``{"status": "error", "message"}``. A server that does not answer is asked
    again.

    Args:
        mlflow_conn_id: connection to the server; its credentials are read in the triggerer, never stored.
        condition: plain data of ``windtunnel_airflow.tracking_server.conditions``.
        poll: seconds between two questions.
        end: give up then (seconds since the epoch).
    """

    def __init__(self, mlflow_conn_id: str, condition: dict[str, Any], poll: float, end: float) -> None:
        super().__init__()
        self.mlflow_conn_id = mlflow_conn_id
        self.condition = condition
        self.poll = poll
        self.end = end

    def serialize(self) -> tuple[str, dict[str, Any]]:
        given = {
            "mlflow_conn_id": self.mlflow_conn_id, "condition": self.condition, "poll": self.poll, "end": self.end,
        }  # fmt: skip
        return f"{type(self).__module__}.{type(self).__qualname__}", given

    async def run(self) -> AsyncIterator[TriggerEvent]:
        said = ""
        while True:
            try:
                answer = await poller_of(self.mlflow_conn_id).ask(conditions.question(self.condition))
                found = conditions.judge(self.condition, answer)
                state, words = found.state, found.words
            except UnavailableError as error:  # a server that is down answers later
                found, state, words = None, "wait", error.message
            except Exception as error:  # every exception becomes an event: a silent trigger would never end
                yield TriggerEvent({"status": "error", "message": f"{type(error).__name__}: {error}"})
                return
            if words != said:
                self.log.info("%s", words)
                said = words
            if found is not None and state != "wait":
                yield TriggerEvent({"status": state, "message": words, "found": found.found})
                return
            left = self.end - time.time()
            if left <= 0:
                yield TriggerEvent({"status": "timeout", "message": words})
                return
            await asyncio.sleep(min(self.poll, max(0.05, left)))
