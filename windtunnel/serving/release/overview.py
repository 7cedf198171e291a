"""A release at a glance, for people: from the registry when it answers, from what lies beside the traffic when not."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from windtunnel.errors import NotFoundError, WindtunnelError
from windtunnel.home import Home
from windtunnel.registry.orders import OrderRecord, standing
from windtunnel.serving.place import Place, at_home
from windtunnel.serving.release import knownorders, outbox
from windtunnel.serving.release.looklog import LookLog

if TYPE_CHECKING:
    from windtunnel.registry.client import RegistryClient
    from windtunnel.registry.records import RolloutRecord
    from windtunnel.rollout import Plan


def show(
    home: Home,
    model: str,
    registry: RegistryClient | None,
    why_not: str | None = None,
    *,
    place: Place | None = None,
) -> dict[str, Any] | None:
    """How the model's newest release stands, as plain JSON values; None when there never was one.

    Args:
        registry: None when there is none to ask; ``why_not`` says why.
        place: where it is served; ``home`` unless told.

    Returns:
        ``model``, ``registry`` (``answers``, or why not), ``rollout``, ``waits`` (what it waits for before it gets any
        traffic), ``step``, ``gates``, ``arms`` (of several
        candidates each one's ``version``, ``decision`` and ``gates``; empty for one), ``decision`` (of the last
        look), ``orders``, ``paused``, ``frozen``, ``no_way_back`` (why the champion could not take
        over at the last look), ``overruled`` (who else had written to the object that is the traffic), ``traffic``
        and ``untold`` (aborts the registry does not know yet).
    """
    record, problem = _newest(registry, model, why_not)
    place = place or at_home(home)
    try:
        looks = place.looks(model).all()
    except WindtunnelError:  # a cluster that does not answer: below it is said of its traffic
        looks = []
    identifier = record.id if record else (looks[-1]["rollout_id"] if looks else None)
    if identifier is None:
        return None
    mine = [look for look in looks if look["rollout_id"] == identifier]
    last = mine[-1] if mine else None
    orders, frozen = _orders(home, model, identifier, record)
    holds = standing(orders, frozen)
    return {
        "model": model,
        "registry": problem or "answers",
        "rollout": _rollout(identifier, record, last),
        "waits": waits(registry, record) if registry is not None and record is not None and last is None else [],
        "step": _step(last, record, plan_of(mine, record)),
        "gates": _gates(last),
        "arms": _arms(last),
        "decision": None if last is None else _decision(last),
        "orders": [asdict(order) for order in orders],
        "paused": holds.paused.sentence if holds.paused else None,
        "frozen": list(frozen),
        "no_way_back": ((last or {}).get("evidence") or {}).get("no_way_back"),
        "overruled": list((last or {}).get("overruled") or ()),
        "traffic": _traffic(place, model),
        "untold": [asdict(note) for note in outbox.pending(home) if note.model == model],
    }


def history(home: Home, model: str, registry: RegistryClient | None, why_not: str | None = None) -> dict[str, Any]:
    """The model's releases, newest first, as plain JSON values: ``model``, ``registry`` and ``rollouts``."""
    problem, records = why_not, []
    if registry is not None:
        try:
            records = registry.rollouts(model)
        except NotFoundError:
            pass
        except WindtunnelError as error:
            problem = error.message
    last: dict[str, dict[str, Any]] = {}
    count: dict[str, int] = {}
    for look in LookLog(home, model).all():
        last[look["rollout_id"]] = look
        count[look["rollout_id"]] = count.get(look["rollout_id"], 0) + 1
    known = {record.id: record for record in records}
    missing = [identifier for identifier in reversed(last) if identifier not in known]
    found = [*known, *(missing if problem else [])]
    rows = [
        {
            **_rollout(identifier, known.get(identifier), last.get(identifier)),
            "looks": count.get(identifier, 0),
            "decision": _decision(last[identifier]) if identifier in last else None,
        }
        for identifier in found
    ]
    return {"model": model, "registry": problem or "answers", "rollouts": rows}


def plan_of(looks: list[dict[str, Any]], record: RolloutRecord | None) -> Plan | None:
    """The plan a rollout was judged by: as its first look kept it, else as the registry has it."""
    from windtunnel.rollout import Plan

    kept = next((look["plan"] for look in looks if look.get("plan")), None)
    for plain in (kept, record.plan if record else None):
        try:
            if plain:
                return Plan.from_dict(plain)
        except (KeyError, TypeError, ValueError):
            continue
    return None


