"""Many clients at once promote, approve and read: nothing is lost or doubled, one champion at every instant (REG-4).

A sample of some seconds in every run; five minutes with fifty clients where long tests run. On PostgreSQL, which has
more than one writer, with a server of its own.
"""

from __future__ import annotations

import itertools
import random
import secrets
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import RefusedError, WindtunnelError
from windtunnel.evidence import auditcheck, entry
from windtunnel.registry.client import RegistryClient

pytestmark = pytest.mark.real

MODELS, VERSIONS = 2, 3
#: What may be answered to whoever comes second; anything else is a fault.
BEATEN = {
    "FencedError",
    "WT_EVIDENCE",
    "WT_CONFLICT",
    "WT_FENCED",
    "WT_ROLLOUT_RUNNING",
    "WT_ENDED",
    "WT_CHAMPION",
    "WT_POLICY",
    "WT_STATE",
}


@pytest.fixture(scope="module")
def server(postgres: str, helpers: Any) -> Iterator[Any]:
    root = Path(tempfile.mkdtemp(prefix="wt-crowd-"))
    found = helpers.RegistryServer(root, postgres)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        shutil.rmtree(root, ignore_errors=True)


@dataclass
class Story:
    """What the clients did, and what they saw."""

    #: (model, version) of every promotion that was answered as done.
    promoted: list[tuple[str, str]] = field(default_factory=list)
    #: (model, key) of every approval that was answered as taken.
    approved: list[tuple[str, str]] = field(default_factory=list)
    beaten: Counter[str] = field(default_factory=Counter)
    reads: int = 0
    wrong: list[str] = field(default_factory=list)


def crowd(server: Any, helpers: Any, clients: int, seconds: float) -> None:
    story, models = Story(), []
    with server.client() as client, server.rest() as http, server.rest("admin") as boss:
        hands = helpers.Hands(http)
        name, password = f"olga-{secrets.token_hex(3)}", secrets.token_urlsafe(18)
        boss.post("/api/2.0/mlflow/users/create", json={"username": name, "password": password})
        granted = boss.put(f"/api/windtunnel/v1/people/{name}/roles", json={"roles": ["approver"]})
        assert granted.status_code == 200, granted.text
        for _ in range(MODELS):
            model = hands.model()
            models.append(model)
            for number in range(VERSIONS):
                record = helpers.enter(client, hands, model, data=f"sha256:d{number}")
                helpers.judge(client, record, "data-check", "evaluation", "rollout")
            first = client.open_rollout(model, 1, plan={}, holder="first", correlation_id="c")
            client.promote(first.id, first.token, None)
        before = {model: len(client.champion_history(model)) for model in models}

    end = time.monotonic() + seconds
    lock = threading.Lock()

    def promote(mine: RegistryClient, rng: random.Random) -> None:
        model, version = rng.choice(models), str(rng.randint(1, VERSIONS))
        rollout = mine.open_rollout(model, version, plan={}, holder=secrets.token_hex(8), correlation_id="c")
        champion = mine.champion(model)
        assert champion is not None
        mine.promote(rollout.id, rollout.token, champion.version)
        with lock:
            story.promoted.append((model, version))

    def approve(mine: RegistryClient, rng: random.Random) -> None:
        model, version = rng.choice(models), rng.randint(1, VERSIONS)
        key, seen = secrets.token_hex(8), mine.explain(model, version)
        mine.approve(model, version, f"looked at it {key}", digest=seen.digest, evidence=seen.evidence, key=key)
        with lock:
            story.approved.append((model, key))

    def read(mine: RegistryClient, rng: random.Random) -> None:
        model = rng.choice(models)
        champions = [v.version for v in mine.versions(model) if v.state == "champion"]
        now = mine.champion(model)
        with lock:
            story.reads += 1
            if len(champions) != 1 or now is None or now.stage != "Production":
                story.wrong.append(f"{model}: champions {champions}, asked again {now}")

    def client_of(number: int) -> None:
        rng = random.Random(number)
        who = (name, password) if number % 5 == 0 else ("service", server_secret)
        kind: Callable[[RegistryClient, random.Random], None] = (
            approve if number % 5 == 0 else promote if number % 5 < 3 else read
        )
        # All want the same two models, so on a busy machine the last of fifty waits longer than a client would.
        with RegistryClient(server.url, *who, timeout=120) as mine:
            while time.monotonic() < end:
                try:
                    kind(mine, rng)
                except RefusedError as refused:
                    with lock:
                        story.beaten[refused.code] += 1
                except WindtunnelError as error:
                    code = getattr(error, "code", "") or type(error).__name__
                    with lock:
                        story.beaten[code] += 1
                        if code not in BEATEN:
                            story.wrong.append(str(error))
                except Exception as error:
                    with lock:
                        story.wrong.append(repr(error))

    server_secret = (server.home.secrets / "mlflow-service").read_text(encoding="utf-8").strip()
    threads = [threading.Thread(target=client_of, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert story.wrong == []
    assert set(story.beaten) <= BEATEN, story.beaten
    assert story.reads and story.promoted and story.approved, story
    with server.client() as client:
        for model in models:
            history = client.champion_history(model)
            mine = Counter(version for which, version in story.promoted if which == model)
            told = Counter(row.version for row in history[before[model] :])
            # None is lost and none doubled. Who takes a rollout over while its former holder promotes it is answered
            # that it is done as well, so there may be more answers than promotions.
            assert told <= mine and set(told) == set(mine), (model, told, mine)
            assert [row.until for row in history].count(None) == 1
            for former, later in itertools.pairwise(history):
                assert former.until == later.since, "two champions at once, or none"
            done = client.audit(model, 10_000, outcome="done")
            assert sum(row.action == "promote" for row in done) == len(history), model
            approvals = [row for number in range(1, VERSIONS + 1) for row in client.approvals(model, number)]
            assert len(approvals) == sum(which == model for which, _ in story.approved)
            assert sum(row.action == "approve" for row in done) == len(approvals)
        rows = list(client.audit_log())
    report = auditcheck.check([entry.line(row) for row in rows], [])
    assert (report.broken, report.entries) == (0, len(rows)), report


def test_a_dozen_clients_for_some_seconds(server: Any, helpers: Any) -> None:
    """DEMAND REG-9: a sample of the five minutes below."""
    crowd(server, helpers, clients=12, seconds=8)


@pytest.mark.long
def test_fifty_clients_for_five_minutes(server: Any, helpers: Any) -> None:
    """DEMAND REG-9: fifty at once, promoting, approving and reading."""
    crowd(server, helpers, clients=50, seconds=300)
