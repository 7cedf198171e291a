"""The client's methods for lineage; part of ``RegistryClient``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any
from urllib.parse import quote

from windtunnel.registry.lineage import Direction, Impact, Lineage


class LineageCalls(ABC):
    """One method per endpoint."""

    @abstractmethod
    def _call(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """One request; its JSON object."""

    def lineage(
        self,
        model: str,
        version: str | int = "champion",
        *,
        direction: Direction = "both",
        depth: int = 3,
        as_of: float | None = None,
        limit: int = 500,
    ) -> Lineage:
        """What a version was made of, and what came of it.

        Args:
            version: the registry's number, the semantic version, ``champion`` or ``latest``.
            direction: ``backward`` (made of), ``forward`` (came of it) or both.
            depth: steps at most, 1 to 100.
            as_of: seconds since the epoch: as it was known then.
            limit: nodes at most in each direction.
        """
        given = {"direction": direction, "depth": depth, "as_of": as_of, "limit": limit}
        path = f"/models/{quote(model, safe='')}/versions/{quote(str(version), safe='')}/lineage"
        return Lineage.from_dict(self._call("GET", path, params=_told(given)))

    def impact(self, of: str, *, as_of: float | None = None, limit: int = 100) -> Impact:
        """Which versions, of any model, were made of a data set, and which champions now and ever.

        Args:
            of: digest of the data, or name or address of its source.
            as_of: seconds since the epoch: as it was known then.
            limit: versions at most, the newest; champions are all there.
        """
        given = {"of": of, "as_of": as_of, "limit": limit}
        return Impact.from_dict(self._call("GET", "/lineage/impact", params=_told(given)))


def _told(given: dict[str, Any]) -> dict[str, str]:
    return {
        key: repr(value) if isinstance(value, float) else str(value)
        for key, value in given.items()
        if value is not None
    }
