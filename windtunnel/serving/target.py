"""The rollback target: which version takes over when what serves is taken back, and whether it could (ROL-12)."""

from __future__ import annotations

from windtunnel.errors import WindtunnelError
from windtunnel.home import Home
from windtunnel.serving import artifacts
from windtunnel.serving.artifacts import Folder
from windtunnel.serving.desired import State, StateFile
from windtunnel.serving.local import servers


def rollback_target(state: State) -> str | None:
    """The version that takes over; None when there is nothing to go back to.

    While candidates are deployed it is the champion; after that the former champion that stays warm the longest.
    """
    if state.release.candidates and not state.aborted:
        return state.release.champion.version if state.release.champion else None
    former = [version for version in state.warm if version in state.servers and state.servers[version].served]
    return max(former, key=lambda version: state.warm[version], default=None)


def check_target(home: Home, model: str) -> list[str]:
    """Why the rollback target of ``model`` could not take over this moment; empty when it can.

    Its copy is read and verified against the sealed digest, its server asked, and one real inference made past the
    router (nobody's prediction: it is not logged); without warm-up rows there is nothing to infer from, as when it was
    deployed. Takes as long as reading the copy. Moves nothing.

    Raises:
        ServingError: the desired state cannot be read.
    """
    state = StateFile(home, model).read()
    version = rollback_target(state)
    if version is None:
        return [f"{model} has no version to go back to: no champion beside a candidate, and no former one is warm"]
    name, server = f"{model} version {version}", state.servers.get(version)
    if server is None:
        return [f"{name} is not deployed"]
    found = []
    try:
        artifacts.verify(Folder.of(home, model, version))
    except (WindtunnelError, OSError) as error:
        found.append(f"{name}: its copy is not what was sealed: {error}")
    if not servers.is_ready(model, server.port):
        return [*found, f"{name}: its server is not ready"]
    rows = server.settings.get("warmup") or []
    if not rows:
        return found
    try:
        servers.infer(model, version, server.port, rows[0], server.serving.timeout.total_seconds())
    except WindtunnelError as error:
        found.append(f"{name}: {error.message}")
    return found
