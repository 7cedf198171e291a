"""In which namespaces pods were made, so that they are looked after there: descriptions name them, each its own.

namespaces/CONNECTION/NAMESPACE     an empty object; its time is that of the newest pod
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from windtunnel.data.objects import Objects

_PREFIX = "namespaces/"
#: A namespace that has nothing of ours left, or may not be looked into, is forgotten so long after its newest pod.
FORGET_S = 90 * 86400.0


def _key(connection: str, namespace: str) -> str:
    return f"{_PREFIX}{quote(connection, safe='')}/{quote(namespace, safe='')}"


def note(objects: Objects, connection: str, namespace: str) -> None:
    """A pod is made there now.

    Raises:
        DataError, UnavailableError: as the store's.
    """
    objects.put_bytes(_key(connection, namespace), b"{}")


def noted(objects: Objects) -> dict[str, dict[str, float]]:
    """Connection -> namespace -> when the newest pod was made there (seconds since the epoch)."""
    out: dict[str, dict[str, float]] = {}
    for key, at in objects.times(_PREFIX).items():
        connection, slash, namespace = key.removeprefix(_PREFIX).partition("/")
        if slash and "/" not in namespace:
            out.setdefault(unquote(connection), {})[unquote(namespace)] = at
    return out


def forget(objects: Objects, connection: str, namespace: str) -> None:
    """Nothing of ours is there."""
    objects.delete([_key(connection, namespace)])
