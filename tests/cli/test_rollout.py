"""DEMAND ROL-8, ROL-6: a person at the command line, against a real registry and the files beside the traffic."""

from __future__ import annotations

import importlib.util
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from windtunnel.cli.app import app
from windtunnel.home import Home
from windtunnel.registry.client import RegistryClient
from windtunnel.rollout import Evidence, Plan, RolloutState, decide, look_record
from windtunnel.rollout.evidence import ArmCounters, Counters
from windtunnel.serving import desired
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.release import knownorders, outbox
from windtunnel.serving.release.looklog import LookLog
from windtunnel.spec import Rollout
from windtunnel.stackfile import StackFile
from windtunnel.stats.histogram import Histogram, bucket

pytestmark = pytest.mark.real

STEPS = [{"weight": 10, "hold": "5s", "min_requests": 5}, {"weight": 50, "hold": "5s", "min_requests": 5}]
PLAN = Plan.from_spec(
    Rollout.model_validate({"steps": STEPS, "gates": [{"metric": "errors", "margin": 0.02}], "prove": "no_harm"}),
    False,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A governed server (from the registry's own tests) whose home knows its address, and two ordinary users."""
    path = Path(__file__).parents[1] / "registry_ext" / "conftest.py"
    spec = importlib.util.spec_from_file_location("registry_conftest", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.RegistryServer(tmp_path_factory.mktemp("registry") / "home")
    made.start()
    made.home.stack_file.write_text(StackFile(str(made.home.root), {}, {"mlflow": made.url}, {}).to_json())
    made.tests = module
    made.passwords = {}
    with made.rest("admin") as http:
        for name in ("ada", "rob"):
            made.passwords[name] = secrets.token_urlsafe(18)
            body = {"username": name, "password": made.passwords[name]}
            assert http.post("/api/2.0/mlflow/users/create", json=body).status_code == 200
    yield made
    made.stop()


@pytest.fixture
def service(server: Any) -> Iterator[RegistryClient]:
    with server.client() as client:
        yield client


@pytest.fixture
def rollout(server: Any, service: RegistryClient) -> Any:
    """An open rollout of version 2 against champion 1 of a model that ``ada`` may edit."""
    import httpx

    auth = ("ada", server.passwords["ada"])
    with httpx.Client(base_url=server.url, auth=auth, timeout=20, trust_env=False) as http:
        model = server.tests.Hands(http).model()
    with server.rest() as http:
        hands = server.tests.Hands(http)
        server.tests.crown(service, hands, model)
        record = server.tests.enter(service, hands, model)
    opened = service.open_rollout(
        model, record.version, plan={**PLAN.to_dict(), "owner": "team-blue"}, holder="h", correlation_id="c"
    )
    return service.update_rollout(opened.id, opened.token, step=0, weight=10)


@pytest.fixture
def run(server: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command as a person: the administrator of the stack, or an ordinary user."""

    def command(*words: str, as_user: str | None = None, home: Path | None = None, **env: str) -> Result:
        given = {"WINDTUNNEL_HOME": str(home or server.home.root), **env}
        if as_user:
            given |= {"WINDTUNNEL_USERNAME": as_user, "WINDTUNNEL_PASSWORD": server.passwords[as_user]}
        return CliRunner().invoke(app, ["rollout", *words], env=given)

    for name in ("WINDTUNNEL_USERNAME", "WINDTUNNEL_PASSWORD", "WINDTUNNEL_REGISTRY_URL"):
        monkeypatch.delenv(name, raising=False)
    return command


def done(result: Result) -> Any:
    """The JSON a command printed."""
    assert result.exception is None, (result.exception, result.stderr)
    return json.loads(result.stdout)


def looks(home: Home, model: str, rollout_id: str, count: int, *, bad: int = 0, plan: bool = True) -> list[Any]:
    """``count`` genuine looks, one a second, decided by the brain."""
    log, state = LookLog(home, model), RolloutState.begin(champion="1", candidate="2", at=1000.0)
    made = []
    for second in range(count):
        now, latency = 1000.0 + second, Histogram.from_dict({str(bucket(5.0)): 10 * second} if second else {})
        arms = {
            "1": ArmCounters(90 * second, 0, 0, latency),
            "2": ArmCounters(10 * second, bad * second, 0, latency),
        }
        evidence = Evidence(traffic=Counters("e", now, arms), observed_weight=10, ready=True, digest_ok=True)
        decision = decide(PLAN, state, evidence, now)
        record = look_record(rollout_id, now, evidence, decision)
        log.append({**record, **({"plan": PLAN.to_dict()} if plan and not made else {})})
        made.append(record)
        state = decision.state
        if decision.action != "hold":
            break
    return made


def expose(home: Home, model: str, rollout_id: str, token: int) -> None:
    """Traffic as a release at 10 % has left it: the backend's own file, no router running."""
    file = desired.StateFile(home, model)
    release = Release(
        model, Arm("1", "sha256:1", "models:/m/1", 90), (Arm("2", "sha256:2", "models:/m/2", 10),),
        token=token, rollout_id=rollout_id, lease_until=time.time() + 60,
    )  # fmt: skip
    servers = {arm.version: desired.Server(arm.digest, arm.source, 1, proven=True) for arm in release.arms()}
    with file.locked() as state:
        file.write(replace(state, release=release, slots=("1",) * 90 + ("2",) * 10, servers=servers))


# -- orders


def test_a_whole_conversation(run: Any, rollout: Any, service: RegistryClient) -> None:
    model = rollout.model
    paused = done(run("pause", model, "--reason", "call centre", "--json", as_user="ada"))
    assert (paused["schema"], paused["kind"], paused["by"]) == ("windtunnel.rollout-order/1", "pause", "ada")
    again = run("pause", model, "--reason", "me too", as_user="ada")
    assert "paused already by ada: call centre" in str(again.exception)
    resumed = run("resume", model, "--reason", "all clear", as_user="ada")
    assert resumed.exit_code == 0 and "order" in resumed.stdout and "next look" in resumed.stderr
    assert done(run("skip", model, "--reason", "seen enough", "--json", as_user="ada"))["step"] == 0
    assert done(run("skip", model, "--reason", "and this", "--step", "2", "--json", as_user="ada"))["step"] == 1
    assert done(run("promote", model, "--reason", "the board", "--json"))["by"] == "admin"
    kinds = [(order.kind, order.by) for order in service.rollout(rollout.id).orders]
    assert kinds == [("pause", "ada"), ("resume", "ada"), ("skip", "ada"), ("skip", "ada"), ("promote", "admin")]


@pytest.mark.parametrize("command", ["pause", "resume", "skip", "promote"])
def test_who_may_not_edit_may_not_order(run: Any, rollout: Any, command: str, service: RegistryClient) -> None:
    refused = run(command, rollout.model, "--reason", "why not", as_user="rob")
    assert refused.exit_code != 0 and "may not order" in str(refused.exception)
    assert service.rollout(rollout.id).orders == ()
    assert service.audit(rollout.model, 1)[0].code == "WT_ROLE"


@pytest.mark.parametrize("command", ["pause", "resume", "skip", "promote", "abort", "freeze", "thaw"])
def test_no_reason_is_wrong_usage(run: Any, rollout: Any, command: str) -> None:
    words = () if command in ("freeze", "thaw") else (rollout.model,)
    assert run(command, *words).exit_code == 2
    blank = run(command, *words, "--reason", "  ")
    assert blank.exit_code == 2 and "say why" in blank.stderr


def test_no_running_release_is_said(run: Any, rollout: Any, service: RegistryClient) -> None:
    service.update_rollout(rollout.id, rollout.token, state="rolled_back")
    found = run("pause", rollout.model, "--reason", "late")
    assert "no release" in str(found.exception) and "is rolled_back" in str(found.exception)


def test_a_wrong_password_is_said(run: Any, rollout: Any) -> None:
    wrong = run(
        "pause", rollout.model, "--reason", "x", WINDTUNNEL_USERNAME="ada", WINDTUNNEL_PASSWORD="not-the-password"
    )
    assert "does not know this user or password" in str(wrong.exception)
    none = run("pause", rollout.model, "--reason", "x", WINDTUNNEL_USERNAME="ada")
    assert "WINDTUNNEL_PASSWORD is not" in str(none.exception)


def test_a_person_away_from_the_stack_names_the_registry(run: Any, rollout: Any, server: Any, tmp_path: Path) -> None:
    elsewhere = run("pause", rollout.model, "--reason", "x", home=tmp_path)
    assert "nobody to order as" in str(elsewhere.exception)
    named = run(
        "pause", rollout.model, "--reason", "x", "--json",
        as_user="ada", home=tmp_path, WINDTUNNEL_REGISTRY_URL=server.url,
    )  # fmt: skip
    assert done(named)["by"] == "ada"


# -- freeze


def test_freeze_and_thaw(run: Any, rollout: Any, service: RegistryClient) -> None:
    """DEMAND ROL-6: one switch freezes all rollouts."""
    frozen = run("freeze", "--reason", "black friday")
    assert frozen.exit_code == 0 and rollout.model in frozen.stderr
    assert "black friday" in str(run("promote", rollout.model, "--reason", "hurry").exception)
    assert "frozen already" in str(run("freeze", "--reason", "twice").exception)
    assert "may not" in str(run("thaw", "--reason", "x", as_user="rob").exception)
    assert run("thaw", "--reason", "over").exit_code == 0
    gone = run("thaw", "--reason", "again")
    assert "no such freeze stands" in str(gone.exception)
    mine = done(run("freeze", "--model", rollout.model, "--reason", "mine", "--json", as_user="ada"))
    assert (mine["scope"], mine["target"], mine["by"]) == ("model", rollout.model, "ada")
    owner = done(run("freeze", "--owner", "team-blue", "--reason", "holidays", "--json"))
    assert rollout.model in owner["models"]
    assert len(service.rollout(rollout.id).frozen) == 2
    assert run("freeze", "--owner", "a", "--model", "b", "--reason", "x").exit_code == 2
    assert run("thaw", "--owner", "team-blue", "--reason", "back").exit_code == 0
    assert run("thaw", "--model", rollout.model, "--reason", "back", as_user="ada").exit_code == 0
    assert service.freezes() == []


# -- abort


def test_abort_moves_traffic_and_tells_the_registry(
    run: Any, rollout: Any, server: Any, service: RegistryClient
) -> None:
    expose(server.home, rollout.model, rollout.id, rollout.token)
    plain = done(run("abort", rollout.model, "--reason", "complaints", "--json"))
    assert plain["aborted"] == "complaints" and plain["registry"] == "the registry was told"
    wanted = desired.StateFile(server.home, rollout.model).read()
    assert {arm.version: arm.weight for arm in wanted.release.arms()} == {"1": 100, "2": 0}
    found = service.rollout(rollout.id)
    (order,) = found.orders
    assert found.state == "rolled_back" and (order.kind, order.reason, order.claimed) == ("abort", "complaints", True)
    assert order.done_at is not None and outbox.pending(server.home) == []
    again = run("abort", rollout.model, "--reason", "again")
    assert again.exit_code == 0 and "nothing to abort" in again.stderr and "complaints" in again.stderr


def test_an_abort_with_a_persons_own_credential_is_not_only_claimed(
    run: Any, rollout: Any, server: Any, service: RegistryClient
) -> None:
    expose(server.home, rollout.model, rollout.id, rollout.token)
    assert run("abort", rollout.model, "--reason", "mine", as_user="ada").exit_code == 0
    (order,) = service.rollout(rollout.id).orders
    assert (order.by, order.claimed) == ("ada", False)


def test_abort_needs_no_registry_and_tells_it_later(
    run: Any, rollout: Any, server: Any, service: RegistryClient
) -> None:
    """DEMAND ROL-6: also when the registry is down; afterwards both agree."""
    expose(server.home, rollout.model, rollout.id, rollout.token)
    urls = server.home.stack_file.read_text()
    server.home.stack_file.write_text(urls.replace(server.url, "http://127.0.0.1:9"))
    try:
        began = time.monotonic()
        down = run("abort", rollout.model, "--reason", "complaints")
        assert down.exit_code == 0 and "told later" in down.stderr, down.stderr
        assert time.monotonic() - began < 20
        assert desired.StateFile(server.home, rollout.model).read().release.candidates[0].weight == 0
        # The same command again, as after a kill between traffic and note, makes no second note.
        run("abort", rollout.model, "--reason", "complaints")
        (note,) = outbox.pending(server.home)
        assert (note.model, note.rollout_id, note.reason) == (rollout.model, rollout.id, "complaints")
        looks(server.home, rollout.model, rollout.id, 2)
        shown = done(run("show", rollout.model, "--json"))
        assert [one["reason"] for one in shown["untold"]] == ["complaints"]
    finally:
        server.home.stack_file.write_text(urls)
    assert service.rollout(rollout.id).state == "running"
    told = run("freeze", "--model", rollout.model, "--reason", "look into it")  # any command ships it
    assert "the registry was told of the abort" in told.stderr
    found = service.rollout(rollout.id)
    assert found.state == "rolled_back" and found.orders[0].done_at == note.at
    assert outbox.pending(server.home) == []
    assert run("thaw", "--model", rollout.model, "--reason", "done").exit_code == 0


def test_abort_of_a_release_that_waits_to_begin_is_an_order(
    run: Any, rollout: Any, server: Any, service: RegistryClient
) -> None:
    """Nothing is in traffic: its DAG hears it before the first step."""
    plain = done(run("abort", rollout.model, "--reason", "wrong version", "--json", as_user="ada"))
    (order,) = service.rollout(rollout.id).orders
    assert (order.kind, order.by, order.done_at) == ("abort", "ada", None)
    assert "told to end" in plain["registry"] and service.rollout(rollout.id).state == "running"
    idle = run("abort", "nobody", "--reason", "x")
    assert idle.exit_code == 0 and "no release of it is running" in idle.stderr


def test_the_guard_ships_a_note_once(rollout: Any, server: Any, service: RegistryClient) -> None:
    note = outbox.add(server.home, outbox.Note(rollout.model, rollout.id, "why", "ann", time.time()))
    shipped = outbox.ship(server.home, service)
    assert shipped.told == (note,) and outbox.pending(server.home) == []
    outbox.add(server.home, note)  # killed between telling and forgetting
    assert outbox.ship(server.home, service).told == (note,)
    (order,) = service.rollout(rollout.id).orders
    assert (order.by, order.claimed) == ("ann", True)


def test_a_note_that_is_never_taken_is_not_kept_for_ever(server: Any, service: RegistryClient) -> None:
    note = outbox.add(server.home, outbox.Note("m", "no-such-rollout", "why", "ann", time.time()))
    with RegistryClient(server.url, "service", "wrong") as stranger:
        kept = outbox.ship(server.home, stranger)
    assert [one for one, _ in kept.kept] == [note]
    shipped = outbox.ship(server.home, service)
    assert [one for one, _ in shipped.refused] == [note] and outbox.pending(server.home) == []
    (outbox.folder(server.home) / "torn.json").write_text("{")
    assert outbox.pending(server.home) == []


# -- show, history, replay


def test_show_in_words_and_as_json(run: Any, rollout: Any, server: Any) -> None:
    looks(server.home, rollout.model, rollout.id, 4)
    run("pause", rollout.model, "--reason", "call centre")
    run("freeze", "--reason", "black friday")
    try:
        plain = done(run("show", rollout.model, "--json"))
        words = run("show", rollout.model).stdout
    finally:
        run("thaw", "--reason", "over")
    assert plain["schema"] == "windtunnel.rollout-show/1" and plain["registry"] == "answers"
    assert (plain["rollout"]["version"], plain["rollout"]["owner"]) == ("2", "team-blue")
    assert (plain["step"]["index"], plain["step"]["of"], plain["step"]["name"]) == (0, 2, "step_10")
    assert plain["step"]["since"] == 1000.0
    assert plain["paused"] == "admin: call centre" and len(plain["frozen"]) == 1
    assert next(gate["name"] for gate in plain["gates"]) == "errors"
    assert plain["decision"]["action"] == "hold" and plain["decision"]["at"] == 1003.0
    for text in (
        "version 2 against champion 1: running", "1 of 2: 10 % since 1970-01-01 00:16:40 UTC", "black friday",
        "admin: call centre", "gate       errors", "harm", "[", "hold (INCONCLUSIVE, watching)",
    ):  # fmt: skip
        assert text in words, (text, words)


def test_show_and_history_with_the_registry_down(run: Any, rollout: Any, server: Any, tmp_path: Path) -> None:
    """DEMAND ROL-6: the look log and what was known of orders tell it."""
    home = Home(tmp_path / "home")
    looks(home, rollout.model, rollout.id, 20, bad=6)
    knownorders.write(knownorders.path(home), server.client().orders())
    server.client().order(rollout.id, "pause", "seen", on_behalf_of="ann")
    knownorders.write(knownorders.path(home), server.client().orders())
    plain = done(run("show", rollout.model, "--json", home=home.root))
    assert "no" in plain["registry"] and plain["rollout"]["state"] == "roll_back"
    assert plain["paused"] == "ann (claimed): seen" and plain["decision"]["outcome"] == "FAIL"
    assert "this is from the look log" in run("show", rollout.model, home=home.root).stdout
    told = done(run("history", rollout.model, "--json", home=home.root))
    assert [(one["id"], one["version"]) for one in told["rollouts"]] == [(rollout.id, "2")]


def test_history_is_newest_first(run: Any, rollout: Any, server: Any) -> None:
    plain = done(run("history", rollout.model, "--json"))
    assert plain["schema"] == "windtunnel.rollout-history/1"
    assert [(one["version"], one["state"]) for one in plain["rollouts"]] == [("2", "running"), ("1", "promoted")]
    words = run("history", rollout.model).stdout.splitlines()
    assert words[0].startswith("version") and words[1].startswith("2") and words[2].startswith("1")


def test_nothing_known_is_said(run: Any, tmp_path: Path) -> None:
    assert "no release of 'nobody' is known" in str(run("show", "nobody").exception)
    assert "no look at version 2" in str(run("replay", "nobody", "2", home=tmp_path).exception)
    assert done(run("history", "nobody", "--json"))["rollouts"] == []


@pytest.mark.parametrize("plan_in_log", [True, False])
def test_replay_agrees(run: Any, rollout: Any, server: Any, plan_in_log: bool) -> None:
    """Also where the plan is only in the registry."""
    made = looks(server.home, rollout.model, rollout.id, 20, plan=plan_in_log)
    agreed = run("replay", rollout.model, "2", "--json")
    plain = done(agreed)
    assert (agreed.exit_code, plain["agrees"], plain["rollouts"][0]["looks"]) == (0, True, len(made))
    assert "every decision agrees" in run("replay", rollout.model, "2").stdout


def test_replay_names_the_first_look_that_differs(run: Any, rollout: Any, server: Any) -> None:
    looks(server.home, rollout.model, rollout.id, 4)
    path = LookLog(server.home, rollout.model).path
    lines = path.read_text().splitlines()
    forged = json.loads(lines[2])
    forged["decision"]["row"], forged["decision"]["action"] = "pass", "promote"
    path.write_text("\n".join([*lines[:2], json.dumps(forged), *lines[3:]]) + "\n")
    differs = run("replay", rollout.model, "2")
    assert differs.exit_code == 1
    assert "1 differ" in differs.stdout and "first look 3 at 1970-01-01 00:16:42 UTC" in differs.stdout
    assert "recorded  promote" in differs.stdout and "replayed  hold" in differs.stdout
    plain = json.loads(run("replay", rollout.model, "2", "--json").stdout)
    assert plain["rollouts"][0]["first"]["look"] == 3 and plain["agrees"] is False


def test_a_replay_without_a_plan_is_no_agreement(run: Any, tmp_path: Path) -> None:
    looks(Home(tmp_path), "orphan", "r9", 3, plan=False)
    found = run("replay", "orphan", "2", home=tmp_path)
    assert found.exit_code == 1 and "not replayed" in found.stdout
