"""Start of one version's model server, inside the model servers' environment.

``python -m windtunnel.serving.modelserver.launch FOLDER`` is MLServer with REST on loopback only: no gRPC, no
repository API, so nobody can load or unload a model behind the backend's back. It bounds itself: a leaking model
ends its own server, not the machine; a server that dies again and again waits longer before each new try.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from windtunnel import files
from windtunnel.serving import artifacts
from windtunnel.serving.modelserver import admission

#: Exit code after which a restart cannot help (the files are not the sealed ones).
GAVE_UP = 3
#: Exit code of a server that went past its memory.
OUT_OF_MEMORY = 71
#: Longer than the router keeps an idle connection, so that it is never the server who hangs up on a request.
KEEP_ALIVE_S = 75


def give_up(message: str) -> NoReturn:
    """End this server for good; the supervisor does not start it again by itself."""
    _leave(GAVE_UP, message)


def pause(starts: list[float], now: float) -> float:
    """Seconds to wait before this start: none for the first two within a minute, then 2, 4, 8 ... at most 30."""
    recent = [at for at in starts if now - at < 60]
    return 0.0 if len(recent) < 2 else min(2.0 ** (len(recent) - 1), 30.0)


def main(path: str) -> None:
    folder = artifacts.Folder(Path(path))
    _FOLDER.append(folder)
    config = folder.read_server()
    now = time.time()
    starts = [float(at) for at in (files.read_json(folder.path / "starts.json", broken_ok=True) or [])][-10:]
    files.write_json(folder.path / "starts.json", [*starts, now], durable=False)
    time.sleep(pause(starts, now))
    _bound(int(config["memory"]))
    asyncio.run(_serve(folder, config))
    # MLServer ends by itself only when a model could not be loaded, or when it was told to.
    if not _TOLD:
        sys.exit(1)


def watch_over(folder: artifacts.Folder) -> None:
    """Bound this process to what the server in ``folder`` may have; it leaves its note there when it goes past that."""
    _FOLDER.append(folder)
    _bound(int(folder.read_server()["memory"]))


def _bound(memory: int) -> None:
    _bound_memory(memory)
    threading.Thread(target=_watch_memory, args=(memory,), name="memory-watch", daemon=True).start()


def limits_of(config: Mapping[str, Any]) -> Callable[[Any], Any]:
    """What goes before a server's app: in a pod its limits, whose numbers are told on a port of their own; elsewhere
    nothing.

    Args:
        config: as ``Folder.read_server`` gives it.
    """
    limits = config.get("limits")
    if not limits:
        return lambda app: app
    gates: list[admission.Admission] = []
    admission.export(lambda: gates[-1] if gates else None, config["model"], config["version"], limits["metrics_port"])

    def limited(app: Any) -> admission.Admission:
        gate = admission.Admission(
            app,
            max_concurrency=limits["max_concurrency"],
            queue=limits["queue"],
            timeout_s=config["timeout_s"],
        )
        gates.append(gate)
        return gate

    return limited


async def _serve(folder: artifacts.Folder, config: dict[str, Any]) -> None:
    from mlserver import MLServer
    from mlserver.cli.serve import load_settings
    from mlserver.rest import RESTServer

    limited = limits_of(config)

    class Rest(RESTServer):  # type: ignore[misc]
        def _get_config(self) -> Any:
            found = super()._get_config()
            found.app = limited(found.app)
            found.timeout_keep_alive = KEEP_ALIVE_S
            found.timeout_graceful_shutdown = int(config["drain_s"]) or 1
            return found

    class Nothing:
        """In place of the gRPC server."""

        async def start(self) -> None: ...

        async def stop(self, sig: int | None = None) -> None: ...

    class Server(MLServer):  # type: ignore[misc]
        def _create_servers(self) -> None:
            self._rest_server = Rest(self._settings, self._data_plane, self._model_repository_handlers)
            app = self._rest_server._app
            app.router.routes = [
                route for route in app.router.routes if "/repository/" not in getattr(route, "path", "")
            ]
            self._grpc_server = Nothing()
            self._kafka_server = None

        async def stop(self, sig: int | None = None) -> None:
            if sig is not None:
                _TOLD.append(sig)
            await super().stop(sig)

    settings, models = await load_settings(str(folder.mlserver))
    await Server(settings).start(models)


_FOLDER: list[artifacts.Folder] = []
_TOLD: list[int] = []


def _bound_memory(limit: int) -> None:
    # The kernel should take a model server before anything else of the house.
    try:
        Path("/proc/self/oom_score_adj").write_text("500")
    except OSError:
        pass
    # A backstop for native code that leaks while it holds the interpreter; the watch below is the real bound.
    ceiling = 2 * limit + 2 * 2**30
    resource.setrlimit(resource.RLIMIT_DATA, (ceiling, ceiling))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _watch_memory(limit: int) -> None:
    page = resource.getpagesize()
    while True:
        used = int(Path("/proc/self/statm").read_text().split()[1]) * page
        if used > limit:
            _leave(
                OUT_OF_MEMORY,
                f"the server uses {used / 2**20:.0f} MiB, allowed are {limit / 2**20:.0f} MiB (serving.memory)",
            )
        time.sleep(0.25)


def _leave(code: int, message: str) -> NoReturn:
    print(json.dumps({"level": "error", "message": message}), flush=True)
    for folder in _FOLDER:
        folder.note("failed", {"message": message, "code": code})
    os._exit(code)


if __name__ == "__main__":
    # Run as a module this file is __main__; the runtime imports it by name, so the real module does the work.
    from windtunnel.serving.modelserver import launch

    launch.main(sys.argv[1])
