"""What a release must find again on a model's object: looks, intents; the commands and the connection to a cluster."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fakeseldon
import pytest
from kubeapi import Cluster, Fault
from typer.testing import CliRunner

from windtunnel.data.objects import FolderObjects
from windtunnel.errors import DataError, DescriptionError, FencedError, ServingError, UnavailableError
from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.place import Place, at_home, in_cluster, of_command
from windtunnel.serving.release.archive import LookArchive
from windtunnel.serving.seldon import Seldon, journal, record

LEASE_S = 30.0


@dataclass
class World:
    cluster: Cluster
    settings: Seldon
    folder: Path

    def place(self, **more: Any) -> Place:
        """Another process': it has seen nothing yet."""
        return in_cluster(self.settings, Client(self.settings.access, patience_s=2.0), **more)

    def release(self, weight: int, token: int = 1) -> Release:
        arms = [Arm(n, f"sha256:{n * 64}", f"models:/visits/{n}", w) for n, w in (("1", 100 - weight), ("2", weight))]
        settings = dict.fromkeys("12", json.loads('{"warmup": [{"age": 3.0}]}'))
        return Release(
            "visits", arms[0], (arms[1],), token=token, rollout_id=f"r{token}", lease_until=1000.0, lease_s=LEASE_S,
            settings=settings, stage=weight,
        )  # fmt: skip

    def notes(self) -> dict[str, str]:
        found = self.cluster.get("seldondeployments", "visits")
        assert found is not None
        return dict(found["metadata"]["annotations"])

    def file(self) -> Path:
        path = self.folder / "seldon.toml"
        path.write_text(f'image = "i"\nregistry = "r"\nkubeconfig = "{self.settings.access.kubeconfig}"\n')
        return path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with fakeseldon.cluster() as cluster, fakeseldon.Seldon(cluster, after_s=0.0) as seldon:
        access = Access(cluster.kubeconfig(tmp_path / "config"))
        yield World(cluster, Seldon("i", "r", access=access, prometheus=seldon.url, poll_s=0.01), tmp_path)


def look(action: str = "hold", *, token: int = 1, at: float = 1010.0, step: int = 0, **more: Any) -> dict[str, Any]:
    said = {"outcome": "INCONCLUSIVE", "row": "held", "reason": f"because {action}", "numbers": {}}
    decision = {"action": action, **said, "state": {"step": step}}
    return {"rollout_id": f"r{token}", "token": token, "at": at, "decision": decision, **more}


def test_a_look_and_its_lease_are_one_write_that_another_process_goes_on_from(world: World) -> None:
    """DEMAND ROL-6"""
    place = world.place()
    place.backend.apply(world.release(10))
    began = len(world.cluster.requests)
    assert place.looks("visits").append(look(plan={"a": 1}, evidence={"p": float("nan")}), after=None)
    place.backend.renew("visits", 1, 1010.0 + LEASE_S)
    # The operator may have written its status since: then it is read, and written once.
    assert [line.split()[0] for line in world.cluster.asked(began)].count("PATCH") == 1
    assert world.notes()[record.LEASE] == repr(1010.0 + LEASE_S)
    assert world.notes()[record.SAID] == "1970-01-01T00:16:50Z hold: because hold"
    other = world.place().looks("visits")
    (found,) = other.tail("r1")
    assert other.append(look("advance", step=1), after=found)
    assert other.append(look(step=1), after=other.last("r1"))
    assert not place.looks("visits").append(look(), after=found), "it was decided on an older look"
    tail = world.place().looks("visits").tail("r1")
    assert [(one["number"], one["decision"]["action"]) for one in tail] == [(2, "advance"), (3, "hold")]
    assert tail[-1]["plan"] == {"a": 1} and "evidence" not in tail[0]
    assert other.tail("another") == []


@pytest.mark.parametrize("action", ["roll_back", "withdraw"])
def test_a_look_that_decides_to_go_back_is_the_write_that_does(world: World, action: str) -> None:
    """DEMAND ROL-6: one API call from the decision to the rollback sent."""
    place = world.place()
    place.backend.apply(world.release(10))
    place.backend.observe("visits")
    began = len(world.cluster.requests)
    world.cluster.faults.append(Fault("PATCH", 409, times=1, reason="Conflict"))
    assert place.looks("visits").append(look(action), after=None)
    assert [line.split()[0] for line in world.cluster.asked(began)] == ["PATCH", "GET", "PATCH"]
    assert world.notes()[record.ABORTED] == f"because {action}" and world.notes()[record.LEASE] == ""
    live = world.cluster.get("seldondeployments", "visits")
    assert live is not None and [one["name"] for one in live["spec"]["predictors"]] == ["v1"]
    assert place.looks("visits").append(look(action), after=place.looks("visits").last("r1")), "said twice, done once"


def test_a_later_holder_fences_looks_and_intents(world: World) -> None:
    """DEMAND ROL-7"""
    place = world.place()
    place.backend.apply(world.release(10))
    given = {"rollout_id": "r1", "token": 1, "candidate": "2", "champion": "1"}
    first = place.intents.begin("visits", **given)
    assert world.place().intents.begin("visits", **given) == first == world.place().intents.read("visits")
    world.place().backend.apply(world.release(20, token=2))
    with pytest.raises(FencedError, match="has the traffic by now"):
        place.looks("visits").append(look(), after=None)
    with pytest.raises(FencedError, match="older than 2"):
        place.intents.begin("visits", **given)
    later = world.place().intents.begin("visits", **{**given, "rollout_id": "r2", "token": 2})
    place.intents.clear("visits", 1)
    assert place.intents.read("visits") == later
    place.intents.clear("visits", 2)
    assert place.intents.read("visits") is None and world.notes()[record.INTENT] == ""
    with pytest.raises(ServingError, match="nothing is deployed"):
        place.intents.begin("another", **given)


