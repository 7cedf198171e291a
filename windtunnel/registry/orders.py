"""What people order of a rollout, and freezes: the registry's answers as frozen values, and what stands of them. Pure.

An order is written once and never changed; what holds now is read from all of them in their order (``standing``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from windtunnel.registry.plain import Plain

OrderKind = Literal["pause", "resume", "skip", "promote", "abort"]
KINDS: tuple[OrderKind, ...] = ("pause", "resume", "skip", "promote", "abort")
#: Orders that grow exposure without evidence: only a person gives them.
BOLD: frozenset[str] = frozenset({"skip", "promote"})

Scope = Literal["all", "owner", "model"]
SCOPES: tuple[Scope, ...] = ("all", "owner", "model")

#: The DAG in which people approve bold orders in Airflow, and the answer that is a yes there.
CONTROL_DAG = "windtunnel.control"
APPROVE = "Approve"
#: A headline is one line: a long reason is cut.
LONGEST_QUESTION = 300


def question(kind: str, model: str, version: str, rollout_id: str, step: int | None = None) -> str:
    """The headline a person says yes to in Airflow. Asker and registry must use the very same words.

    Args:
        step: index of the step that ``skip`` leaves.
    """
    at = f" step {step + 1}" if step is not None else ""
    return f"{kind}{at}: {model} version {version}, rollout {rollout_id}"


def thaw_question(freeze: FreezeRecord) -> str:
    """The headline a person says yes to before a freeze is lifted through Airflow; it names the freeze."""
    what = freeze.scope if freeze.scope == "all" else f"{freeze.scope} {freeze.target}"
    return f"thaw {what}: freeze {freeze.id} by {freeze.by}: {freeze.reason}"[:LONGEST_QUESTION]


@dataclass(frozen=True, slots=True)
class OrderRecord(Plain):
    """One order.

    Attributes:
        seq: grows with every order of the registry.
        step: index of the step that ``skip`` leaves; None for the others.
        by: who wants it. Proven by the person's own credential (``via`` ``credential``), by the answer to a
            human-in-the-loop task that the registry itself read from Airflow (``airflow``), or only said by the
            stack's own user (``service``); then ``claimed`` is True.
        actor: the user behind the credential the registry saw.
        at: when the registry took it (seconds since the epoch).
        done_at: an abort that was carried out before the registry could be told: when.
    """

    seq: int
    rollout_id: str
    model: str
    version: str
    kind: OrderKind
    reason: str
    by: str
    at: float
    actor: str = ""
    via: str = "credential"
    claimed: bool = False
    step: int | None = None
    key: str = ""
    done_at: float | None = None

    @property
    def sentence(self) -> str:
        """Who and why, as it is shown beside numbers."""
        return f"{self.by}{' (claimed)' if self.claimed else ''}: {self.reason}"


@dataclass(frozen=True, slots=True)
class FreezeRecord(Plain):
    """A switch that lets no step begin; rollbacks go on.

    Attributes:
        scope: ``all`` rollouts, those of one ``owner``, or of one ``model``; ``target`` names it.
        models: models with an open rollout that it holds, as the registry sees them now.
        lifted_at, lifted_by, lifted_reason: None while it stands.
    """

    id: str
    scope: Scope
    target: str
    reason: str
    by: str
    at: float
    actor: str = ""
    claimed: bool = False
    models: tuple[str, ...] = ()
    lifted_at: float | None = None
    lifted_by: str | None = None
    lifted_reason: str | None = None

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """From the server's JSON."""
        known = {f.name for f in fields(cls)}
        kept = {key: value for key, value in plain.items() if key in known}
        return cls(**{**kept, "models": tuple(plain.get("models") or ())})

    def holds(self, model: str, owner: str | None = None) -> bool:
        """Whether it stands over rollouts of ``model``."""
        if self.lifted_at is not None:
            return False
        if self.scope == "owner":
            return model in self.models or (owner is not None and owner == self.target)
        return self.scope == "all" or self.target == model

    @property
    def sentence(self) -> str:
        """What is frozen, by whom and why."""
        what = {"all": "every rollout", "owner": f"rollouts of owner {self.target}", "model": self.target}[self.scope]
        return f"{what} frozen by {self.by}{' (claimed)' if self.claimed else ''}: {self.reason}"


@dataclass(frozen=True, slots=True)
class OrdersPage:
    """Orders of open rollouts after a sequence number, oldest first, and every freeze that stands.

    Attributes:
        seq: newest order of the registry; ask for what comes ``since`` then.
    """

    seq: int
    orders: tuple[OrderRecord, ...]
    freezes: tuple[FreezeRecord, ...]

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> OrdersPage:
        """From the server's JSON."""
        return cls(
            int(plain["seq"]),
            tuple(OrderRecord.from_dict(row) for row in plain["orders"]),
            tuple(FreezeRecord.from_dict(row) for row in plain["freezes"]),
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds for one rollout now; None is nothing.

    Attributes:
        paused: the pause that was not resumed.
        skips: by step, the order to leave it.
        promote, abort: the first such order.
        frozen: sentences of the freezes that hold it.
    """

    paused: OrderRecord | None = None
    skips: Mapping[int, OrderRecord] = field(default_factory=dict)
    promote: OrderRecord | None = None
    abort: OrderRecord | None = None
    frozen: tuple[str, ...] = ()


def standing(orders: Iterable[OrderRecord], frozen: Sequence[str] = ()) -> Standing:
    """What holds of all orders of one rollout."""
    paused: OrderRecord | None = None
    promote: OrderRecord | None = None
    abort: OrderRecord | None = None
    skips: dict[int, OrderRecord] = {}
    for order in sorted(orders, key=lambda one: one.seq):
        match order.kind:
            case "pause":
                paused = order
            case "resume":
                paused = None
            case "skip":
                skips.setdefault(order.step or 0, order)
            case "promote":
                promote = promote or order
            case "abort":
                abort = abort or order
    return Standing(paused, skips, promote, abort, tuple(frozen))
