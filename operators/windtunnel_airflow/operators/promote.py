"""The way forward: a candidate becomes champion, in traffic and registry together."""

from __future__ import annotations

from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from windtunnel.errors import FencedError, RefusedError
from windtunnel_airflow.asking import fail
from windtunnel_airflow.operators.announcing import announce, champion_among, champion_event, is_champion
from windtunnel_airflow.operators.traffic import TrafficOperator
from windtunnel_airflow.operators.unchosen import record_out
from windtunnel_airflow.rollouts import claim_story, desired, led_by, stage_of, versions_of


class PromoteOperator(TrafficOperator):
    """Traffic and registry together, or neither (ROL-7).

    The intent is written first, on the disk beside the traffic and in the registry; then traffic goes to 100 %, then
    the registry commits, then the intent is cleared. Killed anywhere, the next try finds the intent and finishes; if
    policy refuses, traffic goes back and the intent is cleared; if nobody comes, the guard finishes or undoes it.
    """

    def execute(self, context: Any) -> dict[str, Any]:
        claim = self._won(self.start(context))
        before = (claim["champion"] or {}).get("version")
        settings = self.settings(claim)
        if not is_champion(self.hook.registry, claim):
            self._commit(claim, context, before, settings)
        self.apply(desired(claim, 100, settings, now=None, stage=stage_of(claim, "promoted"), promoted=True))
        self.hook.intents().clear(claim["model"], int(claim["token"]))
        announce(self, context, "champion", champion_event(claim))
        name, version = claim["model"], str(claim["version"])
        self.note_lineage([(f"{name}/version", version)], [(f"{name}/champion", version)])
        self.log.info("Version %s of %s is champion", claim["version"], claim["model"])
        return {"champion": claim["version"], "former": before}

    def _won(self, claim: Any) -> Any:
        """The claim with the winner of several candidates in the first place: the registry's champion if it has
        committed, else the one that the look log names."""
        if not claim.get("beside"):
            return claim
        from windtunnel.serving.release.ending import ended_look

        known = champion_among(self.hook.registry, claim)
        if known is not None:
            return known
        ended = ended_look(self.hook.looks(claim["model"]).read(claim["rollout_id"]))
        if ended is None or not ended.get("winner"):
            raise AirflowFailException(f"nobody of versions {', '.join(versions_of(claim))} has won: none is promoted")
        return led_by(claim, str(ended["winner"]))

    def _still_wanted(self, context: Any, claim: Any) -> None:
        """What may have changed since policy let it fly: an approval ran out or was withdrawn, somebody rejected it.
        The registry would refuse it at the commit, but users would have been moved by then. Where an earlier try has
        begun to move them, that is what decides.

        Raises:
            AirflowFailException: something is missing; nothing was moved.
        """
        from windtunnel.registry.waiting import rejections, still_missing

        model, version = claim["model"], claim["version"]
        intent = self.hook.intents().read(model)
        if intent is not None and intent.rollout_id == claim["rollout_id"]:
            return
        found = self.hook.registry.explain(model, version)
        said = rejections(model, version, found)
        if said:
            fail(context, "; ".join(said))
        if missing := still_missing(found):
            fail(context, f"version {version} of {model} may not become champion any more: {'; '.join(missing)}")

    def _commit(self, claim: Any, context: Any, before: str | None, settings: Any) -> None:
        """Intent, traffic, registry.

        Raises:
            AirflowFailException: somebody refuses; the candidate has no traffic then.
        """
        registry, intents, model, token = self.hook.registry, self.hook.intents(), claim["model"], int(claim["token"])
        self._still_wanted(context, claim)
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
        out = versions_of(claim)[1:]
        self.apply(desired(claim, 100, settings, now=self.hook.now(), stage=stage_of(claim, "promote"), out=out))
        if evidence is not None:
            registry.post_verdict(evidence)
        if out:
            # Before the commit: after it no other try would come here.
            record_out(self, claim, context, out)
        won = {"version": claim["version"]} if out else {}
        try:
            registry.promote(claim["rollout_id"], token, before, **won)
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
        from windtunnel.serving.release.ending import ended_look

        looks = self.hook.looks(claim["model"]).read(claim["rollout_id"])
        if not looks:
            raise AirflowFailException("no gate looked at this rollout: nothing shows that it may be promoted")
        last = ended_look(looks) or looks[-1]
        if last["decision"]["action"] in ("roll_back", "withdraw", "hold"):
            raise AirflowFailException(f"the last look says {last['decision']['action']}: {last['decision']['reason']}")
        numbers = {**(last["decision"].get("numbers") or {}), "looks": int(last.get("number") or looks.index(last) + 1)}
        if last.get("overruled"):  # who else wrote the traffic's object meanwhile (on Seldon)
            numbers["overruled"] = last["overruled"]
        shown = not any(look["decision"]["row"] in ("skipped", "promoted-by-order") for look in looks)
        return numbers, str(last["decision"]["reason"]), float(last["at"]), shown
