"""The end of a release, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from windtunnel.errors import UnavailableError, WindtunnelError
from windtunnel_airflow.base import WindtunnelOperator
from windtunnel_airflow.links import ModelVersionLink
from windtunnel_airflow.operators.announcing import announce_by_alias, champion_among, champion_event
from windtunnel_airflow.rollouts import claim_story, led_by, read_claim, sentence


class OutcomeOperator(WindtunnelOperator):
    """One sentence on the whole release, and its colour: only a promoted version is a success.

    A rollback task that succeeded is the safety net at work, so it is green; but a release whose version was rolled
    back or withdrawn did not do what it was for. So this last task fails then, with the reason, and with it the DAG
    run: whoever looks at a list of runs, or counts them, sees at once which releases ended with a champion.

    Args:
        claim, promoted, undone: what those tasks returned; None when they did not run.
    """

    operator_extra_links: Any = (ModelVersionLink(),)

    template_fields: Sequence[str] = (*WindtunnelOperator.template_fields, "claim", "promoted", "undone", "watched")

    def __init__(
        self, *, claim: Any, promoted: Sequence[Any], undone: Sequence[Any], watched: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.claim = claim
        self.promoted = promoted
        self.undone = undone
        self.watched = watched

    def execute(self, context: Any) -> dict[str, Any]:
        claim = read_claim(self.claim)
        if claim is None and self._state(context, "claim") == "skipped":
            raise AirflowSkipException("no version waited for its release")
        self.begin(context, claim_story(claim) if claim else None)
        if claim:
            self.note_version(claim["model"], claim["version"])
        promoted = next((one for one in self.promoted if one), None)
        if claim and promoted:
            claim = led_by(claim, str(promoted["champion"]))
        undone = next((one for one in self.undone if one), None)
        well, words = sentence(claim, promoted, undone)
        if not well and claim and not undone and (found := self._champion(claim)):
            claim = found
            well, words = True, f"version {claim['version']} of {claim['model']} is champion"
            # Who finished the promotion was not the task that announces it.
            announce_by_alias(self, context, claim["model"], "champion", champion_event(claim).extra())
        if well and claim and claim["first"] and not self.watched and self._state(context, "first.watch") != "success":
            well, words = False, f"version {claim['version']} of {claim['model']} is champion, but nobody watched it"
        if not well:
            raise AirflowFailException(words)
        self.log.info("%s", words)
        return {"outcome": words, "version": claim["version"], "digest": claim["digest"]}

    def _champion(self, claim: Any) -> dict[str, Any] | None:
        try:
            return champion_among(self.hook.registry, claim)
        except UnavailableError:
            raise  # another try may learn it
        except WindtunnelError:
            return None

    def _state(self, context: Any, task_id: str) -> str | None:
        ti = context["ti"]
        state = (
            ti.get_task_states(dag_id=ti.dag_id, task_ids=[task_id], run_ids=[ti.run_id])
            .get(ti.run_id, {})
            .get(task_id)
        )
        return str(getattr(state, "value", state)) if state is not None else None
