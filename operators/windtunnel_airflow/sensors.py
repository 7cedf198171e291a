"""Sensors: policy before a release, a gate after each of its steps. Deferrable by default, both ways work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException

from windtunnel.errors import FencedError, TransientError
from windtunnel_airflow.asking import WaitsForPolicy, fail
from windtunnel_airflow.base import Windtunnel
from windtunnel_airflow.gatekeeping import Answer, Watch
from windtunnel_airflow.hook import WindtunnelHook
from windtunnel_airflow.links import ModelVersionLink
from windtunnel_airflow.rollouts import candidates_of, claim_story, need_claim, versions_of, watch_of


class WindtunnelSensor(Windtunnel, BaseSensorOperator):
    """Base of the sensors.

    Args:
        model: a ``windtunnel.Model``, its plain values, or the path of a YAML file.
        claim: what ``ClaimReleaseOperator`` returned, or its JSON text (templated).
        deferrable: wait in the triggerer; ``operators.default_deferrable`` unless told.
    """

    operator_extra_links: Any = (ModelVersionLink(),)

    template_fields: Sequence[str] = ("windtunnel_conn_id", "claim")

    def __init__(
        self,
        *,
        model: Any,
        claim: Any,
        windtunnel_conn_id: str = WindtunnelHook.default_conn_name,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.claim = claim
        self.windtunnel_conn_id = windtunnel_conn_id
        self.deferrable = deferrable
        self.links_found = {}

    def start(self, context: Any) -> dict[str, Any]:
        """The claim; its story is on every log line from here on."""
        claim = need_claim(self.claim)
        self.begin(context, claim_story(claim))
        self.note_version(claim["model"], claim["version"])
        return claim


class PolicySensor(WaitsForPolicy, WindtunnelSensor):
    """Wait until policy misses nothing but the rollout's own evidence, and no person holds the release; then it may
    touch traffic.

    Scans, benchmarks and people's approvals arrive in their own time. Where only an approval is missing, the task is a
    question in *Required actions* as well (deferrable only): whoever may approve answers it there, by command or by
    REST, whichever comes first. A rejection ends the release at once; at ``timeout`` the task fails for good and says
    what is missing.
    """

    def poke(self, context: Any) -> bool:
        claim = need_claim(self.claim)
        found, _ = self.look(context, claim["model"], versions_of(claim), claim["rollout_id"])
        if found.action == "end":
            fail(context, "; ".join(found.missing))
        if found.missing:
            self.log.info("Waits for: %s", "; ".join(found.missing))
        return found.action == "go"

    def execute(self, context: Any) -> Any:
        claim = self.start(context)
        if not self.deferrable:
            return super().execute(context)
        return self._await(context, claim, time.time() + float(self.timeout))

    def execute_complete(
        self, context: Any, event: dict[str, Any], end: float = 0.0, asked: dict[str, Any] | None = None
    ) -> None:
        claim = self.start(context)
        question, told = self.resumed(context, event, asked)
        words = f"version {claim['version']} of {claim['model']} waited {self.timeout:g} s for policy"
        self.late(context, event, words)
        self._await(context, claim, end or time.time() + float(self.timeout), asked=question, told=told)

    def _await(self, context: Any, claim: dict[str, Any], end: float, **more: Any) -> None:
        given = {"end": end, "method_name": "execute_complete", "rollout_id": claim["rollout_id"], **more}
        self.await_policy(context, claim["model"], versions_of(claim), **given)


class GateSensor(WindtunnelSensor):
    """The gate behind one step: looks until the step has passed, or fails for good when the candidate does harm.

    Looks are appended to the look log beside the traffic, so a gate that dies goes on where it was. The lease is
    renewed with each look; if all looks stop, the guard takes the candidate to 0. Returns the last look's numbers.

    Args:
        step: index of the step in the plan.
        look_every: seconds between two looks; the plan's unless told.
    """

    ui_color = "#f7e7c6"

    def __init__(self, *, step: int = 0, look_every: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step = step
        self.look_every = look_every

    def watch(self) -> Watch:
        hook = self.hook
        cluster = hook.seldon_conn_id if self.served_at == "kubernetes" else None
        return watch_of(need_claim(self.claim), step=self.step, home=hook.home, seldon_conn_id=cluster)

    def orders(self, watch: Watch) -> Any:
        """What people ordered of this rollout, as far as it is known."""
        from windtunnel_airflow.orderbook import book

        return book(self.windtunnel_conn_id, self.home).standing(watch.rollout_id, watch.model)

    @property
    def rhythm(self) -> float:
        """Seconds between two looks."""
        return float(self.look_every or need_claim(self.claim)["look_every_s"])

    def poke(self, context: Any) -> PokeReturnValue:
        from windtunnel_airflow import gatekeeping

        watch, place = self.watch(), self.hook.place
        orders = self.orders(watch)
        answer = gatekeeping.look(watch, place.backend, place.looks(watch.model), time.time(), orders=orders)
        self.log.info("%s: %s", answer.action, answer.reason)
        return PokeReturnValue(is_done=answer.over, xcom_value=answer.to_dict())

    def execute(self, context: Any) -> Any:
        self.start(context)
        if self.deferrable:
            from windtunnel_airflow.triggers import GateTrigger

            trigger = GateTrigger(self.watch().to_dict(), self.rhythm, self.windtunnel_conn_id)
            self.defer(trigger=trigger, method_name="execute_complete")
        self.poke_interval = self.rhythm
        try:
            found = super().execute(context)
        except FencedError as error:
            raise AirflowFailException(f"this release was taken over: {error.message}") from error
        return self.end(Answer.from_dict(found), context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        self.start(context)
        if event["status"] == "fenced":
            raise AirflowFailException(f"this release was taken over: {event['message']}")
        if event["status"] == "error":
            raise as_exception(event)
        return self.end(Answer.from_dict(event["answer"]), context)

    def end(self, answer: Answer, context: Any) -> dict[str, Any]:
        """Record the gate's verdict and end the task as it says. A FAIL is final: looking again finds the same."""
        from windtunnel.errors import WindtunnelError
        from windtunnel.evidence import Kind, Outcome

        claim = need_claim(self.claim)
        weight = claim["weights"][self.step] if self.step < len(claim["weights"]) else 100
        outcome = Outcome.PASS if answer.passed else Outcome(answer.outcome)
        if not answer.passed and outcome is Outcome.PASS:
            outcome = Outcome.INCONCLUSIVE
        try:
            for one in candidates_of(claim):
                arm = (
                    dict((answer.numbers.get("arms") or {}).get(one["version"]) or {}) if claim.get("beside") else None
                )
                self.hook.registry.post_verdict(
                    self.verdict(
                        context,
                        claim_story(claim),
                        kind=Kind.GATE,
                        outcome=outcome if arm is None else Outcome(arm.pop("outcome", "INCONCLUSIVE")),
                        reason=f"{weight} %: {answer.reason if arm is None else arm.pop('reason', answer.reason)}",
                        subject=one["digest"],
                        version=one["version"],
                        numbers={**(answer.numbers if arm is None else arm), "weight": weight, "step": self.step},
                        window=(float(claim["claimed_at"]), answer.at),
                    )
                )
        except WindtunnelError as error:  # a registry that is down must not decide about traffic; the look log has it
            self.log.warning("The gate's verdict stays in the look log, the registry did not take it: %s", error)
        if claim["first"] and answer.passed:
            try:  # until it knows, it opens no other rollout of the model; the guard tells it otherwise
                self.hook.registry.update_rollout(claim["rollout_id"], claim["token"], state="promoted")
            except WindtunnelError as error:
                self.log.warning("The registry was not told that the first watch has ended: %s", error)
        if not answer.passed:
            raise AirflowFailException(f"gate at {weight} % {outcome}: {answer.reason}")
        return answer.to_dict()


def as_exception(event: dict[str, Any]) -> Exception:
    """What a trigger's event of status ``error`` ends the task with: another try, or none."""
    message = str(event["message"])
    return TransientError(message) if event.get("transient") else AirflowFailException(message)
