"""Release: claim a version, deploy it, move its weight step by step, promote it, or take it back.

Every one of these writes a desired state under the claim's fencing token and reads back what is; run again, it ends
in the same place. Traffic comes before the registry wherever users are at stake: a registry that is down delays a
promotion but never a rollback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from airflow.sdk import Asset, AssetAlias, BaseBranchOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from windtunnel.errors import FencedError, RefusedError, TransientError, UnavailableError, WindtunnelError
from windtunnel.events import Event
from windtunnel.names import asset_uri
from windtunnel_airflow.base import Windtunnel, WindtunnelOperator, run_coordinates
from windtunnel_airflow.hook import WindtunnelHook
from windtunnel_airflow.links import ModelVersionLink
from windtunnel_airflow.rollouts import (
    arm,
    claim_story,
    desired,
    make_claim,
    need_claim,
    read_claim,
    sentence,
    stage_of,
    withdrawn,
)
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
        if not record.ready:
            raise AirflowFailException(
                f"version {record.version} of {model.name} is {record.status}, not READY: its content is not sealed, so"
                " nothing can be verified against it; register it again with the same key"
            )
        if champion is not None:
            if model.rollout.strategy not in ("blue_green", "all_at_once"):
                self._need_accepted(model, record, champion)
            self._need_watched(registry, model)
        holder = f"airflow:{where['dag_id']}:{where['dag_run_id']}"
        rollout = self._open(registry, model, record, champion, holder, story)
        if rollout.ended:
            raise AirflowSkipException(
                f"the rollout of version {record.version} by this run is {rollout.state} already"
            )
        if bool(rollout.plan.get("first")) != (rollout.champion is None):
            raise AirflowFailException(
                f"{model.name} got champion {rollout.champion} while version {record.version} was claimed as "
                f"{'the first' if rollout.champion else 'a later one'}: release it again"
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

    def _need_accepted(self, model: Any, record: Any, champion: Any) -> None:
        """The candidate must accept every request its champion accepts before the two share any (ROL-11)."""
        from windtunnel.serving.backend import Release

        features = [feature.model_dump(mode="json") for feature in model.data.features]
        both = Release(
            model.name,
            arm(model.name, str(champion.version), champion.digest, 100),
            (arm(model.name, str(record.version), record.digest, 0),),
            settings={str(record.version): {"features": features}},
        )
        reasons = self.hook.backend().refusals(both)
        if reasons:
            raise AirflowFailException(
                f"version {record.version} of {model.name} does not accept what its champion accepts, so the two cannot"
                f" share requests: {'; '.join(reasons)}. Release it with rollout.strategy blue_green, when its"
                " callers send the new requests"
            )

    def _need_watched(self, registry: Any, model: Any) -> None:
        """A plan without any step ends without evidence; a policy that asks for it would refuse at the very end."""
        if model.rollout.exposures(model.serving.replicas):
            return
        if "rollout" in registry.policy(model.name).get("champion", ()):
            raise AirflowFailException(
                f"rollout.strategy {model.rollout.strategy} of {model.name} has no step that is watched, and its policy"
                " wants a rollout's PASS for a champion: set rollout.bake, or take 'rollout' out of policy.champion"
            )

    def _open(self, registry: Any, model: Any, record: Any, champion: Any, holder: str, story: Story) -> Any:
        from windtunnel.rollout import Plan

        plan = Plan.from_spec(model.rollout, champion is None, model.serving.replicas).to_dict()
        # What the registry must know of the description: whose freeze holds, how long the way back is kept.
        plan |= {"owner": model.owner, "keep_warm_s": model.rollout.keep_warm.total_seconds()}
        try:
            return registry.open_rollout(
                model.name,
                str(record.version),
                plan=plan,
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
        """Bring traffic to ``release``; a fenced write ends the task for good.

        Unless it is another try of this very release that has gone further: then what is wanted here is done.
        """
        backend = self.hook.backend()
        try:
            observed = backend.apply(release)
        except FencedError as error:
            observed = backend.observe(release.model)
            mine = (observed.token, observed.rollout_id) == (release.token, release.rollout_id)
            if not mine or observed.aborted is not None:
                raise AirflowFailException(f"this release was taken over: {error.message}") from error
            self.log.info("Another try of this release has gone further already: %s", error.message)
        weights = {version: status.weight for version, status in observed.arms.items()}
        self.log.info("Traffic of %s is now %s", release.model, weights)
        return observed

    def tell_registry(self, claim: Any, **change: Any) -> None:
        """Note where the rollout stands. A registry that is down does not hold up traffic; the next note has it all."""
        try:
            self.hook.registry.update_rollout(claim["rollout_id"], claim["token"], **change)
        except FencedError as error:
            raise AirflowFailException(f"this release was taken over: {error.message}") from error
        except RefusedError as error:
            raise AirflowFailException(f"the registry has this rollout closed: {error.message}") from error
        except UnavailableError as error:
            self.log.warning("The registry does not answer; it will be told later: %s", error.message)


class DeployOperator(_Traffic):
    """Bring the candidate up with no traffic: verified, loaded, warmed with real rows, ready (SRV-2)."""

    def execute(self, context: Any) -> dict[str, Any]:
        from windtunnel.serving.servers import ignored

        claim = self.start(context)
        if names := ignored(self.description.serving):
            self.log.warning("Servers on this machine do not follow %s", ", ".join(names))
        observed = self.apply(
            desired(claim, 0, self.settings(claim), now=self.hook.now(), stage=stage_of(claim, "deploy"))
        )
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
    """Give the candidate ``weight`` percent of the traffic, or copies of it, and start the lease.

    Args:
        weight: percent.
        mirror: percent of the champion's requests that are copied to the candidate; its weight is 0 then.
        step: index of the step in the plan.
    """

    template_fields: Sequence[str] = (*_Traffic.template_fields, "weight", "mirror")

    def __init__(self, *, weight: int, mirror: int = 0, step: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = weight
        self.mirror = mirror
        self.step = step

    def execute(self, context: Any) -> dict[str, Any]:
        claim = self.start(context)
        if self._promotion_ordered(claim):
            # Not skipped: that would skip the promotion that follows, too.
            self.log.info("This rollout is promoted by order: step %s is not flown", self.step + 1)
            return {"weight": None, "observed": {}}
        weight, settings = int(self.weight), self.settings(claim)
        stage = stage_of(claim, self.step)
        observed = self.apply(
            desired(claim, weight, settings, now=self.hook.now(), stage=stage, mirror=int(self.mirror))
        )
        self.tell_registry(claim, state="running", step=self.step, weight=weight)
        return {"weight": weight, "observed": {version: arm.weight for version, arm in observed.arms.items()}}

    def _promotion_ordered(self, claim: Any) -> bool:
        """A gate before this step has ended the rollout: by a person's order to promote it now (ROL-8)."""
        from windtunnel.serving.ending import ended_look

        ended = ended_look(self.hook.looks(claim["model"]).read(claim["rollout_id"]))
        return ended is not None and ended["decision"]["action"] == "promote"


