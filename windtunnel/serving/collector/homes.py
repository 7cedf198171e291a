"""Which of several collectors is at home for a prediction. Pure: every replica finds the same one, and asks nobody.

Rendezvous hashing (Thaler and Ravishankar, 1998): of all names the one whose hash with the prediction is greatest. When
a replica comes or goes, only its own predictions get another home.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from windtunnel.errors import DescriptionError
from windtunnel.serving.predictions import publish


def home(pair: tuple[str, ...], names: Iterable[str]) -> str:
    """The one of ``names`` where the halves of a prediction meet.

    Args:
        pair: what both halves share.
        names: of the collectors; at least one.
    """
    told = "\0".join(pair)
    return max(names, key=lambda name: (hashlib.blake2b(f"{name}\0{told}".encode(), digest_size=8).digest(), name))


def peers(told: Iterable[str], instance: str) -> Mapping[str, str]:
    """``NAME=URL`` of each collector as the others' addresses by name.

    Args:
        told: may name this collector, too, so that all can be given the same list.
        instance: this collector's name.

    Raises:
        DescriptionError: naming what is no such thing, or is there twice.
    """
    found: dict[str, str] = {}
    for one in told:
        name, _, url = one.partition("=")
        if not name or publish.safe(name) != name or not url.startswith(("http://", "https://")):
            raise DescriptionError(f"peer {one!r}: expected NAME=http://HOST:PORT or NAME=https://HOST:PORT")
        if name in found:
            raise DescriptionError(f"peer {name!r} is there twice", hint="each collector has a name of its own")
        found[name] = url.rstrip("/")
    found.pop(publish.safe(instance), None)
    return found
