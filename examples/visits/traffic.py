"""Members asking for their prediction, at a steady rate, one request each; their outcome follows late.

``python -m windtunnel_examples.visits.traffic`` runs until it is told to stop (SIGTERM) and obeys
``HOME/demo/traffic.json``: ``{"rate": requests per second, "cost_sharing": share of members from those plans,
"record": whether outcomes enter the team's table}``. What it saw is kept in ``HOME/demo/answers.json``.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel import files
from windtunnel.home import Home
from windtunnel.stackfile import StackFile
from windtunnel_examples.visits import data

if TYPE_CHECKING:
    import httpx
    import pandas as pd

MODEL = "visits"
LABEL_DELAY_S = 5.0
LABEL_BATCH_S = 3.0
TIMEOUT_S = 15.0
#: Members who wait at the same time; no other asks before one has its answer. Every request costs the client a look at
#: each that is under way, so hundreds of them, where a model is slow, would take a core from the model.
AT_ONCE = 16


def control_file(home: Home) -> Path:
    return home.root / "demo" / "traffic.json"


def answers_file(home: Home) -> Path:
    return home.root / "demo" / "answers.json"


def table_folder(home: Home) -> Path:
    return home.root / "demo" / MODEL


def request_body(row: dict[str, float]) -> dict[str, Any]:
    """One member as an Open Inference Protocol request: one tensor per feature."""
    return {
        "parameters": {"content_type": "pd"},
        "inputs": [{"name": name, "shape": [1, 1], "datatype": "FP64", "data": [row[name]]} for name in data.FEATURES],
    }


@dataclass(frozen=True)
class Control:
    """What the demo asks of the traffic.

    Outcomes are recorded only once the cost-sharing members have joined: until then the table holds the history
    alone, so that no version is ever trained on a row that is replayed to it.
    """

    rate: float = 0.0
    cost_sharing: float = 0.0
    record: bool = False


@dataclass
class Answers:
    """What the callers saw: answers by version and status."""

    by_version: dict[str, Counter[int]] = field(default_factory=dict)
    no_answer: int = 0

    def count(self, version: str, status: int) -> None:
        self.by_version.setdefault(version, Counter())[status] += 1

    def to_dict(self) -> dict[str, Any]:
        return {"no_answer": self.no_answer, "by_version": {v: dict(c) for v, c in self.by_version.items()}}


class Population:
    """Rows never trained on, free plan and cost sharing, in turn; the free plan starts again when it is through.

    An outcome enters the team's table once, however often a row is replayed.
    """

    def __init__(self, seed: int = 11) -> None:
        import numpy as np

        _, self._free, self._cost_sharing = data.populations()
        self._random = np.random.default_rng(seed)
        self._at = {"free": 0, "cost_sharing": 0}

    def draw(self, cost_sharing: float) -> tuple[dict[str, float], bool]:
        """(row, first time it is seen)."""
        kind = "cost_sharing" if self._random.random() < cost_sharing else "free"
        rows: pd.DataFrame = self._cost_sharing if kind == "cost_sharing" else self._free
        index = self._at[kind]
        self._at[kind] += 1
        return rows.iloc[index % len(rows)].to_dict(), index < len(rows)


class Traffic:
    """The loop: send, remember, hand in the outcomes when they are due."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.url = f"{StackFile.read(home).urls['inference']}/v2/models/{MODEL}/infer"
        self.people = Population()
        self.answers = Answers()
        self.due: deque[tuple[float, str | None, dict[str, float], bool]] = deque()
        self.stopped = asyncio.Event()

    def control(self) -> Control:
        try:
            return Control(**json.loads(control_file(self.home).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Control()

    async def run(self) -> None:
        import httpx

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopped.set)
        limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
        async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits) as client:
            clerk = asyncio.create_task(self._hand_in_outcomes())
            flying: set[asyncio.Task[None]] = set()
            due = loop.time()
            while not self.stopped.is_set():
                told = self.control()
                if told.rate <= 0:
                    due = loop.time() + 0.2
                else:
                    if len(flying) < AT_ONCE:
                        row, fresh = self.people.draw(told.cost_sharing)
                        task = asyncio.create_task(self._ask(client, row, fresh and told.record))
                        flying.add(task)
                        task.add_done_callback(flying.discard)
                    # A machine that stalled does not get the missed requests all at once.
                    due = max(due + 1 / told.rate, loop.time() - 1.0)
                await asyncio.sleep(max(0.0, due - loop.time()))
            await asyncio.gather(*flying, return_exceptions=True)
            await clerk

    async def _ask(self, client: httpx.AsyncClient, row: dict[str, float], record: bool) -> None:
        import httpx

        sent = time.time()
        try:
            answer = await client.post(self.url, json=request_body(row))
        except httpx.HTTPError:
            self.answers.no_answer += 1
            return
        self.answers.count(answer.headers.get("x-windtunnel-version", "-"), answer.status_code)
        prediction_id = None
        if answer.status_code == 200:
            prediction_id = answer.json()["parameters"]["prediction_ids"][0]
        self.due.append((sent, prediction_id, row, record))

    async def _hand_in_outcomes(self) -> None:
        """Labels for the prediction log, and rows for the team's table, some seconds after the request."""
        while not self.stopped.is_set():
            try:
                await asyncio.wait_for(self.stopped.wait(), LABEL_BATCH_S)
            except TimeoutError:
                pass
            ready = []
            while self.due and self.due[0][0] < time.time() - LABEL_DELAY_S:
                ready.append(self.due.popleft())
            if ready:
                await asyncio.to_thread(self._write_outcomes, ready)
            files.write_json(answers_file(self.home), self.answers.to_dict(), durable=False, parents=True)

    def _write_outcomes(self, ready: list[tuple[float, str | None, dict[str, float], bool]]) -> None:
        import pandas as pd

        from windtunnel.serving.predictions.labels import Labels

        labels = [
            {"prediction_id": pid, "label": row[data.TARGET], "label_time": sent, "revision": 0, "source": "claims"}
            for sent, pid, row, _ in ready
            if pid is not None
        ]
        if labels:
            Labels(self.home.labels).append(MODEL, labels)
        known = [{**row, "time": sent} for sent, _, row, record in ready if record]
        if known:
            frame = pd.DataFrame(known)
            frame["time"] = pd.to_datetime(frame["time"], unit="s", utc=True)
            data.append_outcomes(table_folder(self.home), frame)


def main() -> None:
    asyncio.run(Traffic(Home.find()).run())


if __name__ == "__main__":
    main()
