"""DAGs that start when the registry changes, whoever changed it: an asset watcher on the registry's events.

The watcher reads ``/api/windtunnel/v1/events`` of the governed registry. Its place is kept in the asset's state store
and moves on only when Airflow has the events in its database, so none is lost when a triggerer dies; one that comes
twice carries the same ``id``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Hashable, Sequence
from typing import Any

from airflow.sdk import Asset, AssetWatcher
from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer

from windtunnel.errors import DescriptionError, NotFoundError
from windtunnel.events import Event, new_correlation_id
from windtunnel.names import slug
from windtunnel_airflow.hook import WindtunnelHook
from windtunnel_airflow.tracking_server.poller import PAGE, poller_of

#: Kinds of events worth a DAG; the others are bookkeeping.
KINDS = (
    "champion",
    "version",
    "version-failed",
    "alias",
    "stage",
    "registered",
    "withdrawn",
    "deleted",
    "model",
    "tags",
)
_PLACE = "windtunnel_events_after"


def registry_changes(
    model: str | None = None,
    kind: str = "champion",
    *,
    alias: str | None = None,
    stage: str | None = None,
    windtunnel_conn_id: str = WindtunnelHook.default_conn_name,
    poll: float = 5.0,
    uri: str | None = None,
) -> Asset:
    """An asset with an event for every change of one kind in the governed registry, by any client.

    ``DAG("report", schedule=registry_changes("sea"))`` runs whenever the champion of ``sea`` changes.

    Args:
        model: the registered model; all when None.
        kind: champion, version (sealed), version-failed, alias, stage, registered, withdrawn, deleted, model, tags.
        alias: of kind ``alias``: only this one.
        stage: of kind ``stage``: only this one.
        windtunnel_conn_id: connection to the registry.
        poll: seconds between two questions; all watchers of a triggerer share them.
        uri: of the asset; ``windtunnel://MODEL/registry/KIND`` unless told.

    Raises:
        DescriptionError: there is no such kind, or alias or stage do not go with it.
    """
    if kind not in KINDS:
        raise DescriptionError(f"the registry has no events of kind {kind!r}", hint=f"kinds are {', '.join(KINDS)}")
    if (alias is not None and kind != "alias") or (stage is not None and kind != "stage"):
        raise DescriptionError(f"alias goes with kind 'alias', stage with kind 'stage'; kind is {kind!r}")
    if poll < 1:
        raise DescriptionError(f"poll is {poll:g} s; expected 1 or more")
    of = alias or stage
    place = slug(model) if model else "any-model"
    address = uri or f"windtunnel://{place}/registry/{kind}" + (f"/{slug(of.lower())}" if of else "")
    trigger = RegistryChangeTrigger(
        asset=address, model=model, kind=kind, of=of, windtunnel_conn_id=windtunnel_conn_id, poll=poll
    )
    return Asset(
        name=address, uri=address, group="windtunnel", watchers=[AssetWatcher(name="registry", trigger=trigger)]
    )


class RegistryChangeTrigger(BaseEventTrigger):
    """Fires an asset event for each of the registry's events of one kind.

    The event is the contract's ``{v, model, version, digest, correlation_id, cause}``, and ``id``, ``seq``, ``kind``,
    ``alias``, ``stage``, ``actor``. Airflow's asset event carries it in ``extra["payload"]``.

    Args:
        asset: name of the asset, in whose state store the place is kept.
        model: only of this one.
        kind: of the registry's events.
        of: alias or stage.
        windtunnel_conn_id: connection to the registry; its credentials are read in the triggerer, never stored.
        poll: seconds between two questions.
    """

    def __init__(
        self,
        asset: str,
        model: str | None,
        kind: str,
        of: str | None = None,
        windtunnel_conn_id: str = WindtunnelHook.default_conn_name,
        poll: float = 5.0,
    ) -> None:
        super().__init__()
        self.asset = asset
        self.model = model
        self.kind = kind
        self.of = of
        self.windtunnel_conn_id = windtunnel_conn_id
        self.poll = poll

    def serialize(self) -> tuple[str, dict[str, Any]]:
        given = {
            "asset": self.asset, "model": self.model, "kind": self.kind, "of": self.of,
            "windtunnel_conn_id": self.windtunnel_conn_id, "poll": self.poll,
        }  # fmt: skip
        return f"{type(self).__module__}.{type(self).__qualname__}", given

    def shared_stream_key(self) -> Hashable:
        # A stream of its own for each: those that share one may miss what came before they joined. What goes over the
        # wire is shared all the same, by the poller.
        return ("windtunnel-registry", self.asset, self.windtunnel_conn_id)

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        return EventStream(kwargs["asset"], kwargs["windtunnel_conn_id"], float(kwargs["poll"]))

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        async for raw in shared_stream:
            payload = self.payload(raw)
            if payload is not None:
                yield TriggerEvent(payload)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Without Airflow's stream: the place moves on when the next event is asked for."""
        stream = EventStream(self.asset, self.windtunnel_conn_id, self.poll)
        async for raw, place in stream.open_stream():
            payload = self.payload(raw)
            if payload is not None:
                yield TriggerEvent(payload)
            await stream.keep(place)

    def payload(self, raw: dict[str, Any]) -> dict[str, Any] | None:
        """The asset event for one of the registry's events; None when it is not what is watched for."""
        if raw.get("lost"):
            event = Event(self.model or "", new_correlation_id(), raw["lost"])
            return {**event.extra(), "id": f"lost-{raw['seq']}", "seq": raw["seq"], "kind": "lost"}
        if raw["kind"] != self.kind or (self.model is not None and raw["model"] != self.model):
            return None
        if self.of is not None and raw[self.kind].lower() != self.of.lower():
            return None
        event = Event(raw["model"], raw["correlation_id"], raw["cause"], raw["version"], raw["digest"])
        more = {name: raw[name] for name in ("id", "seq", "kind", "alias", "stage", "actor")}
        return {**event.extra(), **more}


