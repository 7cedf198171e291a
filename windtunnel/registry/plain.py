"""Records of the registry from the server's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Self


class Plain:
    """Base of a dataclass that a newer server may say more about."""

    __slots__ = ()

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """From the server's JSON; unknown keys are ignored."""
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: value for key, value in plain.items() if key in known})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as ``from_dict`` reads them."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]
