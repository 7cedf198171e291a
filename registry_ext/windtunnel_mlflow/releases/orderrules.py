"""Which order of whom is taken on which rollout. Pure: a rollout as it stands and a wish in, a refusal or None out.

The order of the checks is the order in which a reader would ask: is it said well, may this user, is the rollout there
to be ordered, does it make sense now.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from windtunnel.registry.orders import BOLD, KINDS, SCOPES, Standing
from windtunnel_mlflow.refusal import Refusal

#: States in which a rollout takes no order any more; a told abort is still kept for those it fits.
ENDED = ("promoted", "rolled_back", "withdrawn")
_UNDONE = ("rolled_back", "withdrawn")
#: A reason is a sentence, not a document.
LONGEST_REASON = 2000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as it is known.

    Attributes:
        name: the user behind the credential.
        service: the stack's own user, which any worker holds.
        may_edit: MLflow's right to change the model, or administrator.
        admin: administrator.
        answered: the person whose answer to Airflow's human-in-the-loop task the registry itself has read.
        on_behalf_of: the person the service says it speaks for.
    """

    name: str
    service: bool
    may_edit: bool
    admin: bool = False
    answered: str | None = None
    on_behalf_of: str | None = None

    @property
    def by(self) -> str:
        """Whose order it is."""
        return self.answered or (self.on_behalf_of if self.service and self.on_behalf_of else self.name)

    @property
    def via(self) -> str:
        """How we know: ``airflow``, ``service`` (only said) or ``credential``."""
        return "airflow" if self.answered else "service" if self.service else "credential"

    @property
    def claimed(self) -> bool:
        return self.service and self.answered is None


@dataclass(frozen=True, slots=True)
class Wish:
    """An order before it is taken."""

    kind: str
    reason: str
    step: int | None = None
    done_at: float | None = None


def check_reason(reason: Any) -> str:
    """The reason without its surrounding space.

    Raises:
        Refusal: there is none.
    """
    if not isinstance(reason, str) or not reason.strip() or len(reason) > LONGEST_REASON:
        raise Refusal(
            "WT_REQUEST",
            f"expected a reason, a sentence of at most {LONGEST_REASON} characters",
            hint="say why; it is kept with the release for ever",
            status=400,
        )
    return reason.strip()


def check_order(wish: Wish, caller: Caller, rollout: Mapping[str, Any], holds: Standing, now: float) -> Refusal | None:
    """Why ``wish`` is not taken.

    Args:
        rollout: the record, with ``state``, ``step``, ``plan``, ``opened_at``, ``model`` and ``version``.
        holds: what stands of earlier orders, and the freezes over this model.
        now: seconds since the epoch.
    """
    return (
        _form(wish, rollout, now)
        or _role(wish, caller, rollout)
        or _state(wish, rollout)
        or _sense(wish, rollout, holds)
    )


def _form(wish: Wish, rollout: Mapping[str, Any], now: float) -> Refusal | None:
    if wish.kind not in KINDS:
        return Refusal("WT_REQUEST", f"the order is {wish.kind!r}; expected one of {', '.join(KINDS)}", status=400)
    if wish.step is not None and wish.kind != "skip":
        return Refusal("WT_REQUEST", f"only skip names a step, this is {wish.kind}", status=400)
    if wish.done_at is None:
        return None
    if wish.kind != "abort":
        return Refusal("WT_REQUEST", f"only an abort is told after it was done, this is {wish.kind}", status=400)
    # Another machine's clock may be a little ahead.
    if not math.isfinite(wish.done_at) or not rollout["opened_at"] - 60 <= wish.done_at <= now + 60:
        return Refusal("WT_REQUEST", "done_at lies before the rollout began, or in the future", status=400)
    return None


def _role(wish: Wish, caller: Caller, rollout: Mapping[str, Any]) -> Refusal | None:
    if caller.service:
        if wish.kind in BOLD and caller.answered is None:
            return Refusal(
                "WT_ROLE",
                f"the stack's own user may not order {wish.kind}: that takes a person",
                hint="use your own credential, or answer the task of the DAG windtunnel.control in Airflow",
            )
        if caller.answered is None and not caller.on_behalf_of:
            return Refusal("WT_ROLE", "the stack's own user orders nothing by itself", hint="say on_behalf_of whom")
        return None
    if not caller.may_edit:
        return Refusal(
            "WT_ROLE",
            f"user {caller.name!r} may not order {wish.kind} on a rollout of model {rollout['model']!r}",
            hint="it takes MLflow's right to edit the model",
        )
    return None


