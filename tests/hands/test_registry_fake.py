"""The registry fake keeps the real registry's rules: the same rollouts, asked of both, get the same answers."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeRegistry, World

from windtunnel.errors import FencedError, RefusedError, WindtunnelError
from windtunnel.evidence import Kind, Outcome, Verdict

_path = Path(__file__).parents[1] / "registry_ext" / "conftest.py"
_spec = importlib.util.spec_from_file_location("registry_server_for_hands", _path)
assert _spec is not None and _spec.loader is not None
_server = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _server
_spec.loader.exec_module(_server)


class Kit:
    """A registry with a model of its own that has three sealed versions, judged by everything but a rollout."""

    def __init__(self, registry: Any, model: str, digests: list[str]) -> None:
        self.registry = registry
        self.model = model
        self.digests = digests

    def open(self, version: str, holder: str = "a") -> Any:
        plan = {"first": False}
        return self.registry.open_rollout(self.model, version, plan=plan, holder=holder, correlation_id="c")

    def judge(self, version: str, outcome: str = "PASS") -> str:
        digest = self.digests[int(version) - 1]
        return str(
            self.registry.post_verdict(
                Verdict(self.model, Kind.ROLLOUT, Outcome(outcome), "as said", digest, version, window=(1.0, 2.0))
            )
        )

    def state(self, version: str) -> str:
        return str(self.registry.version(self.model, version).state)

    def crown(self, version: str) -> None:
        former = self.registry.champion(self.model)
        rollout = self.open(version, f"crown{version}")
        self.judge(version)
        self.registry.promote(rollout.id, rollout.token, former.version if former else None)


@pytest.fixture(scope="module")
def real() -> Iterator[Any]:
    root = Path(tempfile.mkdtemp(prefix="wt-hands-"))
    server = _server.RegistryServer(root)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
def kit(request: pytest.FixtureRequest) -> Iterator[Kit]:
    if request.param == "fake":
        registry = FakeRegistry(World())
        for version in "123":
            registry.register("small", version, f"sha256:{version}")
            registry.judge("small", version, "data-check", "evaluation")
        yield Kit(registry, "small", [f"sha256:{version}" for version in "123"])
        return
    server = request.getfixturevalue("real")
    with server.client() as client, server.rest() as http:
        hands = _server.Hands(http)
        model = hands.model()
        records = [_server.enter(client, hands, model, data=f"sha256:d{n}") for n in range(3)]
        for record in records:
            _server.judge(client, record, "data-check", "evaluation")
        yield Kit(client, model, [record.digest for record in records])


def code(call: Callable[[], Any]) -> str:
    """What a call is refused with."""
    try:
        call()
    except FencedError:
        return "FENCED"
    except RefusedError as error:
        return error.code
    except WindtunnelError as error:
        return getattr(error, "code", type(error).__name__)
    return "done"


def test_opening_is_idempotent_by_holder_and_tokens_rise(kit: Kit) -> None:
    first = kit.open("1")
    assert (first.state, first.champion, first.holder, first.version) == ("running", None, "a", "1")
    again = kit.open("1")
    assert (again.id, again.token) == (first.id, first.token)
    taken = kit.open("1", "b")
    assert (taken.id, taken.holder, taken.champion) == (first.id, "b", None)
    assert taken.token > first.token
    assert code(lambda: kit.open("2")) == "WT_ROLLOUT_RUNNING"
    assert kit.state("1") == "releasing"
    assert kit.registry.pending(kit.model).version == "1", "what was begun comes first"
    assert [one.id for one in kit.registry.rollouts(kit.model)] == [first.id]


def test_a_first_release_is_watched_until_its_holder_says_otherwise(kit: Kit) -> None:
    """DEMAND ROL-10: meanwhile nothing else of the model is released."""
    plan = {"first": True, "steps": [{"weight": 100, "hold_s": 600.0}]}
    first = kit.registry.open_rollout(kit.model, "1", plan=plan, holder="a", correlation_id="c")
    kit.judge("1")
    kit.registry.promote(first.id, first.token, None)
    assert kit.registry.rollout(first.id).watching
    assert code(lambda: kit.open("2")) == "WT_FIRST_WATCH"
    assert not kit.registry.update_rollout(first.id, first.token, state="promoted").watching
    assert kit.open("2").champion == "1"


def test_a_watched_first_release_is_withdrawn_with_its_rollout(kit: Kit) -> None:
    plan = {"first": True, "steps": [{"weight": 100, "hold_s": 600.0}]}
    first = kit.registry.open_rollout(kit.model, "1", plan=plan, holder="a", correlation_id="c")
    kit.judge("1")
    kit.registry.promote(first.id, first.token, None)
    kit.registry.withdraw(kit.model, "1", "errors")
    found = kit.registry.rollout(first.id)
    assert (found.state, found.reason, found.weight, found.watching) == ("withdrawn", "errors", 0, False)
    assert kit.registry.champion(kit.model) is None and kit.open("2").champion is None


def test_a_holder_that_was_taken_over_writes_nothing(kit: Kit) -> None:
    old = kit.open("1")
    kit.open("1", "b")
    for call in (
        lambda: kit.registry.update_rollout(old.id, old.token, state="rolled_back"),
        lambda: kit.registry.promote(old.id, old.token, None),
    ):
        assert code(call) == "FENCED"
    assert kit.registry.rollout(old.id).state == "running"


def test_states_move_as_they_may(kit: Kit) -> None:
    rollout = kit.open("1")
    token = rollout.token

    def move(state: str | None, **more: Any) -> str:
        return code(lambda: kit.registry.update_rollout(rollout.id, token, state=state, **more))

    assert [move(state) for state in ("running", "promoting", "running", "promoting")] == ["done"] * 4
    assert move("promoted") == "WT_STATE"
    found = kit.registry.update_rollout(rollout.id, token, step=1, weight=25, reason="so far")
    assert (found.step, found.weight, found.reason, found.state) == (1, 25, "so far", "promoting")
    assert move("rolled_back") == "done"
    assert kit.state("1") == "rolled_back"
    assert [move("rolled_back"), move(None), move("running"), move("withdrawn")] == [
        "done",
        "done",
        "WT_ENDED",
        "WT_ENDED",
    ]
    ended = kit.open("1")
    assert (ended.id, ended.state) == (rollout.id, "rolled_back"), "the same holder sees how it ended"
    assert kit.registry.pending(kit.model).version == "3"


def test_promotion_is_one_step_and_expects_its_champion(kit: Kit) -> None:
    kit.crown("1")
    assert (kit.registry.champion(kit.model).version, kit.state("1")) == ("1", "champion")
    assert code(lambda: kit.open("1", "z")) == "WT_CHAMPION"
    rollout = kit.open("2")
    assert rollout.champion == "1"
    assert code(lambda: kit.registry.promote(rollout.id, rollout.token, "1")) == "WT_POLICY"
    assert not kit.registry.explain(kit.model, "2").allowed
    kit.judge("2")
    assert kit.registry.explain(kit.model, "2").allowed
    assert code(lambda: kit.registry.promote(rollout.id, rollout.token, "7")) == "WT_CONFLICT"
    assert code(lambda: kit.registry.promote(rollout.id, rollout.token, None)) == "WT_CONFLICT"
    assert kit.registry.champion(kit.model).version == "1"
    for _ in range(2):  # asking again after success is harmless
        assert kit.registry.promote(rollout.id, rollout.token, "1").version == "2"
    assert (kit.state("1"), kit.state("2")) == ("archived", "champion")
    assert kit.registry.rollout(rollout.id).state == "promoted"
    assert code(lambda: kit.registry.update_rollout(rollout.id, rollout.token, state="rolled_back")) == "WT_ENDED"
    assert kit.registry.pending(kit.model).version == "3"


def test_a_closed_rollout_takes_no_commit(kit: Kit) -> None:
    kit.crown("1")
    rollout = kit.open("2")
    kit.judge("2")
    kit.registry.update_rollout(rollout.id, rollout.token, state="rolled_back")
    assert code(lambda: kit.registry.promote(rollout.id, rollout.token, "1")) == "WT_ENDED"
    assert kit.registry.champion(kit.model).version == "1"


def test_the_newest_verdict_counts_and_twice_is_once(kit: Kit) -> None:
    kit.crown("1")
    rollout = kit.open("2")
    assert kit.judge("2") == kit.judge("2")
    kit.judge("2", "INCONCLUSIVE")
    assert code(lambda: kit.registry.promote(rollout.id, rollout.token, "1")) == "WT_POLICY"
    posted = kit.registry.verdicts(kit.model, subject=kit.digests[1], kind="rollout")
    assert [str(one.verdict.outcome) for one in posted] == ["INCONCLUSIVE", "PASS"]
    assert posted[0].verdict.window == (1.0, 2.0)


def test_withdrawing_takes_alias_and_rollout(kit: Kit) -> None:
    kit.crown("1")
    for _ in range(2):
        assert kit.registry.withdraw(kit.model, "1", "harm").state == "withdrawn"
    assert kit.registry.champion(kit.model) is None
    rollout = kit.open("2")
    assert rollout.champion is None
    kit.registry.withdraw(kit.model, "2", "no")
    assert kit.registry.rollout(rollout.id).state == "withdrawn"


def test_what_is_not_there_is_said(kit: Kit) -> None:
    assert code(lambda: kit.registry.version(kit.model, "9")) not in ("done",)
    assert code(lambda: kit.open("9")) not in ("done",)
    assert code(lambda: kit.registry.rollout("nobody")) not in ("done",)
