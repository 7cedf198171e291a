"""The first step of a version's pod: fetch what the registry has sealed, verify it, leave that copy to the server.

``python -m windtunnel.serving.seldon.initstep FOLDER``, with

- ``WINDTUNNEL_VERSION``: JSON: ``model``, ``version``, ``digest``, ``source`` (``models:/MODEL/VERSION``) and
  ``settings``;
- ``WINDTUNNEL_REGISTRY_URL``, ``WINDTUNNEL_USERNAME``, ``WINDTUNNEL_PASSWORD``: the registry, and who may read models;
- ``WINDTUNNEL_COLLECTOR``: who takes the server's prediction log; without it no rows are written;
- ``WINDTUNNEL_KEYS``: folder with ``keys.json`` and the public keys whose signatures count.

The server starts only after this has ended with 0, reads nothing but FOLDER, and verifies the copy again when it loads
it. A copy that is whole is kept, so that a container that starts again needs no registry. What went wrong is told in
the pod's termination message as JSON, and by the exit code: 3 not the sealed bytes or not signed by a key we trust
(nothing helps but another version), 75 the registry does not answer (Kubernetes tries again), 1 anything else.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from windtunnel.errors import DescriptionError, IntegrityError, UnavailableError, WindtunnelError
from windtunnel.evidence.manifest import Manifest
from windtunnel.home import Home
from windtunnel.safety import signature
from windtunnel.safety.keys import KeyRing
from windtunnel.serving import artifacts
from windtunnel.serving.artifacts import Folder
from windtunnel.serving.backend import Arm
from windtunnel.serving.collector import sending
from windtunnel.serving.modelserver import serverfiles
from windtunnel.serving.seldon import collecting
from windtunnel.spec.serving import Serving

#: Same as a server's exit code when its files are not the sealed ones (``launch.GAVE_UP``).
NOT_SEALED, TRY_AGAIN, FAILED = 3, 75, 1
PORT = 9000
#: Where Seldon looks for a container's metrics by itself: a port named ``metrics``, 6000.
METRICS_PORT = 6000
#: Where the log of a pod lies whose rows nobody collects; it stays empty.
_UNSENT = Path("/tmp/predictions")


def prepare(folder: Path, asked: dict[str, Any], home: Home) -> str:
    """Make ``folder`` the place a server starts from; returns the id of the key that signed.

    Args:
        asked: as ``WINDTUNNEL_VERSION`` says.
        home: a scratch folder; the registry and the keys are those of the environment.

    Raises:
        IntegrityError: the files are not what was sealed, or no trusted key has signed them.
        UnavailableError: the registry does not answer.
        WindtunnelError: as it says.
    """
    try:
        model, version, digest, source = (str(asked[name]) for name in ("model", "version", "digest", "source"))
        settings = dict(asked.get("settings") or {})
        serving = Serving.model_validate(settings.get("serving") or {})
    except (KeyError, TypeError, ValueError) as error:
        raise DescriptionError(f"WINDTUNNEL_VERSION does not say what to fetch: {error!r}") from error
    if source != f"models:/{model}/{version}":
        raise IntegrityError(
            f"{model} version {version}: only what the registry has sealed is served in a cluster, not {source}",
            hint=f"release it by models:/{model}/{version}",
        )
    ring = KeyRing.of(home)
    if not ring.exists:
        raise IntegrityError(
            f"there are no keys in {ring.public} to verify signatures by",
            hint="mount HOME/keys of the installation there (keys.json and KEYID.pem)",
        )
    place = artifacts.ensure(home, model, Arm(version, digest, source), Folder(folder))
    key = signature.verify(Manifest.from_dict(json.loads(place.manifest_file.read_bytes())), ring, model=model)
    collected = bool(os.environ.get(sending.URL))
    serverfiles.write(
        place,
        model=model,
        version=version,
        digest=digest,
        port=PORT,
        serving=serving if collected else serving.model_copy(update={"sample": 0.0}),
        predictions=Path(collecting.PREDICTIONS) if collected else _UNSENT,
        features=settings.get("features") or (),
        warmup=settings.get("warmup") or (),
        host="0.0.0.0",  # a pod's address is its own; who may reach it is a NetworkPolicy's to say
        instance=socket.gethostname(),
        metrics_port=METRICS_PORT,
    )
    artifacts.verify(place)
    return key


def main(folder: str) -> int:
    try:
        try:
            asked = json.loads(os.environ["WINDTUNNEL_VERSION"])
        except (KeyError, ValueError) as error:
            raise DescriptionError(f"WINDTUNNEL_VERSION does not say what to fetch: {error!r}") from error
        with tempfile.TemporaryDirectory(prefix="windtunnel-") as scratch:
            key = prepare(Path(folder), asked, Home(Path(scratch)))
        print(json.dumps({"model": asked["model"], "version": asked["version"], "signed_by": key}), flush=True)
        return 0
    except WindtunnelError as error:
        code = NOT_SEALED if isinstance(error, IntegrityError) else FAILED
        _tell(type(error).__name__, error.message, error.hint)
        return TRY_AGAIN if isinstance(error, UnavailableError) else code
    except OSError as error:
        _tell(type(error).__name__, str(error), None)
        return FAILED


def _tell(error: str, message: str, hint: str | None) -> None:
    text = json.dumps({"error": error, "message": message[:2000], "hint": hint})
    print(text, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):  # outside a pod there is none
        Path(os.environ.get("WINDTUNNEL_TERMINATION_LOG", "/dev/termination-log")).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m windtunnel.serving.seldon.initstep FOLDER")
    sys.exit(main(sys.argv[1]))
