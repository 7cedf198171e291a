"""A Kubernetes API for pods that live by the clock, in a process of its own: ``python -m bench.podapi FILE``.

As much as the clients under measurement ask: lists, watches, single pods, logs, events. It counts requests by kind and
notes when each pod ended. The port stands in FILE.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

#: Seconds until a pod has a node, and from there until its container runs.
PLACED, STARTED = 1.0, 1.0
CONTAINER = {"image": "x", "imageID": "x", "ready": False, "restartCount": 0}


class Pods:
    """All pods, and who watches them."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.lives: dict[str, asyncio.Task[None]] = {}
        self.watchers: set[asyncio.Queue[bytes]] = set()
        self.ended: dict[str, float] = {}
        self.asked: Counter[str] = Counter()
        self.version = 1
        self.life = 30.0

    def change(self, what: str, pod: dict[str, Any]) -> None:
        self.version += 1
        pod["metadata"]["resourceVersion"] = str(self.version)
        line = json.dumps({"type": what, "object": pod}).encode() + b"\n"
        for queue in self.watchers:
            queue.put_nowait(line)

    async def live(self, pod: dict[str, Any], life: float) -> None:
        """Unschedulable, placed, running, over."""
        name = pod["spec"]["containers"][0]["name"]
        await asyncio.sleep(PLACED)
        pod["spec"]["nodeName"] = "node"
        pod["status"] = self.status("Pending", name, {"waiting": {"reason": "ContainerCreating"}})
        self.change("MODIFIED", pod)
        await asyncio.sleep(STARTED)
        pod["status"] = self.status("Running", name, {"running": {"startedAt": "2026-11-21T10:00:00Z"}})
        self.change("MODIFIED", pod)
        await asyncio.sleep(life)
        over = {"terminated": {"exitCode": 0, "reason": "Completed"}}
        pod["status"] = self.status("Succeeded", name, over)
        self.ended[pod["metadata"]["name"]] = time.time()
        self.change("MODIFIED", pod)

    @staticmethod
    def status(phase: str, container: str, state: dict[str, Any]) -> dict[str, Any]:
        placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-21T10:00:00Z"}
        return {
            "phase": phase,
            "conditions": [placed],
            "containerStatuses": [{**CONTAINER, "name": container, "state": state}],
        }

    # -- requests
    async def many(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch", "").lower() == "true":
            return await self.watch(request)
        self.asked["list"] += 1
        items = [pod for pod in self.pods.values() if _has(pod, request.query)]
        return web.json_response(
            {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": str(self.version)}, "items": items}
        )

    async def watch(self, request: web.Request) -> web.StreamResponse:
        """Everybody's pods: whoever selects sees his own by their names."""
        self.asked["watch"] += 1
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.watchers.add(queue)
        await answer.prepare(request)
        end = time.monotonic() + float(request.query.get("timeoutSeconds", "60"))
        # Who asked may be gone.
        with contextlib.suppress(ConnectionError):
            while (left := end - time.monotonic()) > 0:
                try:
                    await answer.write(await asyncio.wait_for(queue.get(), left))
                except TimeoutError:
                    break
        self.watchers.discard(queue)
        return answer

    async def make(self, request: web.Request) -> web.Response:
        self.asked["create"] += 1
        pod = await request.json()
        name = pod["metadata"]["name"]
        pod["metadata"]["creationTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
        pod["status"] = {"phase": "Pending", "conditions": [waits]}
        self.pods[name] = pod
        self.change("ADDED", pod)
        self.lives[name] = asyncio.create_task(self.live(pod, float(request.query.get("life", self.life))))
        return web.json_response(pod, status=201)

    async def one(self, request: web.Request) -> web.Response:
        self.asked["get"] += 1
        pod = self.pods.get(request.match_info["name"])
        return web.json_response(pod) if pod else _gone()

    async def patch(self, request: web.Request) -> web.Response:
        self.asked["patch"] += 1
        pod = self.pods.get(request.match_info["name"])
        return web.json_response(pod) if pod else _gone()

    async def remove(self, request: web.Request) -> web.Response:
        self.asked["delete"] += 1
        pod = self.pods.pop(request.match_info["name"], None)
        if pod is None:
            return _gone()
        self.change("DELETED", pod)
        return web.json_response(pod)

    async def log(self, request: web.Request) -> web.Response:
        self.asked["log"] += 1
        return web.Response(text="2026-11-21T10:00:00.000000001Z epoch 1 of 1\n")

    async def events(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch", "").lower() == "true":
            self.asked["events watch"] += 1
            answer = web.StreamResponse(headers={"Content-Type": "application/json"})
            await answer.prepare(request)
            await asyncio.sleep(float(request.query.get("timeoutSeconds", "60")))
            return answer
        self.asked["events"] += 1
        return web.json_response({"kind": "EventList", "metadata": {"resourceVersion": "1"}, "items": []})

    async def nothing(self, request: web.Request) -> web.Response:
        return web.json_response({"kind": "NodeList", "metadata": {}, "items": []})

    # -- the bench
    async def told(self, request: web.Request) -> web.Response:
        return web.json_response({"ended": self.ended, "asked": dict(self.asked)})

    async def begin(self, request: web.Request) -> web.Response:
        """Another measurement."""
        self.pods.clear()
        self.ended.clear()
        self.asked.clear()
        self.life = float(request.query["life"])
        return web.Response()


def _has(pod: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    labels = pod["metadata"].get("labels") or {}
    terms = (term.partition("=") for term in filter(None, query.get("labelSelector", "").split(",")))
    return all(key.startswith("!") or "!" in key or labels.get(key) == value for key, _, value in terms)


def _gone() -> web.Response:
    return web.json_response({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"}, status=404)


async def serve(file: Path) -> None:
    pods, app = Pods(), web.Application()
    base = "/api/v1/namespaces/{namespace}"
    app.add_routes(
        [
            web.get(f"{base}/pods", pods.many), web.post(f"{base}/pods", pods.make),
            web.get(f"{base}/pods/{{name}}", pods.one), web.patch(f"{base}/pods/{{name}}", pods.patch),
            web.delete(f"{base}/pods/{{name}}", pods.remove), web.get(f"{base}/pods/{{name}}/log", pods.log),
            web.get(f"{base}/events", pods.events), web.get("/api/v1/nodes", pods.nothing),
            web.get("/told", pods.told), web.post("/begin", pods.begin),
        ]
    )  # fmt: skip
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    file.write_text(str(site._server.sockets[0].getsockname()[1]))  # type: ignore[attr-defined]
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
