"""``python -m windtunnel_mlflow.serve``: the governed MLflow server in one process.

``mlflow server --app-name windtunnel`` does the same in two: a parent of 260 MB that only waits, and whose sudden
death leaves the worker behind. A supervised server needs no parent. URIs come from the environment variables
``mlflow server`` reads (MLFLOW_BACKEND_STORE_URI and so on), so no password stands on the command line.
"""

from __future__ import annotations

import argparse
import os
import uuid
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve until a signal ends the process."""
    parser = argparse.ArgumentParser(prog="python -m windtunnel_mlflow.serve", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    run(given.host, given.port)


def run(host: str, port: int, tls: Path | None = None) -> None:
    """Serve until a signal ends the process; everything else comes from the environment.

    Args:
        tls: folder with ``tls.crt`` and ``tls.key`` (PEM); the server speaks TLS, and takes up renewed files by itself.
    """
    settle()
    listen("windtunnel_mlflow.app:create_app", host, port, tls, factory=True)


def settle() -> None:
    """Set what MLflow's server reads when it is imported; from the variables that ``mlflow server`` reads."""
    # The databases hold password hashes and every model's history: nobody else's to read.
    os.umask(0o077)

    from mlflow import environment_variables as names
    from mlflow.server import constants

    backend = os.environ["MLFLOW_BACKEND_STORE_URI"]
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: backend,
        constants.REGISTRY_STORE_URI_ENV_VAR: os.environ.get("MLFLOW_REGISTRY_STORE_URI") or f"windtunnel+{backend}",
        constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: os.environ["MLFLOW_ARTIFACTS_DESTINATION"],
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        names._MLFLOW_SGI_NAME.name: "uvicorn",
        names._MLFLOW_SERVER_BOOT_ID.name: uuid.uuid4().hex,
        names._MLFLOW_IN_JOB_EXECUTOR.name: "false",
        names.MLFLOW_ENABLE_WORKSPACES.name: "false",
    }
    replica = names.MLFLOW_READ_REPLICA_BACKEND_STORE_URI.get()
    if replica:
        os.environ[constants.READ_REPLICA_BACKEND_STORE_URI_ENV_VAR] = replica


def listen(app: Any, host: str, port: int, tls: Path | None = None, *, factory: bool = False) -> None:
    """Answer HTTP until a signal ends the process."""
    import uvicorn

    uvicorn.run(
        app,
        factory=factory,
        host=host,
        port=port,
        # One worker: SQLite has one writer; the credentials cache and the sealer live in one process.
        workers=1,
        timeout_graceful_shutdown=10,
        # Changes and refusals are in the audit; a line per poll would only fill the disk.
        access_log=False,
        **_tls(tls),
    )


def _tls(folder: Path | None) -> dict[str, Any]:
    if folder is None:
        return {}
    from windtunnel import tls

    return {"ssl_context_factory": lambda config, default: tls.followed(folder)}


if __name__ == "__main__":
    main()
