"""All looks of releases in a cluster, in the object store: one object each, ``looks/MODEL/ROLLOUT/000001.json``.

What a release goes on from stands on the model's object (``seldon.journal``). This is for whoever wants to make its
decisions again, so a store that does not answer holds no release up: that look is missing here, and said to be.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from windtunnel import canonical
from windtunnel.errors import WindtunnelError
from windtunnel.names import check_model_name

if TYPE_CHECKING:
    from windtunnel.data.objects import Objects

log = logging.getLogger(__name__)


class LookArchive:
    """Looks in one object store."""

    def __init__(self, store: Objects) -> None:
        self._store = store

    def put(self, model: str, rollout_id: str, number: int, look: Mapping[str, Any]) -> None:
        """Keep a look; the same one again is the same object."""
        try:
            self._store.put_bytes(_key(model, rollout_id, number), canonical.dumps(dict(look)))
        except WindtunnelError as error:
            log.warning("look %d of rollout %s is not kept: %s", number, rollout_id, error.message)

    def looks(self, model: str, rollout_id: str) -> list[dict[str, Any]]:
        """Those that were kept, oldest first.

        Raises:
            UnavailableError: the store does not answer.
            DataError: it refuses.
        """
        keys = sorted(self._store.sizes(f"looks/{check_model_name(model)}/{rollout_id}/"))
        found = (self._store.get_bytes(key) for key in keys)
        return [canonical.loads(data) for data in found if data is not None]


def _key(model: str, rollout_id: str, number: int) -> str:
    return f"looks/{check_model_name(model)}/{rollout_id}/{number:06d}.json"
