"""Pure helpers of a release: from a claim to desired states, stories, watches. Plain values in, plain values out.

A *claim* is what ``ClaimReleaseOperator`` returns and every task of the release is given: which version, against which
champion, by which plan, with which fencing token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from windtunnel.errors import DescriptionError
from windtunnel_airflow.gatekeeping import Watch
from windtunnel_airflow.story import Story

if TYPE_CHECKING:
    from windtunnel.home import Home
    from windtunnel.serving.backend import Arm, Release
    from windtunnel.spec import Model


def read_claim(claim: Mapping[str, Any] | str | None) -> dict[str, Any] | None:
    """A claim from what a template gives: the value itself, or its JSON text; None when there is none.

    Raises:
        DescriptionError: the text is no JSON object.
    """
    if isinstance(claim, str):
        import json

        try:
            claim = json.loads(claim or "null")
        except ValueError as error:
            raise DescriptionError(
                f"the claim is no JSON: {error}", hint="pass what ClaimReleaseOperator returned"
            ) from None
    if claim is None:
        return None
    if not isinstance(claim, Mapping) or "rollout_id" not in claim:
        raise DescriptionError(f"this is no claim: {claim!r:.120}", hint="pass what ClaimReleaseOperator returned")
    return dict(claim)


def need_claim(claim: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """The claim, which must be there.

    Raises:
        DescriptionError: it is not.
    """
    found = read_claim(claim)
    if found is None:
        raise DescriptionError("there is no claim", hint="ClaimReleaseOperator must have succeeded before")
    return found


def claim_story(claim: Mapping[str, Any]) -> Story:
    """The story of a release: its version's."""
    return Story(str(claim["correlation_id"]), str(claim["cause"]))


def make_claim(
    model: Model,
    version: Any,
    champion: Any,
    rollout: Any,
    *,
    story: Story,
    beside: Sequence[Any] = (),
) -> dict[str, Any]:
    """The claim as plain JSON.

    Args:
        version, champion: ``VersionRecord``; champion None for a first release.
        beside: ``VersionRecord`` of each further candidate.
        rollout: ``RolloutRecord``; when it was opened is the claim's time, also in a second try.
    """
    from windtunnel.rollout import Plan
    from windtunnel.serving.release.values import values_of

    first = champion is None
    plan = Plan.of(model, first)
    quality = [gate.loss for gate in model.rollout.gates if gate.metric == "quality"]
    return {
        "model": model.name,
        "version": str(version.version),
        "semver": version.semver,
        "digest": version.digest,
        "run_id": version.run_id,
        "champion": None if first else {"version": str(champion.version), "digest": champion.digest},
        "first": first,
        "beside": [{"version": str(o.version), "semver": o.semver, "digest": o.digest} for o in beside],
        "rollout_id": rollout.id,
        "token": int(rollout.token),
        "holder": rollout.holder,
        "plan": plan.to_dict(),
        "weights": [step.weight for step in plan.steps],
        "look_every_s": plan.look_every_s,
        "lease_s": model.rollout.lease.total_seconds(),
        "keep_warm_s": model.rollout.keep_warm.total_seconds(),
        "losses": quality[0] if quality and not first else None,
        "predictions": not first and any(gate.metric == "prediction" for gate in model.rollout.gates),
        "values": [value.to_dict() for value in values_of(model.rollout, plan)],
        "audience": [model.rollout.audience.header, model.rollout.audience.value] if model.rollout.audience else None,
        "segment_header": model.rollout.segments.header if model.rollout.segments else None,
        "segments": list(model.rollout.segments.values) if model.rollout.segments else [],
        "claimed_at": float(rollout.opened_at),
        "correlation_id": story.correlation_id,
        "cause": story.cause,
    }