def _state(wish: Wish, rollout: Mapping[str, Any]) -> Refusal | None:
    state = rollout["state"]
    if rollout.get("watching"):
        return None  # a first release is champion already while it is watched
    if state not in ENDED or (wish.done_at is not None and state in _UNDONE):
        return None
    hint = "a champion is taken back by withdraw, or by releasing the former version" if state == "promoted" else None
    return Refusal(
        "WT_ENDED",
        f"the rollout of version {rollout['version']} of {rollout['model']!r} has ended ({state})",
        hint=hint,
        status=409,
    )


def _sense(wish: Wish, rollout: Mapping[str, Any], holds: Standing) -> Refusal | None:
    def senseless(why: str, hint: str | None = None, code: str = "WT_ORDER") -> Refusal:
        return Refusal(code, f"{wish.kind} makes no sense: {why}", hint=hint, status=409)

    if wish.kind == "abort":
        # Told after it was done, it is a fact, whatever was ordered before.
        return senseless(f"aborted already by {holds.abort.sentence}") if holds.abort and wish.done_at is None else None
    if holds.abort:
        return senseless(f"the rollout is being aborted by {holds.abort.sentence}")
    if rollout.get("watching") and wish.kind in BOLD:
        return senseless(
            f"version {rollout['version']} is a first release: it has all requests already, and is only watched",
            "let its watch end; pause holds it at its watch, abort takes the version back",
        )
    match wish.kind:
        case "pause" if holds.paused:
            return senseless(f"the rollout is paused already by {holds.paused.sentence}")
        case "resume" if not holds.paused:
            return senseless("the rollout is not paused")
        case "skip" | "promote":
            if rollout["state"] == "promoting":
                return senseless("the rollout is being promoted already")
            if holds.promote:
                return senseless(f"its promotion was ordered already by {holds.promote.sentence}")
            if holds.frozen:
                return senseless(holds.frozen[0], "lift the freeze first", "WT_FROZEN")
            if holds.paused:
                return senseless(f"the rollout is paused by {holds.paused.sentence}", "resume it first")
    if wish.kind == "skip":
        present, wanted = present_step(rollout), wish.step
        steps = len(rollout["plan"].get("steps") or ())
        if wanted is None:
            wanted = present
        if wanted < present:
            return senseless(f"step {wanted + 1} is past, the rollout is at step {present + 1}")
        if steps and wanted >= steps:
            return senseless(f"the plan has {steps} steps, there is no step {wanted + 1}")
        if wanted in holds.skips:
            return senseless(f"skipping step {wanted + 1} was ordered already by {holds.skips[wanted].sentence}")
    return None


def present_step(rollout: Mapping[str, Any]) -> int:
    """Index of the step a rollout stands at; before the first weight it is the first step."""
    return int(rollout["step"] or 0)


def check_freeze(scope: str, target: str, caller: Caller, standing: Sequence[str], *, lift: bool) -> Refusal | None:
    """Why a freeze is not set, or not lifted.

    Args:
        standing: sentences of the freezes of this very scope and target.
        lift: lift it.
    """
    if scope not in SCOPES:
        return Refusal("WT_REQUEST", f"scope is {scope!r}; expected one of {', '.join(SCOPES)}", status=400)
    if bool(target) == (scope == "all"):
        want = "no target" if scope == "all" else f"the {scope} as target"
        return Refusal("WT_REQUEST", f"a freeze of scope {scope!r} needs {want}", status=400)
    what = "lift a freeze" if lift else "freeze rollouts"
    if caller.service:
        if lift and caller.answered is None:
            return Refusal(
                "WT_ROLE",
                "the stack's own user may not lift a freeze: that takes a person",
                hint="use your own credential, or answer the task of the DAG windtunnel.control in Airflow",
            )
        if not lift and not caller.on_behalf_of:
            return Refusal(
                "WT_ROLE",
                "the stack's own user freezes nothing by itself",
                hint="say on_behalf_of whom",
            )
    elif scope == "model" and not caller.may_edit:
        return Refusal(
            "WT_ROLE",
            f"user {caller.name!r} may not {what} of model {target!r}",
            hint="it takes MLflow's right to edit the model",
        )
    elif scope != "model" and not caller.admin:
        return Refusal(
            "WT_ROLE",
            f"user {caller.name!r} may not {what} of {'every model' if scope == 'all' else f'owner {target!r}'}",
            hint="it takes an administrator; freeze the models you may edit one by one",
        )
    if not lift and standing:
        return Refusal("WT_FROZEN", f"frozen already: {standing[0]}", hint="lift that freeze first", status=409)
    if lift and not standing:
        return Refusal("WT_FROZEN", "no such freeze stands", hint="GET /freezes shows those that do", status=409)
    return None