class EventStream(SharedStreamProducer):
    """The registry's events after the place that is kept, for ever.

    Args:
        asset: whose state store keeps the place.
        windtunnel_conn_id: connection to the registry.
        poll: seconds between two questions.
        store: where the place is kept, with ``aget`` and ``aset``; the asset's state store unless told.
    """

    def __init__(self, asset: str, windtunnel_conn_id: str, poll: float, store: Any = None) -> None:
        self.asset = asset
        self.windtunnel_conn_id = windtunnel_conn_id
        self.poll = poll
        self._store = store

    @property
    def store(self) -> Any:
        if self._store is None:
            from airflow.sdk.execution_time.context import AssetStateStoreAccessor

            self._store = AssetStateStoreAccessor(name=self.asset)
        return self._store

    async def keep(self, place: int) -> None:
        await self.store.aset(_PLACE, place)

    async def open_stream(self) -> AsyncIterator[tuple[Any, Any]]:
        after: int | None = None
        began, said = False, 0.0
        while True:
            try:
                if not began:
                    kept = await self.store.aget(_PLACE)
                    after, began = (None if kept is None else int(kept)), True
                page = await self._page(after)
                if after is None:  # from now on
                    after = int(page["next"])
                    await self.keep(after)
            except Exception as error:  # whatever it is: the next question may find an answer
                if not said or time.monotonic() - said > 300:
                    self._log().warning("No events from connection %r: %s", self.windtunnel_conn_id, told(error))
                    said = time.monotonic()
                await asyncio.sleep(min(60.0, self.poll * 4))
                continue
            said = 0.0
            if page["lost"]:
                words = f"events of the registry after {after} are not kept any more: look at the registry itself"
                place = after if page["events"] else int(page["next"])
                yield {"lost": words, "seq": after}, place
            for event in page["events"]:
                yield event, int(event["seq"])
            after = int(page["next"])
            # A full page is followed at once, but not before its events had a chance to go on their way.
            await asyncio.sleep(0.2 if len(page["events"]) >= PAGE else self.poll)

    async def _page(self, after: int | None) -> dict[str, Any]:
        question = ("events", "now" if after is None else str(after))
        return dict(await poller_of(self.windtunnel_conn_id).ask(question, fresh=min(1.0, self.poll / 2)))

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Airflow has these events in its database. At one that it has not, the place stays: it will come again."""
        for item in batch:
            if not item.outcome.is_clean:
                raise RuntimeError(f"event {item.broker_payload} of the registry was not taken; it will be sent again")
        await self.keep(int(batch[-1].broker_payload))

    def _log(self) -> Any:
        import structlog

        return structlog.get_logger(logger_name=__name__)


def told(error: Exception) -> str:
    """Words for the log."""
    if isinstance(error, NotFoundError):
        return f"{error.message}; only a governed registry (mlflow server --app-name windtunnel) has events"
    return f"{type(error).__name__}: {error}"
