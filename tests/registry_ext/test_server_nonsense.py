"""Whatever is sent to ``/api/windtunnel/v1``: no answer is a fault of the server, and every refusal has our form.

Every route that the app has, with random bodies and parameters of fixed seed; what an endpoint does with good ones is
tested where it belongs.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any, cast
from unittest.mock import MagicMock

import httpx
import pytest

from windtunnel.registry.client import RegistryClient

pytestmark = pytest.mark.real

PREFIX = "/api/windtunnel/v1"
NAMES = re.findall(
    r"\w+",
    "source run_id model_id key recipe semver parent cause correlation_id version holder plan token state step weight "
    "reason expected_champion policy to decision digest evidence answer kind by scope target roles note",
)
VALUES = (
    None, "", 0, -1, 1, 2**70, 1.5, True, [], {}, "x" * 3000, "\x00", "späß", ["a"], {"a": 1}, "NaN", float("inf"),
    "2", [[]], "approve", "paused", "all",
)  # fmt: skip
PARAMETERS = ("limit", "since", "until", "after", "kind", "model", "actor", "subject", "version", "to", "at", "lifted")
TOLD = ("", "x", "-1", "³", "9" * 20, "0", "now", "nan", "inf", "1e400", "\x00", "production")


def routes() -> list[tuple[str, str]]:
    """Method and rule of every endpoint, as the app itself has them; nothing in it is called."""
    from windtunnel_mlflow.api.routes import create_api

    rules = create_api(cast("Any", MagicMock())).url_map.iter_rules()
    found = {(method, rule.rule) for rule in rules for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}}
    return sorted(row for row in found if "static" not in row[1])


def path(rng: random.Random, rule: str, model: str, rollout: str) -> str:
    def chosen(match: re.Match[str]) -> str:
        if "int:" in match[0]:
            return rng.choice(("1", "2", "0", "9" * 20))
        return rng.choice((model, rollout, "nope", "%00", "a" * 300, "³", "9" * 20))

    return PREFIX + re.sub(r"<[^>]+>", chosen, rule)


def sound(answer: httpx.Response) -> bool:
    if answer.status_code >= 400:
        body = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        return answer.status_code < 500 and {"error_code", "message", "missing", "hint"} <= set(body)
    return True


def test_no_request_is_a_fault_of_the_server(
    registry_server: Any, service: RegistryClient, hands: Any, helpers: Any
) -> None:
    model = hands.model()
    helpers.enter(service, hands, model)
    record = helpers.enter(service, hands, model)
    helpers.judge(service, record, "data-check", "evaluation")
    rollout = service.open_rollout(model, record.version, plan={}, holder="h", correlation_id="c")
    rng, faults = random.Random(20_261_121), []
    found = [row for row in routes() if not row[1].startswith(("/people", "/policy", "/freezes"))]
    assert len(found) > 50
    for method, rule in found * 2:
        body = {name: rng.choice(VALUES) for name in rng.sample(NAMES, rng.randint(3, 18))}
        sent: Any = body if rng.random() < 0.9 else rng.choice(VALUES)
        params = {name: rng.choice(TOLD) for name in rng.sample(PARAMETERS, 4)}
        url = path(rng, rule, model, rollout.id)
        more: dict[str, Any] = {}
        if method != "GET":
            more = {"content": json.dumps(sent), "headers": {"Content-Type": "application/json"}}
        answer = hands.http.request(method, url, params=params, **more)
        if not sound(answer):
            faults.append((method, url, params, more, answer.status_code, answer.text[:300]))
    assert not faults, "\n".join(map(str, faults))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/models/a%00b/versions", "NUL"),
        ("/orders?since=99999999999", "at most"),
        ("/orders?since=inf", "whole number"),
    ],
)
def test_what_no_table_can_hold_is_said(service: RegistryClient, hands: Any, url: str, said: str) -> None:
    answer = hands.http.get(PREFIX + url)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "WT_REQUEST")
    assert said in answer.json()["message"]
