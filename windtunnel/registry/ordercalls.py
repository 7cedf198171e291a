"""The client's methods for orders and freezes; part of ``RegistryClient``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from windtunnel.registry.orders import FreezeRecord, OrderKind, OrderRecord, OrdersPage, Scope


class OrderCalls(ABC):
    """One method per endpoint."""

    @abstractmethod
    def _call(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """One request; its JSON object."""

    def order(
        self,
        rollout_id: str,
        kind: OrderKind,
        reason: str,
        *,
        step: int | None = None,
        key: str | None = None,
        on_behalf_of: str | None = None,
        done_at: float | None = None,
        answer: Mapping[str, Any] | None = None,
    ) -> OrderRecord:
        """Order something of a running rollout (ROL-8).

        Args:
            kind: pause, resume, skip (leave a step), promote (now) or abort.
            reason: why; must say something.
            step: index of the step to skip; the rollout's present one unless told.
            key: the same key gives the same order, so that it may be sent again.
            on_behalf_of: for the stack's own user: the person it passes the order on for. Kept as claimed.
            done_at: an abort that is told after it was carried out: when (seconds since the epoch).
            answer: for the stack's own user: the human-in-the-loop task (``dag_id``, ``dag_run_id``, ``task_id``,
                ``map_index``) in which a person approved exactly this; the registry asks Airflow itself.

        Raises:
            RefusedError: WT_ROLE, WT_ENDED, WT_FROZEN, WT_ANSWER, or WT_ORDER for one that makes no sense now.
            RegistryError: no reason, or no such kind.
        """
        given = {
            "kind": kind,
            "reason": reason,
            "step": step,
            "key": key,
            "on_behalf_of": on_behalf_of,
            "done_at": done_at,
            "answer": None if answer is None else dict(answer),
        }
        body = {name: value for name, value in given.items() if value is not None}
        return OrderRecord.from_dict(self._call("POST", f"/rollouts/{_q(rollout_id)}/orders", json=body))

    def orders_of(self, rollout_id: str) -> tuple[list[OrderRecord], list[str]]:
        """Every order on one rollout, oldest first, and the sentences of the freezes over it while it is open."""
        found = self._call("GET", f"/rollouts/{_q(rollout_id)}/orders")
        return [OrderRecord.from_dict(row) for row in found["orders"]], list(found["frozen"])

    def orders(self, since: int = 0) -> OrdersPage:
        """Orders of all open rollouts after a sequence number, and every freeze that stands."""
        return OrdersPage.from_dict(self._call("GET", "/orders", params={"since": str(since)}))

    def freezes(self, *, lifted: bool = False) -> list[FreezeRecord]:
        """Freezes that stand, oldest first; with ``lifted`` also former ones, newest first."""
        found = self._call("GET", "/freezes", params={"lifted": str(lifted).lower()})["freezes"]
        return [FreezeRecord.from_dict(row) for row in found]

    def freeze(
        self, reason: str, *, scope: Scope = "all", target: str | None = None, on_behalf_of: str | None = None
    ) -> FreezeRecord:
        """Let no step begin; rollbacks go on.

        Args:
            scope: ``all``, or the ``owner`` or ``model`` that ``target`` names.

        Raises:
            RefusedError: WT_ROLE (all and owner take an administrator), WT_FROZEN where it is frozen already.
            NotFoundError: no such model.
        """
        given = {"scope": scope, "target": target, "reason": reason, "on_behalf_of": on_behalf_of}
        body = {name: value for name, value in given.items() if value is not None}
        return FreezeRecord.from_dict(self._call("POST", "/freezes", json=body))

    def thaw(self, freeze_id: str, reason: str, *, answer: Mapping[str, Any] | None = None) -> FreezeRecord:
        """Lift a freeze.

        Args:
            answer: for the stack's own user: the human-in-the-loop task in which a person approved it, as in ``order``.

        Raises:
            RefusedError: WT_ROLE, WT_ANSWER, WT_FROZEN where it does not stand any more.
            NotFoundError: there never was one of this id.
        """
        body = {"reason": reason} if answer is None else {"reason": reason, "answer": dict(answer)}
        return FreezeRecord.from_dict(self._call("POST", f"/freezes/{_q(freeze_id)}/thaw", json=body))


def _q(part: str) -> str:
    return quote(part, safe="")