def candidates_of(claim: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All candidates of a claim, the first named first: ``version``, ``semver``, ``digest`` of each."""
    first = {name: claim.get(name) for name in ("version", "semver", "digest")}
    return [first, *(claim.get("beside") or ())]


def versions_of(claim: Mapping[str, Any]) -> list[str]:
    """Their versions."""
    return [str(one["version"]) for one in candidates_of(claim)]


def led_by(claim: Mapping[str, Any], version: str | None) -> dict[str, Any]:
    """The claim with that candidate in the first place; as it is when that version is none of its candidates."""
    found = [one for one in candidates_of(claim) if one["version"] == version]
    if not found or version == claim["version"]:
        return dict(claim)
    return {**claim, **found[0], "beside": [one for one in candidates_of(claim) if one["version"] != version]}


def watch_of(claim: Mapping[str, Any], *, step: int, home: Home, seldon_conn_id: str | None = None) -> Watch:
    """What the gate behind ``step`` watches.

    Args:
        seldon_conn_id: the cluster that serves it; None: it is served in ``home``.
    """
    champion = claim["champion"] or {}
    return Watch(
        home=str(home.root),
        model=claim["model"],
        version=claim["version"],
        champion=champion.get("version"),
        rollout_id=claim["rollout_id"],
        token=claim["token"],
        plan=dict(claim["plan"]),
        step=step,
        # A first release is champion already when it is watched: it holds no lease.
        lease_s=0.0 if claim["first"] else float(claim["lease_s"]),
        losses=claim.get("losses"),
        predictions=bool(claim.get("predictions")),
        values=list(claim.get("values") or ()),
        correlation_id=claim["correlation_id"],
        digest=claim["digest"],
        beside=[{"version": one["version"], "digest": one["digest"]} for one in claim.get("beside") or ()],
        seldon_conn_id=seldon_conn_id,
    )


def arm(model: str, version: str, digest: str, weight: int) -> Arm:
    from windtunnel.serving.backend import Arm

    return Arm(version=version, digest=digest, source=f"models:/{model}/{version}", weight=weight)


def stage_of(
    claim: Mapping[str, Any], what: Literal["deploy", "promote", "promoted", "withdrawn", "gone"] | int
) -> int:
    """How far the rollout is with this write (``Release.stage``): 0 while it is deployed, then step by step (``what``
    is the step's index), then promotion, then its end. A write of an earlier stage comes too late."""
    if isinstance(what, int):
        return 1 + what
    ends = {"deploy": 0, "promote": 1, "promoted": 2, "withdrawn": 3, "gone": 4}
    return ends[what] + (len(claim["weights"]) if what != "deploy" else 0)


def desired(
    claim: Mapping[str, Any],
    weight: int,
    settings: Mapping[str, Any],
    *,
    now: float | None,
    stage: int,
    mirror: int = 0,
    promoted: bool = False,
    out: Sequence[str] = (),
) -> Release:
    """Desired state with the candidate at ``weight`` percent, or several that share it.

    Args:
        settings: per version, see ``LocalBackend``.
        now: the lease runs from here. A candidate that no request can reach needs none, however long it takes to load.
        stage: see ``stage_of``.
        mirror: percent of the champion's requests that are copied to the candidate.
        promoted: the candidate is the champion now; the former one loses its traffic and is kept warm.
        out: candidates that get nothing; their share is the champion's, but for a weight of 100, which one has alone.
    """
    from windtunnel.serving.backend import Release

    model, before = claim["model"], claim["champion"]
    named = candidates_of(claim)[:1] if promoted else candidates_of(claim)
    each = weight if weight == 100 else weight // len(named)
    candidates = tuple(
        arm(model, one["version"], one["digest"], 100 if promoted else 0 if one["version"] in out else each)
        for one in named
    )
    left = 100 - sum(one.weight for one in candidates)
    champion = arm(model, before["version"], before["digest"], left) if before else None
    # Testers come with the first step, and with a champion: without one everybody is sent to the candidate.
    audience = claim.get("audience") if stage > 0 and before and not promoted else None
    exposed = bool(weight or mirror or audience) and not promoted
    return Release(
        model=model,
        champion=candidates[0] if promoted else champion,
        candidates=() if promoted else candidates,
        token=int(claim["token"]),
        rollout_id=claim["rollout_id"],
        lease_until=now + float(claim["lease_s"]) if exposed and now is not None else None,
        lease_s=float(claim["lease_s"]),
        keep_warm_s=float(claim["keep_warm_s"]),
        correlation_id=claim["correlation_id"],
        settings=dict(settings),
        mirror=mirror,
        audience=(str(audience[0]), str(audience[1])) if audience else None,
        segment_header=claim.get("segment_header"),
        segments=tuple(claim.get("segments") or ()),
        stage=stage,
    )


def withdrawn(claim: Mapping[str, Any], *, gone: bool = False) -> Release:
    """Desired state of a first release that is taken back: nothing serves.

    Args:
        gone: the version need not be named any more: the registry knows, or it never served. Until then it is, so
            that the guard finds what is left to do.
    """
    from windtunnel.serving.backend import Release

    candidate = arm(claim["model"], claim["version"], claim["digest"], 0)
    return Release(
        model=claim["model"],
        champion=None if gone else candidate,
        candidates=(),
        token=int(claim["token"]),
        rollout_id=claim["rollout_id"],
        keep_warm_s=0.0,  # nobody goes back to what was withdrawn
        correlation_id=claim["correlation_id"],
        stage=stage_of(claim, "gone" if gone else "withdrawn"),
    )


def sentence(claim: Mapping[str, Any] | None, promoted: Any, undone: Mapping[str, Any] | None) -> tuple[bool, str]:
    """(well ended, one sentence) for the whole release."""
    if claim is None:
        return False, "the release could not claim a version: see the claim task"
    name = f"{claim['model']} {claim['semver'] or claim['version']} (version {claim['version']})"
    if undone:
        return False, f"{name} {undone.get('done', 'was rolled back')}: {undone.get('reason', 'unknown reason')}"
    if promoted:
        return True, f"{name} is champion"
    return False, f"{name} was neither promoted nor rolled back: see the failed tasks; the guard takes it to 0"
