"""One look at several candidates of one release (A/B/n): as ``gatekeeping.look``, for each of them and all together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from windtunnel.serving.release.lookout import Watch
from windtunnel_airflow.gatekeeping import Answer, Looks, answer_of, gather_here, obeyed, renew, settled, who

if TYPE_CHECKING:
    from windtunnel.registry.orders import Standing
    from windtunnel.rollout import Evidence, RolloutState, Several
    from windtunnel.serving.backend import ServingBackend


def look(
    watch: Watch,
    backend: ServingBackend,
    log: Looks,
    now: float,
    *,
    gather: Callable[[Watch, ServingBackend, RolloutState], Evidence] | None = None,
    orders: Standing | None = None,
) -> Answer:
    """Evidence on each candidate that still flies, one decision on all of them, written down; who is out goes to 0.

    A candidate that goes to 0 is written down first: whoever goes on after a death finds it in the log, and takes it to
    0 if that was not done. Arguments and errors as of ``gatekeeping.look``.
    """
    from windtunnel.rollout import Plan, decide_several, entered, several

    looks = log.tail(watch.rollout_id)
    if (before := settled(watch, looks)) is not None:
        return before
    if orders is not None and orders.abort is not None:
        backend.abort(watch.model, orders.abort.reason, who(orders.abort), token=watch.token)
    if watch.champion is None:
        raise ValueError("several candidates need a champion to be compared with")
    begun = several.resumed(looks[-1]) if looks else several.begin(watch.champion, watch.candidates, now)
    states = {v: state if state.ended else entered(state, watch.step) for v, state in begun.items()}
    evidence = {
        version: obeyed((gather or gather_here)(watch.of(version), backend, state), orders, state.step)
        for version, state in states.items()
        if not state.ended
    }
    found = decide_several(Plan.from_dict(watch.plan), states, evidence, now)
    record = several.several_record(watch.rollout_id, now, evidence, found)
    extra = {"plan": watch.plan} if not looks else {}
    extra |= {"entered": watch.step} if states != begun else {}
    whole = {**record, **extra, "token": watch.token, "correlation_id": watch.correlation_id}
    if not log.append(whole, after=looks[-1] if looks else None):
        return look(watch, backend, log, now, gather=gather, orders=orders)
    answer = answer_of(record)
    if not answer.retreat:
        _drop(watch, backend, found)
        if watch.lease_s > 0:
            renew(backend, watch, now)
    return answer


def _drop(watch: Watch, backend: ServingBackend, found: Several) -> None:
    """Who is out goes to 0 now. When the release is over with this look, its last tasks do the rest."""
    if found.decision.ends or not found.out:
        return
    reasons = "; ".join(f"version {version}: {found.arms[version].reason}" for version in found.out)
    backend.drop(watch.model, found.out, reasons, token=watch.token)
