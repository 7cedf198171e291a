"""Members asking for their prediction through a cluster's gateway, at a steady rate, until they are told to stop.

``python -m windtunnel_examples.visits.callers URL --rate 25`` prints, every few seconds, one JSON line with all that
was answered so far: ``{"sent": 120, "no_answer": 0, "by_version": {"1": {"200": 117}, "": {"503": 3}}}``. Answers
that name no version are under the empty name.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

from windtunnel_examples.visits.traffic import Population, request_body

if TYPE_CHECKING:
    import httpx

TELL_S = 5.0
TIMEOUT_S = 15.0
#: Requests under way; above that nobody else asks, as people who wait do.
MOST = 64


class Callers:
    """The loop.

    Args:
        url: where requests go: the model's path behind the gateway, with ``/v2/models/MODEL/infer``.
        rate: requests a second.
        tell: takes each line.
    """

    def __init__(self, url: str, rate: float, tell: Any = print) -> None:
        self._url, self._rate, self._tell = url, rate, tell
        self._people = Population()
        self.sent = self.no_answer = 0
        self.by_version: dict[str, Counter[int]] = {}
        self.stopped = asyncio.Event()

    def told(self) -> dict[str, Any]:
        """All that was answered so far."""
        answered = {version: {str(code): n for code, n in found.items()} for version, found in self.by_version.items()}
        return {"sent": self.sent, "no_answer": self.no_answer, "by_version": answered}

    async def run(self) -> None:
        """Until ``stopped`` is set."""
        import httpx

        loop = asyncio.get_running_loop()
        flying: set[asyncio.Task[None]] = set()
        due = last = loop.time()
        async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=httpx.Limits(max_connections=MOST)) as client:
            while not self.stopped.is_set():
                if len(flying) < MOST:
                    task = asyncio.create_task(self._ask(client))
                    flying.add(task)
                    task.add_done_callback(flying.discard)
                # A machine that stalled does not get the missed requests all at once.
                due = max(due + 1 / self._rate, loop.time() - 1.0)
                await asyncio.sleep(max(0.0, due - loop.time()))
                if loop.time() - last >= TELL_S:
                    last = loop.time()
                    self._say()
            await asyncio.gather(*flying, return_exceptions=True)
        self._say()

    def _say(self) -> None:
        self._tell(json.dumps(self.told()), flush=True)

    async def _ask(self, client: httpx.AsyncClient) -> None:
        import httpx

        row, _ = self._people.draw(0.0)
        self.sent += 1
        try:
            answer = await client.post(self._url, json=request_body(row))
        except httpx.HTTPError:
            self.no_answer += 1
            return
        self.by_version.setdefault(version_of(answer), Counter())[answer.status_code] += 1


def version_of(answer: httpx.Response) -> str:
    """The version that an answer names; empty where it names none."""
    try:
        found = answer.json()
    except ValueError:
        return ""
    return str(found.get("model_version") or "") if isinstance(found, dict) else ""


async def _main(url: str, rate: float) -> None:
    callers = Callers(url, rate)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, callers.stopped.set)
    await callers.run()


def main() -> None:
    parser = argparse.ArgumentParser(description="Members asking for their prediction.")
    parser.add_argument("url", help="http://GATEWAY/.../v2/models/visits/infer")
    parser.add_argument("--rate", type=float, default=25.0, help="requests a second")
    asked = parser.parse_args()
    asyncio.run(_main(asked.url, asked.rate))


if __name__ == "__main__":
    main()
