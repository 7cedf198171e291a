"""What the triggers of one triggerer know of their pods: one list and one watch per connection and namespace.

Built on the provider's asynchronous hook, which knows Airflow's connections. Credentials are read here, in the
triggerer, and again every few minutes: nothing of them lies in Airflow's database, and a short-lived token is renewed.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from windtunnel.errors import ForbiddenError, UnavailableError, WindtunnelError
from windtunnel.kube.answers import AGAIN, LONGEST_WAIT_S, Answer, wait_before
from windtunnel.kube.following import Cut, Following, Refusal
from windtunnel.kube.kinds import WORKLOADS
from windtunnel.tracking.pods import naming
from windtunnel.tracking.pods.waiting import KUEUE_OF

log = logging.getLogger(__name__)

#: Seconds after which credentials are read again.
FRESH_S = 300.0
#: Seconds for which a watch outlives its last follower: the next task is often not far.
LINGER_S = 30.0
#: Seconds for an answer to anything but a watch.
ANSWER_S = 30.0
SELECTOR = ",".join(f"{key}={value}" for key, value in sorted(naming.COMMON.items()))


@dataclass(frozen=True, slots=True)
class Where:
    """Which cluster, as whom, and where in it.

    Attributes:
        kubernetes_conn_id: Airflow connection.
        eks: name, AWS connection and region of an EKS cluster, where it is one.
    """

    kubernetes_conn_id: str | None
    namespace: str
    cluster_context: str | None = None
    in_cluster: bool | None = None
    eks: tuple[str | None, ...] = ()


class Door:
    """The API's few calls, over one pool of connections; a ``following.Source`` for our pods in a namespace."""

    def __init__(self, where: Where) -> None:
        self.where = where
        self._client: Any = None
        self._made = 0.0
        self._held: Any = None
        self._files: Any = None
        self._closing: set[asyncio.Task[None]] = set()
        self._one = asyncio.Lock()
        self._ahead = 0.0

    def now(self) -> float:
        """The API's own time, as ``Client.now`` has it."""
        return time.time() + self._ahead

    # -- following.Source
    async def listed(self) -> Mapping[str, Any]:
        found: dict[str, Any] = json.loads(await self._ask("list_namespaced_pod", label_selector=SELECTOR))
        return found

    async def watched(self, version: str, for_s: int) -> AsyncIterator[bytes]:
        import aiohttp

        if time.monotonic() - self._made > FRESH_S:
            await self.renew()
        api = await self._api()
        try:
            answer = await api.list_namespaced_pod(
                self.where.namespace, label_selector=SELECTOR, watch=True, resource_version=version,
                allow_watch_bookmarks=True, timeout_seconds=for_s, _preload_content=False,
                # A connection that died without a word ends here.
                _request_timeout=for_s + 15,
            )  # fmt: skip
            async with answer:
                self._hear(answer)
                await _check(answer)
                rest = b""
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if line.strip():
                            yield line
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Cut(f"{type(error).__name__}: {error}") from error

    async def renew(self) -> None:
        """Another client with fresh credentials; who still uses the one before may end in peace."""
        async with self._one:
            old, self._client, self._held = self._held, None, None
        if old is not None:
            task = asyncio.create_task(_close_later(old))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    # -- single pods
    async def read(self, name: str) -> dict[str, Any] | None:
        """The pod now, None where there is none."""
        try:
            found: dict[str, Any] = json.loads(await self._ask("read_namespaced_pod", name=name))
        except Refusal as refusal:
            if refusal.answer.status == 404:
                return None
            raise
        return found

    async def events(self, name: str) -> list[dict[str, Any]]:
        """Events of a pod; none where they may not be read."""
        try:
            raw = await self._ask(
                "list_namespaced_event", field_selector=f"involvedObject.kind=Pod,involvedObject.name={name}"
            )
        except Refusal:
            return []
        return list(json.loads(raw).get("items") or [])

    async def workloads(self, uid: str) -> list[dict[str, Any]]:
        """What Kueue keeps of a pod that it queues; none where they may not be read, or there is no Kueue."""
        for kind in WORKLOADS:
            try:
                raw = await self._ask(
                    "list_namespaced_custom_object", group=kind.group, version=kind.version, plural=kind.plural,
                    label_selector=f"{KUEUE_OF}={uid}",
                )  # fmt: skip
            except Refusal as refusal:
                if refusal.answer.status == 404:  # Kueue of another age
                    continue
                break
            return list(json.loads(raw).get("items") or [])
        return []

    async def log(self, name: str, container: str, since_s: int | None) -> bytes:
        """A container's log with the runtime's time before each line; of the last ``since_s`` seconds."""
        more = {} if since_s is None else {"since_seconds": since_s}
        return await self._ask("read_namespaced_pod_log", name=name, container=container, timestamps=True, **more)

    async def annotate(self, name: str, annotations: Mapping[str, str]) -> None:
        """Write annotations on a pod."""
        body = {"metadata": {"annotations": dict(annotations)}}
        await self._ask("patch_namespaced_pod", name=name, body=body, _content_type="application/merge-patch+json")

    async def remove(self, name: str, grace: int) -> dict[str, Any] | None:
        """Delete a pod; how it was then, None where it is gone. Insists for as long as the caller lets it."""
        tried = 0
        while True:
            tried += 1
            try:
                found = json.loads(await self._ask("delete_namespaced_pod", name=name, grace_period_seconds=grace))
                return dict(found) if found.get("kind", "Pod") == "Pod" else None  # a Status: it is gone already
            except Refusal as refusal:
                if refusal.answer.status == 404:
                    return None
                if refusal.answer.status == 401 and tried == 1:
                    await self.renew()
                    continue
                if refusal.answer.status not in AGAIN and refusal.answer.status != 409:
                    raise
                wait = min(wait_before(refusal.answer, tried), LONGEST_WAIT_S)
            except Cut:
                wait = min(0.25 * 2.0**tried, 4.0)
            await asyncio.sleep(wait)

    # -- inside
    async def _ask(self, call: str, **arguments: Any) -> bytes:
        import aiohttp

        api = await self._api(custom="custom_object" in call)
        try:
            answer = await getattr(api, call)(
                namespace=self.where.namespace, _preload_content=False, _request_timeout=ANSWER_S, **arguments
            )
            async with answer:
                self._hear(answer)
                await _check(answer)
                raw: bytes = await answer.read()
                return raw
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Cut(f"{type(error).__name__}: {error}") from error

    def _hear(self, answer: Any) -> None:
        self._ahead = Answer.of(answer.status, b"", answer.headers).ahead(time.time(), self._ahead)

    async def _api(self, *, custom: bool = False) -> Any:
        from kubernetes_asyncio.client import CoreV1Api, CustomObjectsApi

        async with self._one:
            if self._client is None:
                await self._connect()
            return CustomObjectsApi(self._client) if custom else CoreV1Api(self._client)

    async def _connect(self) -> None:
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
        from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException
        from kubernetes_asyncio.config import ConfigException

        where = self.where
        try:
            # In a thread: asked on the loop, Airflow refuses while any other trigger asks it for something.
            extras = await asyncio.to_thread(_extras, where.kubernetes_conn_id)
            config = await asyncio.to_thread(self._eks) if where.eks else None
        except UnavailableError as error:
            raise Cut(error.message) from error
        except AirflowNotFoundException as error:
            raise ForbiddenError(
                f"there is no connection {where.kubernetes_conn_id!r} for the triggerer: {error}",
                hint="triggerers read Airflow's connections as workers do: it must be there for both",
            ) from error
        except WindtunnelError:
            raise
        except Exception as error:  # e.g. Airflow's API does not answer just now
            raise Cut(f"{type(error).__name__}: {error}") from error
        hook = AsyncKubernetesHook(
            conn_id=where.kubernetes_conn_id,
            connection_extras=extras,
            cluster_context=where.cluster_context,
            config_dict=config,
            in_cluster=where.in_cluster,
        )
        held = hook.get_conn()
        try:
            self._client = await held.__aenter__()
        except (AirflowException, ConfigException) as error:
            raise ForbiddenError(
                f"no way to the cluster by connection {where.kubernetes_conn_id!r}: {error}",
                hint="what it names (a kubeconfig, a command for tokens) must be there for triggerers as for workers",
            ) from error
        except Exception as error:
            raise Cut(f"{type(error).__name__}: {error}") from error
        self._held, self._made = held, time.monotonic()

    def _eks(self) -> Any:
        """A kubeconfig as the provider makes it, with fresh credentials; blocking. Its files are held for the token."""
        import yaml

        from windtunnel_airflow.pods.eks import EksCluster, Kubeconfig

        name, aws_conn_id, region = self.where.eks
        self._files = Kubeconfig(EksCluster(str(name), aws_conn_id, region), self.where.namespace)
        return yaml.safe_load(Path(self._files.path).read_text(encoding="utf-8"))

    async def close(self) -> None:
        """Let go of the API."""
        for task in self._closing:
            task.cancel()
        old, self._client, self._held = self._held, None, None
        if old is not None:
            with suppress(Exception):
                await old.__aexit__(None, None, None)


