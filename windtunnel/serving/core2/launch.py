"""Start of the model server in a Server's pod, inside the model servers' environment.

``python -m windtunnel.serving.core2.launch FOLDER`` is MLServer as Seldon's agent expects it: REST and gRPC, a
repository (``MLSERVER_MODELS_DIR``) into which the agent copies settings, and loading when the agent says so. What the
agent copied was verified by nobody, so this server loads one thing only: our runtime on FOLDER, the copy that the
pod's first step has verified, and which the runtime verifies again. Models of any other kind, or of another place, are
not found. It bounds itself as ``windtunnel.serving.modelserver.launch`` does.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from windtunnel.serving import artifacts
from windtunnel.serving.modelserver import launch

RUNTIME = "windtunnel.serving.modelserver.runtime.WindtunnelRuntime"
HTTP, GRPC = 9000, 9500
#: Where Seldon's ServerConfig has the agent's repository.
_REPOSITORY = "/mnt/agent/models"
#: Of one gRPC message; what Seldon's own model server takes.
_LARGEST = 1_048_576_000


def ours(implementation: str, uri: str | None, folder: Path) -> bool:
    """Whether a model's settings lead to the verified copy by our runtime."""
    return implementation == RUNTIME and uri is not None and Path(uri) == folder


def main(path: str) -> None:
    folder = artifacts.Folder(Path(path))
    launch.watch_over(folder)
    asyncio.run(_serve(folder))


async def _serve(folder: artifacts.Folder) -> None:
    from mlserver import MLServer
    from mlserver.repository import SchemalessModelRepository
    from mlserver.rest import RESTServer
    from mlserver.settings import Settings

    config = folder.read_server()
    limited = launch.limits_of(config)

    class Verified(SchemalessModelRepository):  # type: ignore[misc]
        async def list(self) -> list[Any]:
            found = await super().list()
            return [
                one for one in found if ours(one.implementation_, getattr(one.parameters, "uri", None), folder.path)
            ]

    class Rest(RESTServer):  # type: ignore[misc]
        def _get_config(self) -> Any:
            found = super()._get_config()
            found.app = limited(found.app)
            found.timeout_keep_alive = launch.KEEP_ALIVE_S
            found.timeout_graceful_shutdown = int(config["drain_s"]) or 1
            return found

    class Server(MLServer):  # type: ignore[misc]
        def _create_servers(self) -> None:
            super()._create_servers()
            self._rest_server = Rest(self._settings, self._data_plane, self._model_repository_handlers)
            app = self._rest_server._app  # the agent loads by gRPC; nobody needs to by REST
            app.router.routes = [one for one in app.router.routes if "/repository/" not in getattr(one, "path", "")]

    def port(name: str, usual: int) -> int:
        return int(os.environ.get(name, usual))

    settings = Settings(
        debug=False,
        host="0.0.0.0",  # the kubelet asks from outside; who else may is a NetworkPolicy's to say
        http_port=port("MLSERVER_HTTP_PORT", HTTP),
        grpc_port=port("MLSERVER_GRPC_PORT", GRPC),
        grpc_max_message_length=port("MLSERVER_GRPC_MAX_MESSAGE_LENGTH", _LARGEST),
        metrics_endpoint=None,
        parallel_workers=0,
        load_models_at_startup=False,
        model_repository_root=os.environ.get("MLSERVER_MODELS_DIR", _REPOSITORY),
        model_repository_implementation=Verified,
    )
    await Server(settings).start([])


if __name__ == "__main__":
    # Run as a module this file is __main__; the runtime imports launch by name, so the real module does the work.
    from windtunnel.serving.core2 import launch as ourselves

    ourselves.main(sys.argv[1])
