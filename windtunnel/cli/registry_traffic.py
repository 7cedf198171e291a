"""After an emergency rollback in the registry: the traffic of this machine or of the named cluster, at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from windtunnel.home import Home
    from windtunnel.registry.client import RegistryClient


def bring_along(home: Home, registry: RegistryClient, model: str, reason: str) -> str:
    """Give the traffic to the registry's champion now; a sentence on what became of it.

    Candidates of a release go to 0 first, by the abort path. Where that cannot be done here, the guard follows.
    """
    from windtunnel.errors import WindtunnelError
    from windtunnel.serving.place import of_command, settings_file
    from windtunnel.serving.release.following import follow

    if settings_file(None, home, model) is None and not home.serving_model(model).is_dir():
        return f"nothing of {model} is served from this home; where it is, the guard follows"
    try:
        backend = of_command(home, model, None).backend
        release = backend.desired(model)
        ended = release is not None and release.exposed
        if ended:
            backend.abort(model, reason, "rollback")
            release = backend.desired(model)
        champion = registry.champion(model)
        moved = follow(backend, release, champion) or ended
    except WindtunnelError as error:
        return f"the traffic could not be moved now, the guard goes on trying: {error.message}"
    if champion is None:
        return f"{model} has no champion"
    return f"version {champion.version} {'has all requests now' if moved else 'had all requests already'}"
