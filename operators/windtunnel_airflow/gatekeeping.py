"""One look at a running release: collect the evidence, let the brain decide, write it down, renew the lease.

Synchronous and free of Airflow: the trigger calls it in a thread, the sensor's own path directly, tests with any
``ServingBackend``. Everything it needs between two looks is in the look log, so it may die at any line (ROL-6).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

from windtunnel.errors import FencedError
from windtunnel.serving.release.lookout import Watch
from windtunnel_airflow.plain import plain

if TYPE_CHECKING:
    from windtunnel.registry.orders import OrderRecord, Standing
    from windtunnel.rollout import Evidence, RolloutState
    from windtunnel.serving.backend import ServingBackend

__all__ = ["Answer", "Looks", "Watch", "look", "obeyed", "renew", "settled"]


class Looks(Protocol):
    """What is needed of ``windtunnel.serving.release.looklog.LookLog``."""

    def append(self, look: dict[str, Any], *, after: Mapping[str, Any] | None) -> bool: ...
    def tail(self, rollout_id: str) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gate says after a look.

    Attributes:
        action: ``hold``, ``advance``, ``promote``, ``roll_back`` or ``withdraw``.
        step: index of the step it judged; ``at``: when.
    """

    action: str
    outcome: str
    reason: str
    numbers: dict[str, Any]
    step: int
    at: float

    @property
    def passed(self) -> bool:
        return self.action in ("advance", "promote")

    @property
    def retreat(self) -> bool:
        """Traffic is to go back."""
        return self.action in ("roll_back", "withdraw")

    @property
    def over(self) -> bool:
        return self.action != "hold"

    def to_dict(self) -> dict[str, Any]:
        return {**plain(asdict(self)), "passed": self.passed}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Answer:
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in plain.items() if key in known})


def settled(watch: Watch, looks: list[dict[str, Any]]) -> Answer | None:
    """The answer of this step's gate, if an earlier look gave it: a gate that died after its last look ends here.

    A rollout that has ended is over for every gate: those of steps that a person's order to promote left out answer at
    once. A step before the present one has passed.
    """
    if not looks:
        return None
    last = answer_of(looks[-1])
    if last.action in ("roll_back", "withdraw", "promote"):
        return last
    for look in reversed(looks):
        answer = answer_of(look)
        if answer.passed and answer.step == watch.step:
            return answer
    return None


def answer_of(look: Mapping[str, Any]) -> Answer:
    """What a look of the look log says."""
    decision = look["decision"]
    after = int(decision["state"]["step"])
    return Answer(
        action=str(decision["action"]),
        outcome=str(decision["outcome"]),
        reason=str(decision["reason"]),
        numbers=dict(decision.get("numbers") or {}),
        # ``advance`` leaves the state at the next step; the look itself judged the one before.
        step=after - 1 if decision["action"] == "advance" else after,
        at=float(look["at"]),
    )


def obeyed(evidence: Evidence, orders: Standing | None, step: int) -> Evidence:
    """``evidence`` with what people ordered: frozen, paused, an order for this step, an abort (ROL-8).

    An order to go on waits while a freeze stands, or a pause that was ordered after it.
    """
    from windtunnel.rollout import Order

    if orders is None:
        return evidence
    order: Order | None = None
    given = orders.promote or orders.skips.get(step)
    later_pause = given is not None and orders.paused is not None and orders.paused.seq > given.seq
    if given is not None and not orders.frozen and not later_pause:
        order = Order("promote" if given.kind == "promote" else "skip", step, who(given), given.reason)
    aborted = evidence.aborted
    if aborted is None and orders.abort is not None:
        aborted = f"aborted by {orders.abort.sentence}"
    return replace(
        evidence,
        aborted=aborted,
        frozen="; ".join(orders.frozen) or None,
        paused=orders.paused.sentence if orders.paused else None,
        order=order,
    )


def who(order: OrderRecord) -> str:
    """Whose order it is; whether that is only claimed."""
    return f"{order.by} (claimed)" if order.claimed else order.by


def look(
    watch: Watch,
    backend: ServingBackend,
    log: Looks,
    now: float,
    *,
    gather: Callable[[Watch, ServingBackend, RolloutState], Evidence] | None = None,
    orders: Standing | None = None,
) -> Answer:
    """One look: evidence in, decision out, written down; the lease is renewed unless traffic is to go back.

    Args:
        now: seconds since the epoch.
        orders: what people ordered of this rollout (``windtunnel_airflow.orderbook``).
        gather: ``windtunnel.serving.release.lookout.gather`` unless told.

    Raises:
        FencedError: another holder has taken over; nothing was written.
    """
    from windtunnel.rollout import Plan, RolloutState, decide, entered, look_record, resume

    if watch.beside:
        from windtunnel_airflow import gatekeepers

        return gatekeepers.look(watch, backend, log, now, gather=gather, orders=orders)
    looks = log.tail(watch.rollout_id)
    if (before := settled(watch, looks)) is not None:
        return before
    if orders is not None and orders.abort is not None:
        # Users first: what the look finds after that is only its evidence.
        backend.abort(watch.model, orders.abort.reason, who(orders.abort), token=watch.token)
    begun = RolloutState.begin(champion=watch.champion, candidate=watch.version, at=now)
    before_look = resume(looks) or begun
    state = entered(before_look, watch.step)
    evidence = obeyed((gather or gather_here)(watch, backend, state), orders, state.step)
    decision = decide(Plan.from_dict(watch.plan), state, evidence, now)
    record = look_record(watch.rollout_id, now, evidence, decision)
    # What a replay needs beyond the looks themselves, each where it becomes true.
    extra = {"plan": watch.plan} if not looks else {}
    extra |= {"entered": state.step} if state is not before_look else {}
    whole = {**record, **extra, "token": watch.token, "correlation_id": watch.correlation_id}
    if not log.append(whole, after=looks[-1] if looks else None):
        # Another gate of this step, thought dead, has looked meanwhile: its look is evidence too.
        return look(watch, backend, log, now, gather=gather, orders=orders)
    answer = answer_of(record)
    if watch.lease_s > 0 and not answer.retreat:
        renew(backend, watch, now)
    return answer


def gather_here(watch: Watch, backend: ServingBackend, state: RolloutState) -> Evidence:
    """``lookout.gather`` in the watch's home."""
    from windtunnel.home import Home
    from windtunnel.serving.release import lookout

    return lookout.gather(Home.find(watch.home), watch, backend, state)


def renew(backend: ServingBackend, watch: Watch, now: float) -> None:
    """Renew the lease. An abort met here is evidence for the next look, another holder ends this one.

    Raises:
        FencedError: another holder has taken over.
    """
    try:
        backend.renew(watch.model, watch.token, now + watch.lease_s)
    except FencedError:
        observed = backend.observe(watch.model)
        if observed.token > watch.token or observed.aborted is None:
            raise