class PromoteOperator(_Traffic):
    """Traffic and registry together, or neither (ROL-7).

    The intent is written first, on the disk beside the traffic and in the registry; then traffic goes to 100 %, then
    the registry commits, then the intent is cleared. Killed anywhere, the next try finds the intent and finishes; if
    policy refuses, traffic goes back and the intent is cleared; if nobody comes, the guard finishes or undoes it.
    """

    def execute(self, context: Any) -> dict[str, Any]:
        claim = self.start(context)
        before = (claim["champion"] or {}).get("version")
        settings = self.settings(claim)
        if not is_champion(self.hook.registry, claim):
            self._commit(claim, context, before, settings)
        self.apply(desired(claim, 100, settings, now=None, stage=stage_of(claim, "promoted"), promoted=True))
        self.hook.intents().clear(claim["model"], int(claim["token"]))
        announce(self, context, "champion", champion_event(claim))
        self.log.info("Version %s of %s is champion", claim["version"], claim["model"])
        return {"champion": claim["version"], "former": before}

    def _commit(self, claim: Any, context: Any, before: str | None, settings: Any) -> None:
        """Intent, traffic, registry.

        Raises:
            AirflowFailException: somebody refuses; the candidate has no traffic then.
        """
        registry, intents, model, token = self.hook.registry, self.hook.intents(), claim["model"], int(claim["token"])
        evidence = None if claim["first"] else self._evidence(claim, context)
        try:
            intents.begin(
                model, rollout_id=claim["rollout_id"], token=token, candidate=claim["version"], champion=before
            )
            registry.update_rollout(claim["rollout_id"], token, state="promoting", weight=100)
        except FencedError as error:
            intents.clear(model, token)
            raise AirflowFailException(f"this release was taken over: {error.message}") from error
        except RefusedError as error:
            if is_champion(registry, claim):  # another try of this task was quicker
                return
            intents.clear(model, token)
            raise AirflowFailException(f"the registry has this rollout closed: {error.message}") from error
        self.apply(desired(claim, 100, settings, now=self.hook.now(), stage=stage_of(claim, "promote")))
        if evidence is not None:
            registry.post_verdict(evidence)
        try:
            registry.promote(claim["rollout_id"], token, before)
        except FencedError as error:
            raise AirflowFailException(f"this release was taken over: {error.message}") from error
        except RefusedError as error:
            why = f"the registry refuses version {claim['version']}: {error.message}"
            self.hook.backend().abort(model, why, claim["holder"], token=token)
            intents.clear(model, token)
            raise AirflowFailException(f"the registry refuses version {claim['version']}: {error}") from error

    def _evidence(self, claim: Any, context: Any) -> Any:
        """The verdict on the whole rollout, from the looks it was made of. Each try makes the same one."""
        from windtunnel.evidence import Kind, Outcome

        if not claim["weights"]:
            outcome, numbers, until = Outcome.INCONCLUSIVE, {"looks": 0}, float(claim["claimed_at"])
            reason = "all at once: by its plan nobody watched"
        else:
            numbers, reason, until, shown = self._looks(claim)
            outcome = Outcome.PASS if shown else Outcome.INCONCLUSIVE
            reason = f"all {len(claim['weights'])} steps passed: {reason}" if shown else reason
        return self.verdict(
            context,
            claim_story(claim),
            kind=Kind.ROLLOUT,
            outcome=outcome,
            reason=reason,
            subject=claim["digest"],
            version=claim["version"],
            numbers=numbers,
            window=(float(claim["claimed_at"]), until),
        )

    def _looks(self, claim: Any) -> tuple[dict[str, Any], str, float, bool]:
        """(numbers, reason, time) of the look that ended the rollout; whether it and every step before was passed by
        the numbers, not left by a person's order (ROL-8)."""
        from windtunnel.serving.ending import ended_look

        looks = self.hook.looks(claim["model"]).read(claim["rollout_id"])
        if not looks:
            raise AirflowFailException("no gate looked at this rollout: nothing shows that it may be promoted")
        last = ended_look(looks) or looks[-1]
        if last["decision"]["action"] in ("roll_back", "withdraw", "hold"):
            raise AirflowFailException(f"the last look says {last['decision']['action']}: {last['decision']['reason']}")
        numbers = {**(last["decision"].get("numbers") or {}), "looks": looks.index(last) + 1}
        shown = not any(look["decision"]["row"] in ("skipped", "promoted-by-order") for look in looks)
        return numbers, str(last["decision"]["reason"]), float(last["at"]), shown


