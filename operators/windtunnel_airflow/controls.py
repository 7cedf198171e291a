"""``windtunnel.control``: a person's orders through Airflow.

Pause, resume, abort and freeze are passed on as they are, with the name of whoever triggered the run, which Airflow
knows and the registry can only take as claimed. Skip, promote and thaw wait for a person's answer to a question that
shows what it is about; the registry reads that answer from Airflow itself, so nothing a worker holds could give it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, BaseBranchOperator, BaseOperator, Param
from airflow.sdk.exceptions import AirflowFailException

from windtunnel.errors import NotFoundError, RefusedError, RegistryError, UnavailableError, WindtunnelError
from windtunnel.registry.orders import (
    BOLD,
    CONTROL_DAG,
    KINDS,
    SCOPES,
    FreezeRecord,
    OrderRecord,
    question,
    thaw_question,
)
from windtunnel_airflow.hook import WindtunnelHook

APPROVE_TASK = "approve"
FREEZES = ("freeze", "thaw")
#: What ``windtunnel.control`` can be told to do.
ORDERS = (*KINDS, *FREEZES)
#: What goes on only after a person's answer.
ASKED = BOLD | {"thaw"}


class _Control(BaseOperator):
    """Base: model, order and reason of the run.

    Args:
        model, order, reason: templated.
        scope, whose: of ``freeze`` and ``thaw``: ``model``, ``owner`` or ``all``, and whose; templated. (``owner`` is
            every operator's own, and no template.)
        windtunnel_conn_id: connection to the MLflow server with the governed registry.
    """

    template_fields: Sequence[str] = ("windtunnel_conn_id", "model", "order", "reason", "scope", "whose")
    ui_color = "#f3d9dc"

    def __init__(
        self,
        *,
        model: str,
        order: str,
        reason: str,
        scope: str = "model",
        whose: str = "",
        windtunnel_conn_id: str = WindtunnelHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.order = order
        self.reason = reason
        self.scope = scope
        self.whose = whose
        self.windtunnel_conn_id = windtunnel_conn_id

    @property
    def hook(self) -> WindtunnelHook:
        """With the place where the model is served: the home, if it is there; else the cluster, if one is known."""
        hook = WindtunnelHook(self.windtunnel_conn_id)
        if str(self.model).strip() and hook.elsewhere(str(self.model).strip()):
            hook.target = "kubernetes"
        return hook

    def running(self, registry: Any) -> Any:
        """The open rollout.

        Raises:
            AirflowFailException: there is none.
        """
        try:
            newest = registry.rollouts(self.model, limit=1)
        except NotFoundError as error:
            raise AirflowFailException(error.message) from error
        if not newest or not newest[0].live:
            raise AirflowFailException(f"no release of {self.model} is running")
        return newest[0]

    @property
    def target(self) -> str:
        """Whose releases a freeze holds; empty for all.

        Raises:
            AirflowFailException: the scope is none, or does not say whose.
        """
        if self.scope not in SCOPES:
            raise AirflowFailException(f"the scope is {self.scope!r}; expected one of {', '.join(SCOPES)}")
        target = {"all": "", "owner": self.whose, "model": self.model}[self.scope].strip()
        if self.scope != "all" and not target:
            raise AirflowFailException(f"{self.order} of scope {self.scope} needs the {self.scope}: fill it in")
        return target

    def standing(self, registry: Any) -> FreezeRecord:
        """The freeze of this very scope and target.

        Raises:
            AirflowFailException: none stands.
        """
        target = self.target
        freezes = registry.freezes()
        found = next((one for one in freezes if (one.scope, one.target) == (self.scope, target)), None)
        if found is None:
            others = "; ".join(one.sentence for one in freezes) or "nothing is frozen"
            raise AirflowFailException(f"no such freeze stands ({self.scope} {target}".rstrip() + f"): {others}")
        return found  # type: ignore[no-any-return]


class ChooseControlOperator(_Control, BaseBranchOperator):
    """Straight to the order, or through a person's answer.

    Args:
        direct, asked: task ids that begin the two ways.
    """

    def __init__(self, *, direct: str, asked: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.direct = direct
        self.asked = asked

    def choose_branch(self, context: Any) -> str:
        if not str(self.reason).strip():
            raise AirflowFailException("say why: the reason is kept with the release")
        if self.order not in ORDERS:
            raise AirflowFailException(f"the order is {self.order!r}; expected one of {', '.join(ORDERS)}")
        if self.order in FREEZES:
            _ = self.target
        elif not str(self.model).strip():
            raise AirflowFailException(f"{self.order} needs the model whose release it is: fill it in")
        return self.asked if self.order in ASKED else self.direct


class EvidenceOperator(_Control):
    """What a person must see before saying yes: the question, and the release as it stands."""

    def execute(self, context: Any) -> dict[str, Any]:
        from windtunnel.serving.release import overview, overviewtext

        hook = self.hook
        registry = hook.registry
        if self.order == "thaw":
            return self._freeze(context, self.standing(registry))
        rollout = self.running(registry)
        step = None
        if self.order == "skip":
            # The look log knows best: the registry may not have been told of the last step yet.
            looks = hook.looks(self.model).tail(rollout.id)
            state = looks[-1]["decision"]["state"] if looks else {}
            step = int(state.get("step", rollout.step or 0))
        found = overview.show(hook.home, self.model, registry, place=hook.place)
        lines = overviewtext.shown(found) if found else ["nothing is known of it yet"]
        decision = (found or {}).get("decision") or {}
        body = "\n".join(
            (
                f"**{self.order}** is wanted by {_triggered_by(context) or 'nobody who is known'}: {self.reason}",
                "",
                f"Last decision: {decision.get('reason', 'no gate has looked yet')}",
                "",
                "```text",
                *lines,
                "```",
            )
        )
        return {
            "subject": question(self.order, self.model, str(rollout.version), rollout.id, step),
            "body": body,
            "rollout_id": rollout.id,
            "step": step,
        }

    def _freeze(self, context: Any, freeze: FreezeRecord) -> dict[str, Any]:
        held = ", ".join(freeze.models) or "none that runs now"
        lines = (
            f"**thaw** is wanted by {_triggered_by(context) or 'nobody who is known'}: {self.reason}",
            "",
            f"It lifts: {freeze.sentence}",
            "",
            f"Releases that would go on: {held}",
        )
        return {"subject": thaw_question(freeze), "body": "\n".join(lines), "freeze_id": freeze.id, "step": None}


class OrderOperator(_Control):
    """Give the order to the registry; abort moves traffic first, and needs no registry for it.

    Args:
        asked: what ``EvidenceOperator`` returned, where a person was asked (templated); None for orders that need no
            answer.
    """

    template_fields: Sequence[str] = (*_Control.template_fields, "asked")

    def __init__(self, *, asked: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.asked = asked

    def execute(self, context: Any) -> dict[str, Any]:
        try:
            match self.order:
                case "abort":
                    done = self._abort(context)
                case "freeze":
                    done = self._freeze(context)
                case "thaw":
                    done = self._thaw(context)
                case _:
                    done = self._order(context)
        except (RefusedError, RegistryError) as error:
            raise AirflowFailException(error.message) from error
        self.log.info("%s", done)
        return done

    def _order(self, context: Any) -> dict[str, Any]:
        ti, registry = context["ti"], self.hook.registry
        # A task that is tried again gives the same order, not a second one.
        key = _key(ti.dag_id, ti.run_id)
        if self.asked:
            answer = _answer(ti)
            taken: OrderRecord = registry.order(
                self.asked["rollout_id"],
                self.order,  # type: ignore[arg-type]
                self.reason,
                step=self.asked["step"],
                key=key,
                answer=answer,
            )
        else:
            taken = registry.order(
                self.running(registry).id,
                self.order,  # type: ignore[arg-type]
                self.reason,
                key=key,
                on_behalf_of=_need_person(context),
            )
        return taken.to_dict()

    def _freeze(self, context: Any) -> dict[str, Any]:
        registry, who, target = self.hook.registry, _need_person(context), self.target
        reason = str(self.reason).strip()
        for one in registry.freezes():
            mine = (one.scope, one.target, one.by, one.reason) == (self.scope, target, who, reason)
            if mine:  # an earlier try of this task, which did not hear the answer
                return one.to_dict()  # type: ignore[no-any-return]
        frozen: FreezeRecord = registry.freeze(reason, scope=self.scope, target=target or None, on_behalf_of=who)
        return frozen.to_dict()

    def _thaw(self, context: Any) -> dict[str, Any]:
        if not self.asked:
            raise AirflowFailException("a freeze is lifted only after a person's answer")
        registry, reason = self.hook.registry, str(self.reason).strip()
        for one in registry.freezes(lifted=True):
            if one.id == self.asked["freeze_id"] and one.lifted_at is not None and one.lifted_reason == reason:
                return one.to_dict()  # type: ignore[no-any-return]
        lifted: FreezeRecord = registry.thaw(self.asked["freeze_id"], reason, answer=_answer(context["ti"]))
        return lifted.to_dict()

    def _abort(self, context: Any) -> dict[str, Any]:
        from windtunnel.serving.release import outbox
        from windtunnel.serving.release.abort import abort_release, order_abort

        hook, who = self.hook, _need_person(context)
        observed, note = abort_release(hook.home, hook.place, self.model, self.reason, by=who)
        done: dict[str, Any] = {"kind": "abort", "aborted": observed.aborted, "told": False}
        try:
            if note is not None:
                done["told"] = note in outbox.ship(hook.home, hook.registry).told
            elif observed.aborted is None and (
                order := order_abort(hook.registry, self.model, self.reason, on_behalf_of=who)
            ):
                done |= {"told": True, "order": order.seq}
        except UnavailableError as error:
            self.log.warning("The registry is told later: %s", error.message)
        except WindtunnelError as error:
            if note is None:
                raise
            self.log.warning("The registry was not told: %s", error.message)
        if note is None and observed.aborted is None and not done["told"]:
            raise AirflowFailException(f"no release of {self.model} is running")
        return done


def _triggered_by(context: Any) -> str | None:
    name = getattr(context.get("dag_run"), "triggering_user_name", None)
    return str(name) if name else None


def _need_person(context: Any) -> str:
    found = _triggered_by(context)
    if found is None:
        raise AirflowFailException("nobody is known to have triggered this run, and nobody's order is not passed on")
    return f"airflow:{found}"


def _answer(ti: Any) -> dict[str, Any]:
    """Where a person was asked in this run."""
    return {"dag_id": ti.dag_id, "dag_run_id": ti.run_id, "task_id": APPROVE_TASK, "map_index": -1}


def _key(dag_id: str, run_id: str) -> str:
    import hashlib

    return "airflow-" + hashlib.sha256(f"{dag_id}\n{run_id}".encode()).hexdigest()[:32]


def control_dag(*, windtunnel_conn_id: str = WindtunnelHook.default_conn_name, **dag_args: Any) -> DAG:
    """``windtunnel.control``: pause, resume, skip a step of, promote or abort a running release; freeze and thaw.

    Trigger it with the model, the order and the reason. ``skip``, ``promote`` and ``thaw`` go on only after a person's
    yes in *Required actions*.
    """
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    from windtunnel_airflow.factory import EPOCH

    with DAG(
        dag_id=CONTROL_DAG,
        description="Pause, resume, skip a step of, promote or abort a running release; freeze and thaw",
        schedule=None,
        start_date=EPOCH,
        catchup=False,
        tags=["windtunnel", "control"],
        params={
            "model": Param(
                None,
                type=["null", "string"],
                title="Model",
                description="The model whose release it is; for freeze and thaw of scope owner or all it stays empty",
            ),
            "order": Param(
                "pause",
                type="string",
                enum=list(ORDERS),
                title="Order",
                description="What is to be done; skip, promote and thaw are asked about once more",
            ),
            "reason": Param(
                "",
                type="string",
                minLength=1,
                title="Reason",
                description="Why; kept with the release and in the audit",
            ),
            "scope": Param(
                "model",
                type="string",
                enum=list(reversed(SCOPES)),
                title="Scope",
                description="Of freeze and thaw: the model's releases, those of an owner's models, or all",
            ),
            "owner": Param(
                None,
                type=["null", "string"],
                title="Owner",
                description="Of freeze and thaw with scope owner: whose models",
            ),
        },
        **dag_args,
    ) as dag:
        given: dict[str, Any] = {
            "model": "{{ params.model or '' }}",
            "order": "{{ params.order }}",
            "reason": "{{ params.reason }}",
            "scope": "{{ params.scope }}",
            "whose": "{{ params.owner or '' }}",
            "windtunnel_conn_id": windtunnel_conn_id,
        }
        choose = ChooseControlOperator(task_id="choose", direct="order", asked="evidence", **given)
        evidence = EvidenceOperator(task_id="evidence", **given)
        approve = ApprovalOperator(
            task_id=APPROVE_TASK,
            subject="{{ ti.xcom_pull(task_ids='evidence')['subject'] }}",
            body="{{ ti.xcom_pull(task_ids='evidence')['body'] }}",
            # An answer given within the second in which the question appears can be lost: the scheduler queues the
            # task again before it hears that the asking one has left its worker, and takes that for its death
            # (Airflow 3.3, `process_executor_events`). Then the question is asked again, and the run does not fail.
            retries=3,
            retry_delay=timedelta(seconds=1),
        )
        choose >> OrderOperator(task_id="order", **given)
        choose >> evidence >> approve >> OrderOperator(task_id="order_approved", asked=evidence.output, **given)
    return dag
