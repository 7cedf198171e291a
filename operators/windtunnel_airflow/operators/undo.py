"""The two ways back: rollback, and withdrawal of a first release."""

from __future__ import annotations

import time
from typing import Any, NoReturn

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from windtunnel.errors import FencedError, RefusedError, TransientError, UnavailableError, WindtunnelError, may_pass
from windtunnel.events import Event
from windtunnel_airflow.asking import WHY
from windtunnel_airflow.base import run_coordinates
from windtunnel_airflow.operators.announcing import announce, champion_among
from windtunnel_airflow.operators.claim import champion_of
from windtunnel_airflow.operators.traffic import TrafficOperator
from windtunnel_airflow.operators.unchosen import record_out
from windtunnel_airflow.rollouts import claim_story, desired, make_claim, read_claim, stage_of, versions_of, withdrawn
from windtunnel_airflow.story import Story, story_of

#: A first release that is to be withdrawn holds no lease: nobody but its task takes its traffic. So where a cluster's
#: API is away, a try asks again every few seconds, for so long; only then comes the next one, after a pause.
_ASKS_FOR_S, _ASKS_EVERY_S = 300.0, 5.0


class _Undo(TrafficOperator):
    """Base of the two ways back: traffic first, then the registry, then evidence.

    A promotion that the registry has committed is never undone here, however late that is noticed: the registry is the
    law, so the traffic follows it (``finish``).
    """

    done = "was rolled back"
    state = "rolled_back"
    #: Of first releases, or of all others. What fails before their paths part wakes both ways back.
    first = False

    def execute(self, context: Any) -> dict[str, Any]:
        try:
            return self._undo(context)
        except WindtunnelError as error:
            # Whatever is in the way now (a router that is down, another apply that hangs) may not be there later.
            raise TransientError(f"not undone yet: {error.message}") from error

    def _undo(self, context: Any) -> dict[str, Any]:
        claim = read_claim(self.claim) or self._find_claim(context)
        if claim is None:
            self.begin(context)
            raise AirflowSkipException("no rollout was opened: there is nothing to undo")
        self.claim = claim
        claim = self.start(context)
        if bool(claim["first"]) != self.first:
            raise AirflowSkipException("this release is undone by " + ("rollback" if self.first else "first.withdraw"))
        # Only after an intent can there be a commit: without one nobody is asked before traffic moves.
        intent = self.hook.intents().read(claim["model"])
        if intent is not None and intent.rollout_id == claim["rollout_id"] and self._committed(claim):
            self._finish(claim)
        outcome, reason = self._why(claim, context)
        self._traffic_back(claim, reason)
        if not self._close(claim, reason):
            self._finish(claim)
        self._record(claim, context, outcome, reason)
        self._leave(claim)
        # Last: until the registry knows, the guard must find that a promotion was begun.
        self.hook.intents().clear(claim["model"], int(claim["token"]))
        story = claim_story(claim)
        event = Event(claim["model"], story.correlation_id, reason, claim["version"], claim["digest"])
        announce(self, context, "rollback", event)
        self.log.warning("Version %s of %s %s: %s", claim["version"], claim["model"], self.done, reason)
        return {"done": self.done, "reason": reason, "outcome": outcome}

    # -- steps
    def _traffic_back(self, claim: Any, reason: str) -> None:
        self.hook.backend().abort(claim["model"], reason, claim["holder"], token=int(claim["token"]))

    def _leave(self, claim: Any) -> None:
        """What is left to do for traffic when the registry knows: nothing, but for a first release."""

    def _close(self, claim: Any, reason: str) -> bool:
        """Tell the registry; False when it has promoted the version.

        Raises:
            AirflowFailException: another holder has the rollout by now; what becomes of it is theirs to say.
        """
        try:
            self.hook.registry.update_rollout(
                claim["rollout_id"], claim["token"], state=self.state, weight=0, reason=reason
            )
        except FencedError as error:
            raise AirflowFailException(f"this release was taken over: {error.message}") from error
        except RefusedError as error:
            self.log.warning("The registry has the rollout closed already: %s", error.message)
            return str(self.hook.registry.rollout(claim["rollout_id"]).state) != "promoted"
        return True

    def _record(self, claim: Any, context: Any, outcome: str, reason: str) -> None:
        """The end in the look log, and the verdict. Each try comes to the same ones."""
        from windtunnel.evidence import Kind, Outcome
        from windtunnel.serving.release.ending import end_log, judged

        champion = claim["champion"]
        last = end_log(
            self.hook.looks(claim["model"]),
            claim["rollout_id"],
            claim["plan"],
            champion=champion["version"] if champion else None,
            candidate=claim["version"],
            beside=versions_of(claim)[1:],
            reason=reason,
            now=self.hook.now(),
            token=int(claim["token"]),
        )
        if last is not None and last["decision"]["action"] in ("roll_back", "withdraw"):
            # What the log says, so that two tries that know of each other nothing say the same.
            outcome, reason = str(last["decision"]["outcome"]), str(last["decision"]["reason"])
        registry, since = self.hook.registry, float(claim["claimed_at"])
        if claim.get("beside"):
            record_out(self, claim, context, versions_of(claim))
            return
        if judged(registry, claim["model"], claim["digest"], since):  # an earlier try, or the guard
            return
        registry.post_verdict(
            self.verdict(
                context,
                claim_story(claim),
                kind=Kind.ROLLOUT,
                outcome=Outcome(outcome),
                reason=reason,
                subject=claim["digest"],
                version=claim["version"],
                window=(since, float(last["at"]) if last else since),
            )
        )

    # -- what happened
    def _committed(self, claim: Any) -> bool:
        """The registry has this version as champion, so the promotion is finished, not undone."""
        try:
            return champion_among(self.hook.registry, claim) is not None
        except UnavailableError:
            return False  # users first: an exposed candidate whose release failed goes to 0

    def _finish(self, claim: Any) -> NoReturn:
        claim = champion_among(self.hook.registry, claim) or claim
        self.apply(
            desired(claim, 100, self.settings(claim), now=None, stage=stage_of(claim, "promoted"), promoted=True)
        )
        self.hook.intents().clear(claim["model"], int(claim["token"]))
        raise AirflowSkipException(f"version {claim['version']} is champion already: the promotion was finished")

    def _why(self, claim: Any, context: Any) -> tuple[str, str]:
        """(outcome, sentence): the look that ended the rollout, else the guard's or a person's reason, else
        which task failed. Each try comes to the same: the first one's sentence stands beside the traffic."""
        from windtunnel.serving.release.ending import ended_look

        ended = ended_look(self.hook.looks(claim["model"]).read(claim["rollout_id"]))
        if ended is not None and ended["decision"]["action"] in ("roll_back", "withdraw"):
            return str(ended["decision"]["outcome"]), str(ended["decision"]["reason"])
        try:
            observed = self.hook.backend().observe(claim["model"])
            if observed.aborted and observed.rollout_id == claim["rollout_id"]:
                return "INCONCLUSIVE", observed.aborted
        except WindtunnelError as error:
            self.log.warning("The traffic's state cannot be read: %s", error)
        failed = self._failed_tasks(context)
        told = self._told(context, failed)
        return "INCONCLUSIVE", told or f"task {', '.join(failed) or 'unknown'} failed or was ended by a person"

    def _told(self, context: Any, failed: list[str]) -> str | None:
        """Why a task failed, where it left a sentence of its own: what policy missed, who rejected the version."""
        try:
            found = [context["ti"].xcom_pull(task_ids=name, key=WHY) for name in failed]
        except Exception as error:
            self.log.warning("Airflow does not say why it failed: %s", error)
            return None
        return next((str(one) for one in found if one), None)

    def _failed_tasks(self, context: Any) -> list[str]:
        ti = context["ti"]
        try:
            states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
        except Exception as error:
            self.log.warning("Airflow does not say which task failed: %s", error)
            return []
        return sorted(name for name, state in states.items() if str(getattr(state, "value", state)) == "failed")

    def _find_claim(self, context: Any) -> dict[str, Any] | None:
        """The claim of a run whose claim task died after opening the rollout: the same holder gets the same rollout."""
        model, registry, where = self.description, self.hook.registry, run_coordinates(context)
        holder = f"airflow:{where['dag_id']}:{where['dag_run_id']}"
        newest = registry.rollouts(model.name, limit=1)
        if not newest or newest[0].ended or newest[0].holder != holder:
            return None
        version = registry.version(model.name, newest[0].version)
        beside = [registry.version(model.name, one) for one in newest[0].beside]
        run_story = story_of(context)
        story = Story(version.correlation_id or run_story.correlation_id, version.cause or run_story.cause)
        return make_claim(model, version, champion_of(registry, newest[0]), newest[0], story=story, beside=beside)


