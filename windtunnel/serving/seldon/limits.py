"""What a release would be refused for by one connection: told by its first task, before anything is written. Pure.

The backend itself refuses what is written to it for the other API (``check_api``), whoever asks.

What no connection could do was refused when the description was read (``windtunnel.spec.seldon``, one table for both
APIs). Here the connection is known: its API, which need not be the description's, and its settings. A version keeps
the serving section that it was registered with, so that is asked about, too.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from windtunnel.errors import ServingError
from windtunnel.serving.seldon import scaling
from windtunnel.spec.mistakes import shown
from windtunnel.spec.seldon import TITLES, unable
from windtunnel.spec.serving import Serving

if TYPE_CHECKING:
    from windtunnel.serving.backend import Release
    from windtunnel.serving.seldon.settings import Seldon
    from windtunnel.spec import Model


def refusals(
    model: Model, seldon: Seldon, kept: Mapping[str, Mapping[str, Any]] | None = None, *, first: bool = False
) -> list[str]:
    """Sentences that name the key, why it cannot be, and what to do; empty when all can be done.

    Args:
        seldon: of the connection.
        kept: by version, the plain serving section that it was registered with.
        first: it is, or may be, the model's first release.
    """
    if (differs := _other_api(model.serving.api, seldon)) is not None:
        return [f"serving.api: the description says {differs}"]
    found = [f"{shown(path)}: {text}" for path, text in unable(model, seldon.api)]
    found += _by_settings(model, seldon)
    if seldon.prometheus is None and (first or model.rollout.exposures(model.serving.replicas)):
        # A look that finds no counters decides nothing, and at its end the step is rolled back.
        watched = "a first release" if first else f"strategy {model.rollout.strategy}"
        found.append(
            f"rollout: {watched} is watched by counts of requests, errors and latency, and the settings of Seldon name "
            "nobody who has them; set prometheus to the URL of the one that scrapes Seldon"
        )
    for version, plain in (kept or {}).items():
        try:
            serving = Serving.model_validate({name: value for name, value in plain.items() if name != "api"})
        except ValidationError as error:
            found.append(f"version {version} was registered with a serving section that cannot be read: {error}")
            continue
        # What gates and copies need of serving.log is the description's to say, and was asked above.
        other = model.model_copy(update={"serving": serving.model_copy(update={"log": model.serving.log})})
        lines = [f"{shown(path)}: {text}" for path, text in unable(other, seldon.api) if path[0] == "serving"]
        lines += [text for text in _by_settings(other, seldon) if text.startswith("serving.")]
        found += [
            f"version {version}, as it was registered: {text}; register it again" for text in lines if text not in found
        ]
    return found


def check_api(release: Release, known: Container[str], seldon: Seldon) -> None:
    """Refuse versions whose serving section names the other API, before anything is written.

    Args:
        known: versions that are deployed here already: they keep what they have, and the way back to them stays open.

    Raises:
        ServingError: it says which.
    """
    for version, found in release.settings.items():
        differs = _other_api((found.get("serving") or {}).get("api"), seldon)
        if differs is not None and version not in known:
            raise ServingError(
                f"{release.model} version {version}: serving.api says {differs}",
                hint="nothing was changed; the backend for another API is made from settings of its own",
            )


def _other_api(api: Any, seldon: Seldon) -> str | None:
    """What to say where a description names another API than the settings are for; None where it does not."""
    if api in (None, seldon.api):
        return None
    return (
        f"{api} ({TITLES.get(api, 'unknown')}), the settings of Seldon say api {seldon.api} ({TITLES[seldon.api]}); "
        "change one of them, or name the connection of the other cluster"
    )


def _by_settings(model: Model, seldon: Seldon) -> Iterator[str]:
    """What the API could do, were its settings others."""
    if model.serving.log and seldon.collector is None and seldon.logger is None:
        yield (
            "serving.log: nobody would collect this model's rows, for the settings of Seldon name no collector; set "
            "collector to its URL, or leave serving.log out, and gates that compare rows"
        )
    if seldon.api == "core1":
        yield from scaling.refusals(model.serving, seldon)
    elif seldon.collector is not None and not model.serving.log and any(step.mirror for step in model.rollout.steps):
        yield (
            "rollout.steps: on Core 2 a collector cannot tell rows of copied requests from users' own; leave mirrored "
            "steps out, or collector out of the settings of Seldon"
        )
    try:
        seldon.image_of(model.serving.environment)
    except ServingError as error:
        yield f"serving.environment: {error.message}; {error.hint}"
