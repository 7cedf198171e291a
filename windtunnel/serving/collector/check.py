"""``python -m windtunnel.serving.collector.check URL``: does a collector answer, and only to those it should?

Nothing is left behind: what is sent is refused, or is an event that is none of a prediction.
"""

from __future__ import annotations

import argparse
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from windtunnel.serving.collector import guests, homes
from windtunnel.serving.collector.events import FEEDBACK
from windtunnel.serving.collector.guests import Batch


def problems(url: str, token: str | None, *, open_events: bool, verify: Any = True, wait_s: float = 60.0) -> list[str]:
    """What is wrong; empty when nothing is.

    Args:
        token: that of senders; None where senders show certificates.
        open_events: events need no token.
        verify: as httpx takes it.
        wait_s: until it is ready.
    """
    import httpx

    bearer = {"authorization": f"Bearer {token}"} if token else {}
    event = {"ce-id": "check", "ce-source": "check", "ce-type": FEEDBACK, "content-type": "application/json"}
    end = time.monotonic() + wait_s
    with httpx.Client(base_url=url, timeout=10, verify=verify, trust_env=False) as client:
        while True:
            try:
                ready = client.get("/readyz")
                why = "" if ready.status_code == 200 else ready.text[:300]
            except httpx.HTTPError as error:
                why = repr(error)
            if not why:
                break
            if time.monotonic() > end:
                return [f"{url} is not ready: {why}"]
            time.sleep(1)
        found = []
        told = client.post("/v1/events", content=b"{}", headers=event | ({} if open_events else bearer))
        if told.status_code != 202:
            found.append(f"an event is answered {told.status_code}: {told.text[:300]}")
        told = client.put("/v1/marks/check/0-0.json", content=b"{}", headers=bearer)
        if told.status_code != 400:
            found.append(f"the token is answered {told.status_code}: {told.text[:300]}")
        if token is not None and client.put("/v1/marks/check/0-0.json", content=b"{}").status_code != 401:
            found.append("a sender without a token is let in")
        if "windtunnel_collector_flush_problem 0" not in client.get("/metrics").text:
            found.append("its last publication failed: see its log")
    return found


def strangers(each: Mapping[str, str], token: str | None, *, verify: Any = True) -> list[str]:
    """Which of several collectors do not answer by their own name, or do not take what another hands to them.

    Args:
        each: name -> URL of the one collector.
        token, verify: as for ``problems``.
    """
    import httpx

    found = []
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(timeout=10, verify=verify, trust_env=False) as client:
        for name, url in each.items():
            try:
                body = guests.written(Batch("check", name, ()))
                told = client.post(f"{url}/v1/halves", content=body, headers=headers)
            except httpx.HTTPError as error:
                found.append(f"collector {name}: {url}: {error!r}")
                continue
            if told.status_code != 202:
                found.append(f"collector {name}: {url} answers {told.status_code}: {told.text[:300]}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m windtunnel.serving.collector.check", description=main.__doc__)
    parser.add_argument("url")
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--open-events", action="store_true")
    parser.add_argument("--ca", type=Path)
    parser.add_argument("--wait", type=float, default=60.0)
    parser.add_argument("--each", action="append", default=[], help="NAME=URL of each of several collectors")
    given = parser.parse_args()
    token = given.token_file.read_text(encoding="utf-8").strip() if given.token_file else None
    verify: Any = ssl.create_default_context(cafile=str(given.ca)) if given.ca else True
    found = problems(given.url, token, open_events=given.open_events, verify=verify, wait_s=given.wait)
    found += strangers(homes.peers(given.each, ""), token, verify=verify)
    for one in found:
        print(one, file=sys.stderr)
    if not found:
        print(f"{given.url} answers as it should")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
