"""The beginning of a release: which version, against which champion, by which plan; and that it is ours."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from windtunnel.errors import RefusedError
from windtunnel_airflow.asking import WaitsForPolicy
from windtunnel_airflow.base import WindtunnelOperator, run_coordinates
from windtunnel_airflow.links import ModelVersionLink
from windtunnel_airflow.rollouts import arm, make_claim
from windtunnel_airflow.samples import settings_for
from windtunnel_airflow.story import Story


class ClaimReleaseOperator(WaitsForPolicy, WindtunnelOperator):
    """Find the version to release and take the rollout: events wake, the store decides.

    Without ``version`` the registry's pending version is taken; if there is none, everything is skipped. The rollout
    belongs to this DAG run: a second try gets the same rollout with the same token, another holder a higher one, so
    whoever was before is fenced out. Where policy wants something before a version may come to Staging, it waits for
    that (deferrable only), and asks for approvals as ``PolicySensor`` does. Returns the *claim* that all other tasks of
    the release are given.

    Args:
        version: release this version instead (templated; empty: the pending one).
        beside: further versions that fly beside it against the same champion (templated: JSON list of numbers); for
            strategy ``ab``.
        deferrable: wait for policy in the triggerer; without it, what misses something fails.
        policy_timeout: for so long.
    """

    target = "staging"
    operator_extra_links: Any = (ModelVersionLink(),)

    template_fields: Sequence[str] = (*WindtunnelOperator.template_fields, "version", "beside")

    def __init__(
        self,
        *,
        version: str | int | None = None,
        beside: Sequence[Any] | str | None = None,
        deferrable: bool = False,
        policy_timeout: timedelta = timedelta(days=7),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.beside = beside
        self.deferrable = deferrable
        self.policy_timeout = policy_timeout

    def execute(self, context: Any) -> dict[str, Any]:
        return self._claim(context, time.time() + self.policy_timeout.total_seconds())

    def execute_complete(
        self, context: Any, event: Mapping[str, Any], end: float, asked: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """After waiting for what a version needs to come to Staging."""
        self.begin(context)
        question, told = self.resumed(context, event, asked)
        self.late(context, event, f"a version of {self.description.name} waited for policy to come to Staging")
        return self._claim(context, end, asked=question, told=told)

    def _claim(self, context: Any, end: float, **waited: Any) -> dict[str, Any]:
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
        others = [registry.version(model.name, one) for one in self._named(registry, model, record)]
        self._need_able(model, record, champion, others)
        if others:
            self._need_several(model, record, champion, others)
        if champion is not None:
            if model.rollout.strategy not in ("blue_green", "all_at_once"):
                for one in (record, *others):
                    self._need_accepted(model, one, champion)
            self._need_watched(registry, model)
        holder = f"airflow:{where['dag_id']}:{where['dag_run_id']}"
        try:
            rollout = self._open(registry, model, record, champion, holder, story, others)
        except RefusedError as error:
            if error.code == "WT_POLICY" and self.deferrable:
                named = [str(one.version) for one in (record, *others)]
                self.await_policy(context, model.name, named, end=end, method_name="execute_complete", **waited)
            lacking = f" (missing: {'; '.join(error.missing)})" if error.missing else ""
            raise AirflowFailException(
                f"the rollout of version {record.version} was refused: {error}{lacking}"
            ) from error
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
        claim = make_claim(model, record, champion, rollout, story=story, beside=others)
        self.note_version(model.name, str(record.version))
        self.log.info(
            "Releasing version %s of %s %s",
            record.version,
            model.name,
            (
                f"against champion {champion.version}" + "".join(f", beside version {one.version}" for one in others)
                if champion
                else "as its first"
            ),
        )
        return claim

    def _named(self, registry: Any, model: Any, record: Any) -> list[str]:
        """Versions of the further candidates: those that were asked for, else those of the rollout that is open."""
        asked = further(self.beside)
        if asked:
            return asked
        newest = registry.rollouts(model.name, limit=1)
        mine = newest and not newest[0].ended and str(newest[0].version) == str(record.version)
        return [str(version) for version in newest[0].beside] if mine else []

    def _need_able(self, model: Any, record: Any, champion: Any, others: Sequence[Any]) -> None:
        """What this connection's API or settings cannot do is refused here, before anything is written (ROL-14); so is
        a model whose name an object of somebody else has in the cluster."""
        if self.served_at != "kubernetes":
            return
        from windtunnel.errors import ServingError
        from windtunnel.serving.seldon.limits import refusals

        hook = self.hook
        asked = {"version": record.version, "beside": [{"version": one.version} for one in others]}
        asked["champion"] = {"version": champion.version} if champion is not None else None
        settings = settings_for(hook.home, model, asked, store=hook.object_store)
        kept = {version: found["serving"] for version, found in settings.items()}
        backend = hook.backend()
        cannot = refusals(model, backend.seldon, kept, first=champion is None)
        try:
            backend.observe(model.name)
        except ServingError as error:
            cannot.append(error.message)
        if cannot:
            raise AirflowFailException(
                f"version {record.version} of {model.name} cannot be released by connection {hook.seldon_conn_id!r}; "
                f"nothing was changed: {'; '.join(cannot)}"
            )
        if unasked := [version for version, found in settings.items() if not found.get("warmup")]:
            self.log.warning(
                "No warm-up rows of version %s of %s are known here: it is not asked for an inference before users meet"
                " it, and who answers behind the gateway is not counted. Workers that share no disk find rows in the"
                " connection's store",
                ", ".join(unasked),
                model.name,
            )

    def _need_several(self, model: Any, record: Any, champion: Any, others: Sequence[Any]) -> None:
        """Everything that a release of several candidates needs, before anything moves (ROL-14)."""
        from windtunnel.errors import DescriptionError
        from windtunnel.rollout import Plan
        from windtunnel.rollout.several import share

        named = [str(one.version) for one in (record, *others)]
        words = f"releasing versions {', '.join(named)} of {model.name} together"
        if champion is None:
            raise AirflowFailException(f"{words} needs a champion to compare them with: release one of them first")
        if len(set(named)) != len(named):
            raise AirflowFailException(f"{words}: one is named twice; name each once")
        if str(champion.version) in named:
            raise AirflowFailException(f"{words}: version {champion.version} is the champion; leave it out")
        for one in others:
            if not one.ready:
                raise AirflowFailException(f"{words}: version {one.version} is {one.status}, not READY; seal it first")
        if model.rollout.audience is not None:
            raise AirflowFailException(
                f"{words}: rollout.audience sends its requests to one candidate, and which of several is not said; take"
                " it out, or release one at a time"
            )
        if "several" not in self.hook.backend().capabilities:
            raise AirflowFailException(f"{words}: the place where it is served divides requests between two versions")
        try:
            share(Plan.of(model, False), len(named))
        except DescriptionError as error:
            raise AirflowFailException(f"{words}: {error}") from error

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

    def _open(
        self, registry: Any, model: Any, record: Any, champion: Any, holder: str, story: Story, others: Sequence[Any]
    ) -> Any:
        from windtunnel.rollout import Plan

        plan = Plan.of(model, champion is None).to_dict()
        # What the registry must know of the description: whose freeze holds, how long the way back is kept.
        plan |= {"owner": model.owner, "keep_warm_s": model.rollout.keep_warm.total_seconds()}
        if others:
            plan["beside"] = [str(one.version) for one in others]
        return registry.open_rollout(
            model.name, str(record.version), plan=plan, holder=holder, correlation_id=story.correlation_id
        )


def champion_of(registry: Any, rollout: Any) -> Any:
    """The champion a rollout was opened against; None for a first release."""
    return None if rollout.champion is None else registry.version(rollout.model, rollout.champion)


def further(given: Sequence[Any] | str | None) -> list[str]:
    """Version numbers from what a DAG run was given: a list, its JSON text, or numbers with commas between them.

    Raises:
        AirflowFailException: it is none of these.
    """
    import json

    if isinstance(given, str):
        text = given.strip()
        try:
            given = json.loads(text or "[]") if text[:1] in ("", "[") else text.split(",")
        except ValueError as error:
            raise AirflowFailException(f"beside is no list of version numbers: {text!r} ({error})") from None
    found = [str(one).strip() for one in given or ()]
    bad = [one for one in found if not one.isdecimal()]
    if bad:
        raise AirflowFailException(f"beside: expected version numbers such as [4, 5], found {bad[0]!r}")
    return found
