"""What no release may ask for, whatever the state of the world: refused before anything moves."""

from __future__ import annotations

import re

from windtunnel.errors import ServingError
from windtunnel.names import check_model_name
from windtunnel.serving.backend import Release
from windtunnel.serving.routing import SLOTS
from windtunnel.serving.traffic.accesslog import SEGMENT
from windtunnel.serving.traffic.counters import OTHER

#: A request header that a release may look at.
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_OURS = "x-windtunnel-"


def check(release: Release) -> None:
    """Refuse what cannot be.

    Raises:
        ServingError: weights that do not sum, a version that stands twice, copies of a candidate's own requests, a
            header or a value that cannot be looked for, segments that cannot be counted.
    """
    _check_weights(release)
    _check_mirror(release)
    _check_headers(release)
    _check_segments(release)


def _check_weights(release: Release) -> None:
    check_model_name(release.model)
    arms = release.arms()
    if len({arm.version for arm in arms}) != len(arms):
        raise ServingError(f"{release.model}: a version stands twice among {[arm.version for arm in arms]}")
    for arm in arms:
        if not arm.version or not arm.version.replace(".", "").replace("_", "").isalnum() or arm.version[0] == ".":
            raise ServingError(f"{release.model}: {arm.version!r} cannot be a version", hint="expected e.g. '3'")
    weights = [arm.weight for arm in arms]
    if any(weight < 0 for weight in weights) or sum(weights) not in (0, SLOTS):
        raise ServingError(
            f"{release.model}: weights {weights} sum to {sum(weights)}",
            hint="expected whole percents that sum to 100, or to 0 when nothing may serve",
        )


def _check_mirror(release: Release) -> None:
    if not 0 <= release.mirror <= SLOTS:
        raise ServingError(f"{release.model}: mirror is {release.mirror}", hint="expected a percent, 0 to 100")
    if release.mirror and (release.champion is None or [arm.weight for arm in release.candidates] != [0]):
        raise ServingError(
            f"{release.model}: mirror needs a champion with all traffic and one candidate without any, found weights "
            f"{[arm.weight for arm in release.arms()]}",
            hint="set mirror to 0 before the candidate gets traffic of its own",
        )


def _check_headers(release: Release) -> None:
    named = {"audience": release.audience[0] if release.audience else None, "segment_header": release.segment_header}
    for what, header in named.items():
        if header is not None and (not _HEADER.fullmatch(header) or header.lower().startswith(_OURS)):
            raise ServingError(
                f"{release.model}: {what} cannot look at header {header!r}",
                hint=f"expected a request header of your own; {_OURS}* is the router's",
            )
    if release.audience and not _is_value(release.audience[1]):
        raise ServingError(
            f"{release.model}: audience cannot look for the value {release.audience[1]!r}",
            hint="expected 1 to 200 printable ASCII characters without space at either end",
        )


def _check_segments(release: Release) -> None:
    bad = [name for name in release.segments if not SEGMENT.fullmatch(name) or name == OTHER]
    if bad or len(set(release.segments)) != len(release.segments) or (release.segments and not release.segment_header):
        raise ServingError(
            f"{release.model}: cannot count segments {list(release.segments)} of header {release.segment_header!r}",
            hint=f"expected different names of letters, digits, '_', '.' and '-', but not {OTHER!r}, and their header",
        )


def _is_value(text: str) -> bool:
    return 1 <= len(text) <= 200 and text.isascii() and text.isprintable() and text == text.strip()
