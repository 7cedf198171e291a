"""The client's methods for adopting, restoring and cleaning; part of ``RegistryClient``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote


class KeepingCalls(ABC):
    """One method per endpoint."""

    @abstractmethod
    def _call(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """One request; its JSON object."""

    def deleted(self, model: str | None = None) -> list[dict[str, Any]]:
        """Deleted versions, the last first: ``model``, ``version``, ``semver``, ``deleted_at``, ``by``, ``until`` (when
        they can be brought back), ``purged_at``, and ``why`` not."""
        return list(self._call("GET", "/deleted", params={"model": model} if model else None)["versions"])

    def restore(self, model: str, version: str | int | None, reason: str) -> dict[str, Any]:
        """Bring a deleted version back; with None a deleted model, and the versions that were deleted with it.

        Returns:
            The version; of a model ``{"model", "versions", "lost"}``.

        Raises:
            RefusedError: WT_ROLE; WT_RETENTION where it cannot be brought back any more; WT_RESTORE where there is a
                model of that name again.
        """
        part = "" if version is None else f"/versions/{quote(str(version), safe='')}"
        return self._call("POST", f"/models/{quote(model, safe='')}{part}/restore", json={"reason": reason})

    def purge(self, *, dry_run: bool = False) -> dict[str, Any]:
        """Remove files of deleted versions whose retention has ended: ``{"purged": [{"model", "version", "location",
        "removed"}], "left"}``."""
        return self._call("POST", "/purge", json={"dry_run": dry_run}, timeout=120.0)

    def collect(self, *, dry_run: bool = False) -> dict[str, Any]:
        """Remove folders of the artifact store that belong to no run and no logged model, when they are a week old:
        ``{"collected": [{"path", "bytes"}], "left"}``."""
        return self._call("POST", "/collect", json={"dry_run": dry_run}, timeout=120.0)

    def agreement(self, model: str | None = None) -> list[dict[str, Any]]:
        """Where MLflow's tables say otherwise than the registry's history: somebody went past the server. Each has
        ``model``, ``version``, ``what``, ``found``, ``expected`` and ``do``."""
        return list(self._call("GET", "/agreement", params={"model": model} if model else None)["differences"])

    def mend(self, model: str, reason: str) -> dict[str, Any]:
        """Set MLflow's alias champion, stage Production and sources as the history says.

        Returns:
            ``{"mended", "left"}``, differences as of ``agreement``.

        Raises:
            RefusedError: WT_ROLE: it takes an administrator.
        """
        return self._call("POST", f"/models/{quote(model, safe='')}/mend", json={"reason": reason})

    def adoption(self) -> list[dict[str, Any]]:
        """Models with versions that plain MLflow registered: ``{"model", "versions": how many are not ours yet}``."""
        return list(self._call("GET", "/adoption")["models"])

    def adopt(
        self,
        model: str,
        *,
        dry_run: bool = False,
        pickle: bool = False,
        trust: Iterable[str] = (),
        again: bool = True,
        after: int = 0,
    ) -> dict[str, Any]:
        """Take over a page of a model's versions that plain MLflow registered, and at the last page its champion.

        Args:
            dry_run: only say what would be taken over.
            pickle, trust: what the files may hold, as ``training.pickle`` and ``training.trust`` of a description.
            again: give those another try that could not be sealed.
            after: go on behind this version: ``next`` of the last answer.

        Returns:
            ``{"model", "versions": [{"version", "outcome", "reason", "semver"}], "next", "champion",
            "champion_reason"}``; an outcome is ``adopted``, ``would-adopt``, ``pending`` (ask again, with ``again``
            False) or ``refused``. ``next`` is None at the last page.

        Raises:
            RefusedError: WT_ROLE: it takes an administrator.
        """
        formats = {"pickle": pickle, "trust": list(trust)}
        body = {"dry_run": dry_run, "formats": formats, "again": again, "after": after}
        return self._call("POST", f"/models/{quote(model, safe='')}/adopt", json=body, timeout=120.0)