def test_the_journal_survives_writes_of_the_state_and_goes_with_the_next_rollout(world: World) -> None:
    place = world.place()
    place.backend.apply(world.release(10))
    place.looks("visits").append(look("advance", step=1), after=None)
    place.backend.apply(world.release(50))
    place.backend.abort("visits", "no", "me")
    assert len(place.looks("visits").tail("r1")) == 1
    place.backend.apply(world.release(10, token=2))
    place.looks("visits").append(look(token=2), after=None)
    assert place.looks("visits").tail("r1") == [] and len(place.looks("visits").tail("r2")) == 1


def test_all_looks_are_kept_where_there_is_a_store(world: World) -> None:
    store = FolderObjects(world.folder / "store")
    looks = world.place(store=store).looks("visits")
    world.place().backend.apply(world.release(10))
    for n in range(5):
        assert looks.append(look(at=1010.0 + n), after=looks.last("r1"))
    assert [one["at"] for one in looks.all()] == [1010.0 + n for n in range(5)]
    assert [one["number"] for one in world.place().looks("visits").all()] == [5], "without it, what a gate needs"

    class Down(FolderObjects):
        def put_bytes(self, key: str, data: bytes) -> None:
            raise UnavailableError("the store does not answer")

    mute = world.place(store=Down(world.folder / "down")).looks("visits")
    assert mute.append(look(at=1020.0), after=mute.last("r1")), "a store that is down holds no look up"
    with pytest.raises(DataError, match="no object store"):
        of_command(at_home_home(world), "visits", world.file(), store="ftp://x")
    assert LookArchive(store).looks("visits", "r9") == []


def at_home_home(world: World) -> Any:
    from windtunnel.home import Home

    return Home(world.folder / "home")


def test_what_cannot_be_kept_or_read_is_said() -> None:
    noise = random.Random(1)
    large = look(evidence=[noise.random() for _ in range(20_000)])
    with pytest.raises(ServingError, match=r"windtunnel\.io/looks takes 50000"):
        journal.write_looks(journal.Kept("r1").plus(large))
    with pytest.raises(ServingError, match="cannot be read"):
        journal.read_looks({record.LOOKS: "not base64"})
    assert journal.read_intent("visits", {record.INTENT: "{"}) is None


def test_a_command_finds_the_cluster_and_a_home_stays_a_home(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEMAND ROL-8: told by option, or by the environment for what is not served here."""
    home = at_home_home(world)
    assert type(of_command(home, "visits", None).backend) is type(at_home(home).backend)
    monkeypatch.setenv("WINDTUNNEL_SELDON", str(world.file()))
    assert hasattr(of_command(home, "visits", None).backend, "seldon")
    home.serving_model("visits").mkdir(parents=True)
    (home.serving_model("visits") / "desired.json").write_text("{}")
    assert not hasattr(of_command(home, "visits", None).backend, "seldon")
    with pytest.raises(DescriptionError, match=r"nothing\.toml cannot be read"):
        of_command(home, "visits", world.folder / "nothing.toml")


def test_the_command_says_where_routes_may_stay_as_they_were(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seldon's operator writes none while a replica is lacking, be it the champion's."""
    from windtunnel.cli.app import app

    world.place().backend.apply(world.release(10))
    monkeypatch.setattr("windtunnel.serving.seldon.status.replicas", lambda live, model, version: 0)
    told = ["--seldon", str(world.file()), "--home", str(world.folder / "home")]
    done = CliRunner().invoke(app, ["rollout", "abort", "visits", "--reason", "no", *told])
    assert done.exit_code == 0 and "version 1 is not whole" in done.output, done.output


def test_the_command_aborts_in_the_cluster_with_neither_registry_nor_airflow(world: World) -> None:
    """DEMAND ROL-6, ROL-8"""
    from windtunnel.cli.app import app

    world.place().backend.apply(world.release(10))
    home = world.folder / "home"
    told = ["--seldon", str(world.file()), "--home", str(home)]
    done = CliRunner().invoke(app, ["rollout", "abort", "visits", "--reason", "callers complain", *told])
    assert done.exit_code == 0, done.output
    assert "every candidate is at 0 %" in done.output and "version 1  100 %" in done.output
    assert world.notes()[record.ABORTED] == "callers complain"
    assert "not whole" not in done.output
    (note,) = (home / "serving" / "outbox").glob("*.json")
    assert json.loads(note.read_text())["rollout_id"] == "r1"
    world.place().looks("visits").append(look("advance"), after=None)
    shown = CliRunner().invoke(app, ["rollout", "show", "visits", "--json", *told])
    assert shown.exit_code == 0, shown.output
    plain = json.loads(shown.stdout)
    data = plain.get("data", plain)
    assert data["traffic"]["weights"]["1"] == 100 and data["decision"]["reason"] == "because advance"
