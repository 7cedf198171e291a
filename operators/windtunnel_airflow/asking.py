"""A task that waits for policy, and may ask a person meanwhile: a question in *Required actions* beside its trigger.

The waiting and the question are one task. While only an approval is missing, the task has a human-in-the-loop detail
and is deferred to a trigger that looks at the registry: a person's answer resumes it, and so does an approval or a
rejection that came another way; then the question is gone with the waiting. The answer itself counts for nothing here:
the registry is told where to find it, and reads from Airflow who gave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout

from windtunnel.errors import FencedError, RefusedError, RegistryError, TransientError, UnavailableError
from windtunnel_airflow.base import run_coordinates

if TYPE_CHECKING:
    from windtunnel.registry.records import Explanation
    from windtunnel.registry.waiting import Asked, Next

#: Seconds between two looks at the registry.
POLL_S = 5.0
#: Where a task leaves the sentence of why it failed, for whoever undoes the release.
WHY = "why"


class AskAgain(TransientError):
    """What was asked about has changed; a question in Airflow cannot, so the task's next try asks another."""


class WaitsForPolicy:
    """Mixed into operators and sensors: ``await_policy`` goes on at once, or defers; ``resumed`` goes on after it.

    After the deferral ``method_name`` is called with ``event``, ``end`` and ``asked``.
    """

    hook: Any
    log: Any
    retries: int
    windtunnel_conn_id: str
    defer: Any
    #: Where its versions are to come.
    target = "champion"

    def await_policy(
        self,
        context: Any,
        model: str,
        versions: Sequence[str],
        *,
        end: float,
        method_name: str,
        asked: Asked | None = None,
        told: bool = True,
        rollout_id: str | None = None,
    ) -> None:
        """Return when policy lets all of them go on; else defer.

        Args:
            end: when to give up, seconds since the epoch.
            asked: the question that is open.
            told: no answer to it waits to be told to the registry.
            rollout_id: its rollout, where it has one already.

        Raises:
            AirflowFailException: one was rejected, or the release has ended.
            TaskDeferred: something is missing.
            AskAgain: another question is due than the one that is open.
        """
        found, explained = self.look(context, model, versions, rollout_id)
        if found.action == "go":
            return
        if found.action == "end":
            fail(context, "; ".join(found.missing))
        self.log.info("Waits for: %s", "; ".join(found.missing))
        due = found.asked
        if asked is None:
            asked = due
        elif due is not None and due != asked:
            if self._may_ask_again(context):
                raise AskAgain("what was asked about has changed meanwhile: the question is asked again")
            self.log.warning("It is not asked again in Airflow: approve with your own credential")
        if asked is not None and told:
            # Also when it was asked before: an answer that was not enough is cleared away, and may be given again.
            self._ask(context, asked, explained[asked.version], found.missing)
        from windtunnel_airflow.triggers import PolicyTrigger

        plain = None if asked is None else asked.to_dict()
        trigger = PolicyTrigger(
            model,
            versions[0],
            self.windtunnel_conn_id,
            POLL_S,
            end,
            list(versions[1:]),
            to=self.target,
            asked=plain,
            ti_id=None if asked is None else str(context["ti"].id),
            asks=asked is None or self._may_ask_again(context),
            rollout_id=rollout_id,
        )
        self.defer(trigger=trigger, method_name=method_name, kwargs={"end": end, "asked": plain})

    def look(
        self, context: Any, model: str, versions: Sequence[str], rollout_id: str | None = None
    ) -> tuple[Next, dict[str, Explanation]]:
        """What to do now, and the explanations it follows from.

        Raises:
            AirflowFailException: the release has ended.
        """
        from windtunnel_airflow.policy import look

        try:
            return look(self.hook.registry, model, versions, self.target, rollout_id)
        except FencedError as error:
            fail(context, error.message)

    def resumed(self, context: Any, event: Mapping[str, Any], asked: Mapping[str, Any] | None) -> tuple[Any, bool]:
        """What the trigger, or a person's answer, has woken: ``asked`` and ``told`` for ``await_policy``.

        Raises:
            AirflowFailException, TransientError: the trigger failed.
            AirflowSensorTimeout: the time is over.
        """
        from windtunnel.registry.waiting import Asked

        question = None if asked is None else Asked.from_dict(asked)
        told = question is None or self._tell(context, question, event)
        if event.get("status") == "error":
            message = str(event["message"])
            raise TransientError(message) if event.get("transient") else AirflowFailException(message)
        return question, told

    def late(self, context: Any, event: Mapping[str, Any], words: str) -> None:
        """End the task where the trigger's time was over.

        Raises:
            AirflowSensorTimeout: it was.
        """
        if event.get("status") != "timeout":
            return
        missing = "; ".join(event["missing"]) or "unknown, the registry did not answer"
        why = f"{words}; still missing: {missing}"
        leave(context, why)
        raise AirflowSensorTimeout(why)

    # -- the question

    def _may_ask_again(self, context: Any) -> bool:
        """Whether a try is left."""
        ti = context["ti"]
        return int(ti.try_number) <= int(getattr(ti, "max_tries", None) or self.retries)

    def _ask(self, context: Any, asked: Asked, explanation: Explanation, missing: Sequence[str]) -> None:
        from airflow.sdk import Param
        from airflow.sdk.execution_time.hitl import upsert_hitl_detail

        from windtunnel.registry.approvals import REASON_FIELD, REJECT
        from windtunnel.registry.orders import APPROVE
        from windtunnel.registry.waiting import body

        reason = Param(
            None, type=["null", "string"], title="Reason", description="Kept with the answer and in the audit"
        )
        upsert_hitl_detail(
            ti_id=context["ti"].id,
            options=[APPROVE, REJECT],
            subject=asked.subject,
            body=body(asked, explanation, missing),
            params={REASON_FIELD: reason.serialize()},
        )
        self.log.info("Asked in Required actions: %s", asked.subject)

    def _tell(self, context: Any, asked: Asked, event: Mapping[str, Any]) -> bool:
        """Tell the registry that the question was answered, where it was; False when it cannot be told yet."""
        from windtunnel.registry.approvals import REASON_FIELD, REJECT

        chosen, written = event.get("chosen_options"), event.get("params_input")
        if not chosen:
            return True
        decision = "reject" if list(chosen) == [REJECT] else "approve"
        where = {name: run_coordinates(context)[name] for name in ("dag_id", "dag_run_id", "task_id", "map_index")}
        try:
            taken = self.hook.registry.approve(
                asked.model,
                asked.version,
                (written or {}).get(REASON_FIELD) or "answered in Airflow",
                digest=asked.digest,
                evidence=asked.evidence,
                to=asked.to,
                decision=decision,
                answer=where,
            )
        except UnavailableError as error:
            self.log.warning("The registry is told of the answer later: %s", error.message)
            return False
        except (RefusedError, RegistryError) as error:
            self.log.warning("The registry did not take the answer in Airflow (%s): %s", error.code, error.message)
            return True
        self.log.info("%s: %s (%s)", taken.by, taken.decision, taken.reason)
        return True


def leave(context: Any, why: str) -> None:
    """Leave the sentence of why this task fails for the one that undoes the release."""
    context["ti"].xcom_push(key=WHY, value=why)


def fail(context: Any, why: str) -> NoReturn:
    """End the task for good.

    Raises:
        AirflowFailException: always.
    """
    leave(context, why)
    raise AirflowFailException(why)
