"""The beginning of a release: which version, against which champion, by which plan; and that it is ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from windtunnel.errors import RefusedError
from windtunnel_airflow.base import WindtunnelOperator, run_coordinates
from windtunnel_airflow.links import ModelVersionLink
from windtunnel_airflow.rollouts import arm, make_claim
from windtunnel_airflow.story import Story


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
        champion = champion_of(registry, rollout)
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


def champion_of(registry: Any, rollout: Any) -> Any:
    """The champion a rollout was opened against; None for a first release."""
    return None if rollout.champion is None else registry.version(rollout.model, rollout.champion)