def waits(registry: RegistryClient, record: RolloutRecord) -> list[str]:
    """What policy still misses of a rollout that has not begun; empty for one that has, or when nobody can say."""
    from windtunnel.registry.waiting import decide

    if not record.live or record.watching or record.step is not None or record.weight:
        return []
    try:
        found = [(one, registry.explain(record.model, one)) for one in (record.version, *record.beside)]
    except WindtunnelError:
        return []
    return list(decide(record.model, found).missing)


def _newest(
    registry: RegistryClient | None, model: str, why_not: str | None
) -> tuple[RolloutRecord | None, str | None]:
    if registry is None:
        return None, why_not or "not asked"
    try:
        found = registry.rollouts(model, limit=1)
        return (registry.rollout(found[0].id) if found else None), None
    except NotFoundError:
        return None, None
    except WindtunnelError as error:
        return None, error.message


def _orders(
    home: Home, model: str, identifier: str, record: RolloutRecord | None
) -> tuple[list[OrderRecord], list[str]]:
    """As the registry says, else as it was known last."""
    if record is not None:
        return list(record.orders), list(record.frozen)
    page = knownorders.read(knownorders.path(home))
    if page is None:
        return [], []
    orders = [order for order in page.orders if order.rollout_id == identifier]
    return orders, [freeze.sentence for freeze in page.freezes if freeze.holds(model)]


def _rollout(identifier: str, record: RolloutRecord | None, last: dict[str, Any] | None) -> dict[str, Any]:
    state = (last or {}).get("decision", {}).get("state", {})
    if record is None:
        return {
            "id": identifier,
            "version": state.get("candidate"),
            "champion": state.get("champion"),
            "state": state.get("ended") or "running",
            "weight": None,
            "opened_at": state.get("started_at"),
            "ended_at": last["at"] if last and state.get("ended") else None,
            "holder": None,
            "owner": None,
            "reason": state.get("ended_reason"),
        }
    names = ("id", "version", "champion", "state", "weight", "opened_at", "ended_at", "holder", "reason")
    found = {**{name: getattr(record, name) for name in names}, "owner": record.plan.get("owner")}
    return {**found, "state": "watched"} if record.watching else found


def _step(last: dict[str, Any] | None, record: RolloutRecord | None, plan: Plan | None) -> dict[str, Any] | None:
    """The step the last look was in; before the first look, as the registry has it."""
    numbers = ((last or {}).get("decision", {}).get("numbers") or {}).get("step") or {}
    state = (last or {}).get("decision", {}).get("state", {})
    index = numbers.get("index", state.get("step", record.step if record else None))
    if index is None:
        return None
    planned = plan.steps[index] if plan and index < len(plan.steps) else None
    return {
        **numbers,
        "index": index,
        "of": len(plan.steps) if plan else None,
        "name": planned.name if planned else None,
        "weight": numbers.get("weight", planned.weight if planned else record.weight if record else None),
        # After a step has passed the state is the next one's.
        "since": state.get("entered_at") if state.get("step") == index else None,
    }


def _gates(last: dict[str, Any] | None) -> list[dict[str, Any]]:
    numbers = (last or {}).get("decision", {}).get("numbers") or {}
    kinds = (("gate", numbers.get("gates") or {}), ("limit", numbers.get("limits") or {}))
    return [{"name": name, "kind": kind, **found} for kind, all_of in kinds for name, found in all_of.items()]


def _arms(last: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Of several candidates each one's part of the last look."""
    arms = (last or {}).get("arms") or {}
    return [
        {
            "version": version,
            "decision": {name: arm["decision"][name] for name in ("action", "outcome", "row", "reason")},
            "gates": _gates(arm),
        }
        for version, arm in arms.items()
    ]


def _decision(look: dict[str, Any]) -> dict[str, Any]:
    decision = look["decision"]
    return {"at": look["at"], **{name: decision[name] for name in ("action", "outcome", "row", "reason")}}


def _traffic(place: Place, model: str) -> dict[str, Any]:
    """What the router does now, whoever says what it should."""
    try:
        observed = place.backend.observe(model)
    except WindtunnelError as error:
        return {"error": error.message}
    return {
        "weights": {version: arm.weight for version, arm in observed.arms.items()},
        "mirror": observed.mirror,
        "aborted": observed.aborted,
        "lease_until": observed.lease_until,
        "rollout_id": observed.rollout_id,
    }
