"""Release: claim a version, deploy it, move its weight step by step, promote it, or take it back.

Every one of these writes a desired state under the claim's fencing token and reads back what is; run again, it ends
in the same place. Traffic comes before the registry wherever users are at stake: a registry that is down delays a
promotion but never a rollback.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseBranchOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from windtunnel.errors import FencedError, RefusedError, UnavailableError, WindtunnelError
from windtunnel.events import Event
from windtunnel.names import asset_uri
from windtunnel_airflow.base import Windtunnel, WindtunnelOperator, run_coordinates
from windtunnel_airflow.hook import WindtunnelHook
from windtunnel_airflow.links import ModelVersionLink
from windtunnel_airflow.rollouts import claim_story, desired, make_claim, need_claim, read_claim, sentence, withdrawn
from windtunnel_airflow.samples import settings_for
from windtunnel_airflow.story import Story, story_of


class ClaimReleaseOperator(WindtunnelOperator):
    """Find the version to release and take the rollout: events wake, the store decides.

    Without ``version`` the registry's pending version is taken; if there is none, everything is skipped. The rollout
    belongs to this DAG run: a second try gets the same rollout with the same token, another holder a higher one, so
    whoever was before is fenced out. Returns the *claim* that all other tasks of the release are given.

    Args:
        version: release this version instead (templated; empty: the pending one).
    """

    operator_extra_links: Any = (ModelVersionLink(),)

    template_fields: Sequence[str] = (*WindtunnelOperator.template_fields, "version")

    def __init__(self, *, version: str | int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version

    def execute(self, context: Any) -> dict[str, Any]:
        run_story = self.begin(context)
        model, registry, where = self.description, self.hook.registry, run_coordinates(context)
        champion = registry.champion(model.name)
        chosen = str(self.version or "").strip()
        record = registry.version(model.name, chosen) if chosen else registry.pending(model.name)
        if record is None:
            raise AirflowSkipException(f"no version of {model.name} waits for its release")
        if champion is not None and str(champion.version) == str(record.version):
            raise AirflowSkipException(f"version {record.version} of {model.name} is champion already")
        # The version's own story, not the waking event's: several events may have become one run.
        story = Story(record.correlation_id or run_story.correlation_id, record.cause or run_story.cause)
        self.begin(context, story)
        holder = f"airflow:{where['dag_id']}:{where['dag_run_id']}"
        rollout = self._open(registry, model, record, champion, holder, story)
        if rollout.ended:
            raise AirflowSkipException(
                f"the rollout of version {record.version} by this run is {rollout.state} already"
            )
        champion = _champion_of(registry, rollout)
        claim = make_claim(model, record, champion, rollout, story=story)
        self.note_version(model.name, str(record.version))
        self.log.info(
            "Releasing version %s of %s %s",
            record.version,
            model.name,
            f"against champion {champion.version}" if champion else "as its first",
        )
        return claim

    def _open(self, registry: Any, model: Any, record: Any, champion: Any, holder: str, story: Story) -> Any:
        from windtunnel.rollout import Plan

        try:
            return registry.open_rollout(
                model.name,
                str(record.version),
                plan=Plan.from_spec(model.rollout, champion is None).to_dict(),
                holder=holder,
                correlation_id=story.correlation_id,
            )
        except RefusedError as error:
            raise AirflowFailException(f"the rollout of version {record.version} was refused: {error}") from error


def _champion_of(registry: Any, rollout: Any) -> Any:
    """The champion a rollout was opened against; None for a first release."""
    return None if rollout.champion is None else registry.version(rollout.model, rollout.champion)


class _Traffic(WindtunnelOperator):
    """Base of what moves traffic.

    Args:
        claim: what ``ClaimReleaseOperator`` returned, or its JSON text (templated).
    """

    operator_extra_links: Any = (ModelVersionLink(),)

    template_fields: Sequence[str] = (*WindtunnelOperator.template_fields, "claim")

    def __init__(self, *, claim: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.claim = claim

    def start(self, context: Any) -> dict[str, Any]:
        claim = need_claim(self.claim)
        self.begin(context, claim_story(claim))
        self.note_version(claim["model"], claim["version"])
        return claim

    def settings(self, claim: Any) -> dict[str, Any]:
        return settings_for(self.home, self.description, claim)

    def apply(self, release: Any) -> Any:
        """Bring traffic to ``release``; a fenced write ends the task for good."""
        try:
            observed = self.hook.backend().apply(release)
        except FencedError as error:
            raise AirflowFailException(f"this release was taken over: {error.message}") from error
        weights = {version: status.weight for version, status in observed.arms.items()}
        self.log.info("Traffic of %s is now %s", release.model, weights)
        return observed

    def tell_registry(self, claim: Any, **change: Any) -> None:
        """Note where the rollout stands. A registry that is down does not hold up traffic; the next note has it all."""
        try:
            self.hook.registry.update_rollout(claim["rollout_id"], claim["token"], **change)
        except FencedError as error:
            raise AirflowFailException(f"this release was taken over: {error.message}") from error
        except UnavailableError as error:
            self.log.warning("The registry does not answer; it will be told later: %s", error.message)


class DeployOperator(_Traffic):
    """Bring the candidate up with no traffic: verified, loaded, warmed with real rows, ready (SRV-2)."""

    def execute(self, context: Any) -> dict[str, Any]:
        from windtunnel.serving.servers import ignored

        claim = self.start(context)
        if names := ignored(self.description.serving):
            self.log.warning("Servers on this machine do not follow %s", ", ".join(names))
        observed = self.apply(desired(claim, 0, self.settings(claim), now=time.time()))
        self.tell_registry(claim, state="running", weight=0)
        return {"ready": {version: status.ready for version, status in observed.arms.items()}}


class RouteOperator(Windtunnel, BaseBranchOperator):
    """First release or canary: follow one path, skip the other.

    Args:
        first, canary: task ids that begin the two paths.
    """

    template_fields: Sequence[str] = ("windtunnel_conn_id", "claim")

    def __init__(
        self,
        *,
        model: Any,
        claim: Any,
        first: str,
        canary: str,
        windtunnel_conn_id: str = WindtunnelHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.claim = claim
        self.first = first
        self.canary = canary
        self.windtunnel_conn_id = windtunnel_conn_id
        self.links_found = {}

    def choose_branch(self, context: Any) -> str:
        claim = need_claim(self.claim)
        self.begin(context, claim_story(claim))
        return self.first if claim["first"] else self.canary


class SetWeightOperator(_Traffic):
    """Give the candidate ``weight`` percent of the traffic and start the lease.

    Args:
        weight: percent.
        step: index of the step in the plan.
    """

    template_fields: Sequence[str] = (*_Traffic.template_fields, "weight")

    def __init__(self, *, weight: int, step: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = weight
        self.step = step

    def execute(self, context: Any) -> dict[str, Any]:
        claim = self.start(context)
        weight = int(self.weight)
        observed = self.apply(desired(claim, weight, self.settings(claim), now=time.time()))
        self.tell_registry(claim, state="running", step=self.step, weight=weight)
        return {"weight": weight, "observed": {version: arm.weight for version, arm in observed.arms.items()}}


class PromoteOperator(_Traffic):
    """Traffic and registry together, or neither (ROL-7).

    The intent is written first, on the disk beside the traffic and in the registry; then traffic goes to 100 %, then
    the registry commits, then the intent is cleared. Killed anywhere, the next try finds the intent and finishes; if
    policy refuses, traffic goes back and the intent is cleared; if nobody comes, the guard finishes or undoes it.
    """

    def execute(self, context: Any) -> dict[str, Any]:
        from windtunnel.serving import intent

        claim = self.start(context)
        story, registry, home = claim_story(claim), self.hook.registry, self.home
        before = (claim["champion"] or {}).get("version")
        settings = self.settings(claim)
        current = registry.champion(claim["model"])
        if current is None or str(current.version) != claim["version"]:
            intent.begin(
                home,
                claim["model"],
                rollout_id=claim["rollout_id"],
                token=int(claim["token"]),
                candidate=claim["version"],
                champion=before,
            )
            registry.update_rollout(claim["rollout_id"], claim["token"], state="promoting", weight=100)
            self.apply(desired(claim, 100, settings, now=time.time()))
            if not claim["first"]:
                self._attest(registry, claim, context, story)
            try:
                current = registry.promote(claim["rollout_id"], claim["token"], before)
            except RefusedError as error:
                self.apply(withdrawn(claim, settings))
                intent.clear(home, claim["model"])
                raise AirflowFailException(f"the registry refuses version {claim['version']}: {error}") from error
        self.apply(desired(claim, 100, settings, now=None, promoted=True))
        intent.clear(home, claim["model"])
        event = Event(claim["model"], story.correlation_id, story.cause, claim["version"], claim["digest"])
        self._announce(context, "champion", event)
        self.log.info("Version %s of %s is champion", claim["version"], claim["model"])
        return {"champion": claim["version"], "former": before}

    def _attest(self, registry: Any, claim: Any, context: Any, story: Story) -> None:
        """The evidence of the whole rollout, from the looks it was made of."""
        from windtunnel.evidence import Kind, Outcome

        numbers, reason, until = self._looks(claim)
        registry.post_verdict(
            self.verdict(
                context,
                story,
                kind=Kind.ROLLOUT,
                outcome=Outcome.PASS,
                reason=f"all {len(claim['weights'])} steps passed: {reason}",
                subject=claim["digest"],
                version=claim["version"],
                numbers=numbers,
                window=(float(claim["claimed_at"]), until),
            )
        )

    def _looks(self, claim: Any) -> tuple[dict[str, Any], str, float]:
        """(numbers, reason, time) of the last look."""
        from windtunnel.serving.looklog import LookLog

        looks = LookLog(self.home, claim["model"]).read(claim["rollout_id"])
        if not looks:
            raise AirflowFailException("no gate looked at this rollout: nothing shows that it may be promoted")
        last = looks[-1]
        if last["decision"]["action"] in ("roll_back", "withdraw", "hold"):
            raise AirflowFailException(f"the last look says {last['decision']['action']}: {last['decision']['reason']}")
        numbers = {**(last["decision"].get("numbers") or {}), "looks": len(looks)}
        return numbers, str(last["decision"]["reason"]), float(last["at"])

    def _announce(self, context: Any, kind: str, event: Event) -> None:
        announce(self, context, kind, event)


class _Undo(_Traffic):
    """Base of the two ways back: traffic first, then evidence, then the registry."""

    done = "was rolled back"
    state = "rolled_back"

    def execute(self, context: Any) -> dict[str, Any]:
        claim = read_claim(self.claim) or self._find_claim(context)
        if claim is None:
            self.begin(context)
            raise AirflowSkipException("no rollout was opened: there is nothing to undo")
        self.claim = claim
        claim = self.start(context)
        if self._committed(claim):
            return self._finish(claim, context)
        outcome, reason = self._why(claim, context)
        self._traffic_back(claim, reason)
        self._record(claim, context, outcome, reason)
        story = claim_story(claim)
        event = Event(claim["model"], story.correlation_id, reason, claim["version"], claim["digest"])
        announce(self, context, "rollback", event)
        self.log.warning("Version %s of %s %s: %s", claim["version"], claim["model"], self.done, reason)
        return {"done": self.done, "reason": reason, "outcome": outcome}

    # -- steps
    def _traffic_back(self, claim: Any, reason: str) -> None:
        backend, who = self.hook.backend(), claim["holder"]
        backend.abort(claim["model"], reason, who)

    def _record(self, claim: Any, context: Any, outcome: str, reason: str) -> None:
        from windtunnel.evidence import Kind, Outcome
        from windtunnel.serving import intent

        registry = self.hook.registry
        registry.post_verdict(
            self.verdict(
                context,
                claim_story(claim),
                kind=Kind.ROLLOUT,
                outcome=Outcome(outcome),
                reason=reason,
                subject=claim["digest"],
                version=claim["version"],
                window=(float(claim["claimed_at"]), time.time()),
            )
        )
        try:
            self._close(registry, claim, reason)
        except (FencedError, RefusedError) as error:  # taken over, or closed by the guard: their word stands
            self.log.warning("The registry has the rollout closed already: %s", error.message)
        # Last: until the registry knows, the guard must find that a promotion was begun.
        found = intent.read(self.home, claim["model"])
        if found is not None and found.rollout_id == claim["rollout_id"]:
            intent.clear(self.home, claim["model"])

    def _close(self, registry: Any, claim: Any, reason: str) -> None:
        registry.update_rollout(claim["rollout_id"], claim["token"], state=self.state, weight=0, reason=reason)

    # -- what happened
    def _committed(self, claim: Any) -> bool:
        """The registry has this version as champion, so the promotion is finished, not undone."""
        try:
            current = self.hook.registry.champion(claim["model"])
        except UnavailableError:
            return False  # users first: an exposed candidate whose release failed goes to 0
        return current is not None and str(current.version) == claim["version"]

    def _finish(self, claim: Any, context: Any) -> dict[str, Any]:
        from windtunnel.serving import intent

        self.apply(desired(claim, 100, self.settings(claim), now=None, promoted=True))
        intent.clear(self.home, claim["model"])
        raise AirflowSkipException(f"version {claim['version']} is champion already: the promotion was finished")

    def _why(self, claim: Any, context: Any) -> tuple[str, str]:
        """(outcome, sentence): the last look if it ended the rollout, else the guard's or a person's reason, else
        which task failed."""
        from windtunnel.serving.looklog import LookLog

        looks = LookLog(self.home, claim["model"]).read(claim["rollout_id"])
        if looks and looks[-1]["decision"]["action"] in ("roll_back", "withdraw"):
            decision = looks[-1]["decision"]
            return str(decision["outcome"]), str(decision["reason"])
        try:
            observed = self.hook.backend().observe(claim["model"])
            if observed.aborted and observed.rollout_id == claim["rollout_id"]:
                return "INCONCLUSIVE", observed.aborted
        except WindtunnelError as error:
            self.log.warning("The traffic's state cannot be read: %s", error)
        return (
            "INCONCLUSIVE",
            f"task {', '.join(self._failed_tasks(context)) or 'unknown'} failed or was ended by a person",
        )

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
        run_story = story_of(context)
        story = Story(version.correlation_id or run_story.correlation_id, version.cause or run_story.cause)
        return make_claim(model, version, _champion_of(registry, newest[0]), newest[0], story=story)


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

    def _committed(self, claim: Any) -> bool:
        return False  # a first release is champion while it is watched: that is what is undone here

    def _traffic_back(self, claim: Any, reason: str) -> None:
        self.apply(withdrawn(claim, {}))

    def _close(self, registry: Any, claim: Any, reason: str) -> None:
        current = registry.champion(claim["model"])
        if current is not None and str(current.version) == claim["version"]:
            registry.withdraw(claim["model"], claim["version"], reason)
        else:
            registry.update_rollout(claim["rollout_id"], claim["token"], state="withdrawn", weight=0, reason=reason)


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
        undone = next((one for one in self.undone if one), None)
        well, words = sentence(claim, next((one for one in self.promoted if one), None), undone)
        if not well and claim and self._champion(claim):
            well, words = True, f"version {claim['version']} of {claim['model']} is champion"
        if not well:
            raise AirflowFailException(words)
        self.log.info("%s", words)
        return {"outcome": words, "version": claim["version"], "digest": claim["digest"]}

    def _champion(self, claim: Any) -> bool:
        try:
            current = self.hook.registry.champion(claim["model"])
        except WindtunnelError:
            return False
        return current is not None and str(current.version) == claim["version"]

    def _state(self, context: Any, task_id: str) -> str | None:
        ti = context["ti"]
        state = (
            ti.get_task_states(dag_id=ti.dag_id, task_ids=[task_id], run_ids=[ti.run_id])
            .get(ti.run_id, {})
            .get(task_id)
        )
        return str(getattr(state, "value", state)) if state is not None else None


def announce(operator: Any, context: Any, kind: str, event: Event) -> None:
    """Put the event's payload on the outlet of ``kind``, when the task has it; nothing happens otherwise."""
    for outlet in getattr(operator, "outlets", None) or []:
        if getattr(outlet, "uri", None) == asset_uri(event.model, kind):
            context["outlet_events"][outlet].extra.update(event.extra())