class RollbackOperator(_Undo):
    """Whatever went wrong: the candidate goes to 0 % now, then the verdict FAIL or INCONCLUSIVE, then the registry.

    Traffic needs neither registry nor a free model server (ROL-6). If the registry has committed the promotion
    already, there is nothing to undo and it is finished instead. Its success means that the safety net held; the
    release itself is judged by ``OutcomeOperator``.
    """


class WithdrawOperator(_Undo):
    """Take a first release back after a breach: no traffic, no champion alias (ROL-10)."""

    done = "was withdrawn"
    state = "withdrawn"
    first = True
    _moved = False

    def _undo(self, context: Any) -> dict[str, Any]:
        until = time.monotonic() + _ASKS_FOR_S
        while True:
            try:
                return super()._undo(context)
            except WindtunnelError as error:
                here = self._moved or self.served_at != "kubernetes" or time.monotonic() > until
                if here or not may_pass(error):
                    raise
                self.log.warning("Its traffic is not taken yet: %s", error.message)
            time.sleep(_ASKS_EVERY_S)

    def _committed(self, claim: Any) -> bool:
        return False  # a first release is champion while it is watched: that is what is undone here

    def _traffic_back(self, claim: Any, reason: str) -> None:
        super()._traffic_back(claim, reason)  # while it is a candidate still, this is enough, and quicker
        arm = self.hook.backend().observe(claim["model"]).arms.get(claim["version"])
        if arm is not None and arm.weight:
            self.apply(withdrawn(claim))
        self._moved = True

    def _leave(self, claim: Any) -> None:
        self.apply(withdrawn(claim, gone=True))

    def _close(self, claim: Any, reason: str) -> bool:
        if not super()._close(claim, reason):
            self.hook.registry.withdraw(claim["model"], claim["version"], reason)
        return True