class _Undo(_Traffic):
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
        from windtunnel.serving.ending import end_log, judged

        champion = claim["champion"]
        last = end_log(
            self.hook.looks(claim["model"]),
            claim["rollout_id"],
            claim["plan"],
            champion=champion["version"] if champion else None,
            candidate=claim["version"],
            reason=reason,
            now=self.hook.now(),
            token=int(claim["token"]),
        )
        if last is not None and last["decision"]["action"] in ("roll_back", "withdraw"):
            # What the log says, so that two tries that know of each other nothing say the same.
            outcome, reason = str(last["decision"]["outcome"]), str(last["decision"]["reason"])
        registry, since = self.hook.registry, float(claim["claimed_at"])
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
            return is_champion(self.hook.registry, claim)
        except UnavailableError:
            return False  # users first: an exposed candidate whose release failed goes to 0

    def _finish(self, claim: Any) -> NoReturn:
        self.apply(
            desired(claim, 100, self.settings(claim), now=None, stage=stage_of(claim, "promoted"), promoted=True)
        )
        self.hook.intents().clear(claim["model"], int(claim["token"]))
        raise AirflowSkipException(f"version {claim['version']} is champion already: the promotion was finished")

    def _why(self, claim: Any, context: Any) -> tuple[str, str]:
        """(outcome, sentence): the look that ended the rollout, else the guard's or a person's reason, else
        which task failed. Each try comes to the same: the first one's sentence stands beside the traffic."""
        from windtunnel.serving.ending import ended_look

        ended = ended_look(self.hook.looks(claim["model"]).read(claim["rollout_id"]))
        if ended is not None and ended["decision"]["action"] in ("roll_back", "withdraw"):
            return str(ended["decision"]["outcome"]), str(ended["decision"]["reason"])
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
    first = True

    def _committed(self, claim: Any) -> bool:
        return False  # a first release is champion while it is watched: that is what is undone here

    def _traffic_back(self, claim: Any, reason: str) -> None:
        super()._traffic_back(claim, reason)  # while it is a candidate still, this is enough, and quicker
        arm = self.hook.backend().observe(claim["model"]).arms.get(claim["version"])
        if arm is not None and arm.weight:
            self.apply(withdrawn(claim))

    def _leave(self, claim: Any) -> None:
        self.apply(withdrawn(claim, gone=True))

    def _close(self, claim: Any, reason: str) -> bool:
        if not super()._close(claim, reason):
            self.hook.registry.withdraw(claim["model"], claim["version"], reason)
        return True


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
        if not well and claim and not undone and self._champion(claim):
            well, words = True, f"version {claim['version']} of {claim['model']} is champion"
            # Who finished the promotion was not the task that announces it.
            self._announce_late(context, claim)
        if well and claim and claim["first"] and not self.watched and self._state(context, "first.watch") != "success":
            well, words = False, f"version {claim['version']} of {claim['model']} is champion, but nobody watched it"
        if not well:
            raise AirflowFailException(words)
        self.log.info("%s", words)
        return {"outcome": words, "version": claim["version"], "digest": claim["digest"]}

    def _champion(self, claim: Any) -> bool:
        try:
            return is_champion(self.hook.registry, claim)
        except UnavailableError:
            raise  # another try may learn it
        except WindtunnelError:
            return False

    def _announce_late(self, context: Any, claim: Any) -> None:
        for outlet in self.outlets or []:
            if isinstance(outlet, AssetAlias):
                uri = asset_uri(claim["model"], "champion")
                asset = Asset(name=uri, uri=uri, group="windtunnel")
                context["outlet_events"][outlet].add(asset, extra=champion_event(claim).extra())

    def _state(self, context: Any, task_id: str) -> str | None:
        ti = context["ti"]
        state = (
            ti.get_task_states(dag_id=ti.dag_id, task_ids=[task_id], run_ids=[ti.run_id])
            .get(ti.run_id, {})
            .get(task_id)
        )
        return str(getattr(state, "value", state)) if state is not None else None


def is_champion(registry: Any, claim: Any) -> bool:
    """The registry has the claim's version as champion."""
    current = registry.champion(claim["model"])
    return current is not None and str(current.version) == claim["version"]


def champion_event(claim: Any) -> Event:
    """What is announced when the claim's version has become champion."""
    story = claim_story(claim)
    return Event(claim["model"], story.correlation_id, story.cause, claim["version"], claim["digest"])


def announce(operator: Any, context: Any, kind: str, event: Event) -> None:
    """Put the event's payload on the outlet of ``kind``, when the task has it; nothing happens otherwise."""
    for outlet in getattr(operator, "outlets", None) or []:
        if getattr(outlet, "uri", None) == asset_uri(event.model, kind):
            context["outlet_events"][outlet].extra.update(event.extra())
