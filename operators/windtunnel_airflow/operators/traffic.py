"""What moves traffic: a desired state written under the claim's fencing token, and what is, read back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseBranchOperator
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException

from windtunnel.errors import FencedError, RefusedError, TransientError, UnavailableError
from windtunnel_airflow.base import Windtunnel, WindtunnelOperator
from windtunnel_airflow.hook import WindtunnelHook
from windtunnel_airflow.links import ModelVersionLink
from windtunnel_airflow.rollouts import claim_story, desired, need_claim, stage_of, versions_of
from windtunnel_airflow.samples import settings_for


class TrafficOperator(WindtunnelOperator):
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
        hook = self.hook
        return settings_for(hook.home, self.description, claim, store=hook.object_store)

    def apply(self, release: Any, **waited: float) -> Any:
        """Bring traffic to ``release``; a fenced write ends the task for good.

        Unless it is another try of this very release that has gone further, or the guard: then what is wanted here is
        done. Should they have died before the router was told, it is told here.
        """
        backend = self.hook.backend()
        try:
            observed = backend.apply(release, **waited)
        except FencedError as error:
            observed = backend.observe(release.model)
            mine = (observed.token, observed.rollout_id) == (release.token, release.rollout_id)
            if not mine or observed.aborted is not None:
                raise AirflowFailException(f"this release was taken over: {error.message}") from error
            self.log.info("Another try of this release has gone further already: %s", error.message)
            further = backend.desired(release.model) if backend.lagging(release.model) else None
            if further is not None and not further.exposed:
                observed = backend.apply(further)
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


class DeployOperator(TrafficOperator):
    """Bring the candidate up with no traffic: verified, loaded, warmed with real rows, ready (SRV-2).

    Args:
        deferrable: wait for servers in a cluster in the triggerer (``operators.default_deferrable`` unless told); those
            of this machine are started by the task itself, and waited for.
    """

    def __init__(
        self,
        *,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable

    def execute(self, context: Any) -> dict[str, Any]:
        from windtunnel.serving.local.servers import ignored

        claim = self.start(context)
        if self.served_at == "local" and (names := ignored(self.description.serving)):
            self.log.warning("Servers on this machine do not follow %s", ", ".join(names))
        hook = self.hook
        began = hook.now()
        if self.deferrable and self.served_at == "kubernetes" and self._begun(claim):
            from windtunnel_airflow.triggers import DeployTrigger

            trigger = DeployTrigger(
                claim["model"],
                claim["token"],
                began,
                self.description.serving.ready_within.total_seconds(),
                self.windtunnel_conn_id,
                hook.seldon_conn_id,
            )
            self.defer(trigger=trigger, method_name="deployed")
        return self._deploy(claim)

    def deployed(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Go on when the versions have answered, or never will. ``began`` of the event is when they were asked for."""
        claim = self.start(context)
        if event["status"] == "error":
            from windtunnel_airflow.sensors import as_exception

            raise as_exception(event)
        return self._deploy(claim, since=float(event["began"]))

    def _release(self, claim: Any) -> Any:
        return desired(claim, 0, self.settings(claim), now=self.hook.now(), stage=stage_of(claim, "deploy"))

    def _begun(self, claim: Any) -> bool:
        """Whether versions were asked for that have to be waited for."""
        try:
            waits = self.hook.backend().begin(self._release(claim))
        except FencedError:  # perhaps another try of this very release: ``apply`` tells the two apart
            return False
        if waits:
            self.log.info("Versions %s of %s come up; the triggerer waits for them", ", ".join(waits), claim["model"])
        return bool(waits)

    def _deploy(self, claim: Any, **waited: float) -> dict[str, Any]:
        observed = self.apply(self._release(claim), **waited)
        self._need_way_back(claim)
        self.tell_registry(claim, state="running", weight=0)
        return {"ready": {version: status.ready for version, status in observed.arms.items()}}

    def _need_way_back(self, claim: Any) -> None:
        """The champion must be able to take over before anybody meets the candidate (ROL-12); gates look again.

        Raises:
            TransientError: it could not; another try may find it well.
        """
        problems = self.hook.backend().check_target(claim["model"]) if claim["champion"] else []
        if problems:
            raise TransientError(
                f"nobody meets version {claim['version']} while there is no way back from it: {'; '.join(problems)}"
            )


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


class SetWeightOperator(TrafficOperator):
    """Give the candidate ``weight`` percent of the traffic, or copies of it, and start the lease.

    Args:
        weight: percent.
        mirror: percent of the champion's requests that are copied to the candidate; its weight is 0 then.
        step: index of the step in the plan.
    """

    template_fields: Sequence[str] = (*TrafficOperator.template_fields, "weight", "mirror")

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
        stage, out = stage_of(claim, self.step), self._out(claim)
        if weight == 100 and len(out) + 1 < len(versions_of(claim)):
            raise AirflowFailException(f"nobody of versions {', '.join(versions_of(claim))} has won: none can have all")
        observed = self.apply(
            desired(claim, weight, settings, now=self.hook.now(), stage=stage, mirror=int(self.mirror), out=out)
        )
        self.tell_registry(claim, state="running", step=self.step, weight=weight)
        return {"weight": weight, "observed": {version: arm.weight for version, arm in observed.arms.items()}}

    def _out(self, claim: Any) -> list[str]:
        """Of several candidates, those that a look has taken to 0."""
        if not claim.get("beside"):
            return []
        from windtunnel.rollout.several import flying

        looks = self.hook.looks(claim["model"]).read(claim["rollout_id"])
        left = flying(looks[-1] if looks else None, versions_of(claim))
        return [version for version in versions_of(claim) if version not in left]

    def _promotion_ordered(self, claim: Any) -> bool:
        """A gate before this step has ended the rollout: by a person's order to promote it now (ROL-8)."""
        from windtunnel.serving.release.ending import ended_look

        ended = ended_look(self.hook.looks(claim["model"]).read(claim["rollout_id"]))
        return ended is not None and ended["decision"]["action"] == "promote"