def _extras(kubernetes_conn_id: str | None) -> dict[str, Any]:
    """A connection's extra; blocking. The default one need not be there: then it is the default kubeconfig."""
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    if kubernetes_conn_id is None:
        return {}
    try:
        return dict(BaseHook.get_connection(kubernetes_conn_id).extra_dejson)
    except AirflowNotFoundException:
        if kubernetes_conn_id == "kubernetes_default":
            return {}
        raise


async def _close_later(held: Any) -> None:
    try:
        await asyncio.sleep(ANSWER_S)
    finally:
        with suppress(Exception):
            await held.__aexit__(None, None, None)


async def _check(answer: Any) -> None:
    if answer.status >= 400:
        raise Refusal(Answer.of(answer.status, await answer.read(), answer.headers))


class PodWatch:
    """Our pods in one namespace, as they are, for every trigger of this process.

    Attributes:
        door: for what is asked of a single pod.
        following: of all of them.
    """

    def __init__(self, where: Where) -> None:
        self.door = Door(where)
        self.following = Following(self.door, f"training pods in namespace {where.namespace}")
        self.users = 0
        # Not in the context of the trigger that happens to be first: its log is not the place for what concerns all.
        self._task = asyncio.create_task(self._run(), context=contextvars.Context())

    async def _run(self) -> None:
        try:
            await self.following.run()
            await asyncio.Event().wait()  # given up: the door stays, for what single triggers still ask
        finally:
            await self.door.close()

    def close(self) -> None:
        self._task.cancel()


_WATCHES: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Where, PodWatch]] = WeakKeyDictionary()


@asynccontextmanager
async def shared(where: Where) -> AsyncIterator[PodWatch]:
    """The one watch of ``where`` in this event loop, for as long as it is needed."""
    loop = asyncio.get_running_loop()
    watches = _WATCHES.setdefault(loop, {})
    watch = watches.get(where)
    if watch is None or watch.following.over:
        watch = watches[where] = PodWatch(where)
    watch.users += 1

    def let_go(watch: PodWatch = watch) -> None:
        if not watch.users:
            if watches.get(where) is watch:
                del watches[where]
            watch.close()

    try:
        yield watch
    finally:
        watch.users -= 1
        if not watch.users:
            loop.call_later(LINGER_S, let_go)
