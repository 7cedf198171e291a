"""Why a release may not divide or copy requests between its versions: their sealed signatures, compared (ROL-11)."""

from __future__ import annotations

from collections.abc import Callable

from windtunnel.home import Home
from windtunnel.serving import artifacts
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.modelserver import signature


def release_refusals(home: Home | None, release: Release, read: Callable[[str, Arm], bytes] | None = None) -> list[str]:
    """Why candidates of ``release`` do not accept every request its champion accepts; empty when they do.

    Call it before the first ``apply`` of a strategy that divides, copies or redirects requests (canary, rolling, A/B,
    shadow, an audience). A candidate that is refused can still be released: all at once or blue-green, when its
    callers send the new requests. Nothing is fetched but the ``MLmodel`` files; nothing moves. Without a champion there
    is nothing to accept.

    Args:
        home: whose registry and copies are looked into; this process's when None.
        read: another way to an ``MLmodel`` file, by model and version.

    Raises:
        IntegrityError: a file is not what was sealed.
        UnavailableError: a version's source cannot be reached.
        ServingError: its source is none we can read.
    """
    if release.champion is None:
        return []
    look = read or (lambda model, arm: artifacts.read_mlmodel(home or Home.find(), model, arm))
    inputs = {
        arm.version: (signature.parse_signature(look(release.model, arm)) or {}).get("inputs") for arm in release.arms()
    }
    found = []
    for arm in release.candidates:
        features = release.settings.get(arm.version, {}).get("features") or ()
        welcome = [str(feature["name"]) for feature in features]
        reasons = signature.refusals(inputs[release.champion.version], inputs[arm.version], welcome)
        found += [f"version {arm.version}: {reason}" for reason in reasons]
    return found
