"""Who answers behind the gateway, counted: weights that were written are not yet weights that are served.

Seldon's operator and its gateways have kept old routes after a change of weights (seldon-core#4067, #5181), so the
answers themselves are asked: each names the version that gave it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping

from windtunnel import tls
from windtunnel.errors import UnavailableError
from windtunnel.serving.routing import PROBE_HEADER

#: Headers of requests that are nobody's predictions: our server logs none of them, nor does Seldon's executor.
PROBE = {PROBE_HEADER: "1", "Seldon-Skip-Logging": "true"}
#: What gateways say themselves: moved elsewhere, who are you, no such route. No version answers so, nor with 200 and no
#: prediction; what fails (500, 503, also 400) may be one.
_NOBODYS = frozenset({200, 301, 302, 303, 307, 308, 401, 403, 404, 405})
#: How seldom a split that is right may be taken for a wrong one, for each version.
ALPHA = 1e-4


def differs(counts: Mapping[str, int], wanted: Mapping[str, int]) -> str | None:
    """Why these answers cannot come from these weights; None when they can.

    An exact two-sided binomial test for each version (doubled smaller tail), at ``ALPHA``. Answers that were no
    predictions, under ``""``, may be any version's.

    Args:
        counts: answers by version.
        wanted: percent by version.
    """
    total, unknown = sum(counts.values()), counts.get("", 0)

    def said(version: str) -> str:
        return f"version {version} answered {counts.get(version, 0)} of {total} requests"

    versions = sorted({*counts, *wanted} - {""})
    uncalled = [version for version in versions if counts.get(version) and not wanted.get(version)]
    if uncalled:
        return f"{said(uncalled[0])}, it should have none"
    for version in versions:
        seen, share = counts.get(version, 0), wanted.get(version, 0) / 100
        if share == 1 and seen + unknown < total:
            return f"{said(version)}, it should have all"
        if 0 < share < 1 and 2 * min(_at_most(seen + unknown, total, share), _at_least(seen, total, share)) < ALPHA:
            return f"{said(version)}, its weight is {wanted[version]} %"
    return None


def count(
    base: str, model: str, body: bytes, requests: int, timeout_s: float, route: Mapping[str, str] | None = None
) -> Counter[str]:
    """Ask ``requests`` times, each on a connection's next turn; answers by version.

    Answers that are no predictions (a version that fails, a gateway without routes) are under ``""``.

    Args:
        route: headers that the gateway tells the model's requests by, where it does not by their path.

    Raises:
        UnavailableError: nobody answers there, or none of the answers is by a version: then nothing is known of any.
    """
    import httpx

    found: Counter[str] = Counter()
    unknown: Counter[int] = Counter()
    url = f"{base.rstrip('/')}/v2/models/{model}/infer"
    headers = {"Content-Type": "application/json", **PROBE, **(route or {})}
    # Reading the authorities takes longer than most counts; plain http has no use for them.
    verify = url.startswith("https:") and tls.authorities()
    with httpx.Client(timeout=timeout_s, trust_env=False, verify=verify) as client:
        for _ in range(requests):
            try:
                answer = client.post(url, content=body, headers=headers)
            except httpx.HTTPError as error:
                raise UnavailableError(
                    f"the gateway at {base} does not answer: {error!r}", hint="is the address the one callers use?"
                ) from error
            version = version_of(answer.status_code, answer.content)
            found[version] += 1
            if not version:
                unknown[answer.status_code] += 1
    if requests and sum(unknown.values()) == requests and unknown.keys() <= _NOBODYS:
        told = ", ".join(f"{number} times {status}" for status, number in unknown.most_common())
        raise UnavailableError(
            f"no version answers at {url}: {told}",
            hint="is the gateway's address the one callers use? It is asked without credentials; where it wants some, "
            "leave gateway out: weights are then believed as they were written",
        )
    return found


def version_of(status: int, body: bytes) -> str:
    """Which version an answer of the Open Inference Protocol is by; empty where it is no prediction."""
    if status != 200:
        return ""
    try:
        return str(json.loads(body)["model_version"])
    except (ValueError, KeyError, TypeError):
        return ""


def _at_most(seen: int, total: int, share: float) -> float:
    return sum(_chance(k, total, share) for k in range(seen + 1))


def _at_least(seen: int, total: int, share: float) -> float:
    return sum(_chance(k, total, share) for k in range(seen, total + 1))


def _chance(k: int, n: int, p: float) -> float:
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))
