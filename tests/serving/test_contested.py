"""Somebody else writes fields that are ours: set back where traffic hangs on it, and told; never fought in silence."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fakecore2
import fakeseldon
import pytest

from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.core2 import Core2, Core2Backend
from windtunnel.serving.release.overviewtext import shown
from windtunnel.serving.seldon import Seldon, SeldonBackend, contested, record
from windtunnel.serving.seldon.contested import Overruled
from windtunnel.serving.seldon.journal import ObjectLooks

SDEP, SERVING = "seldondeployments", {"timeout": "2s", "drain": "1s", "ready_within": "5s"}


def entry(manager: str, fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"manager": manager, "operation": "Update", "fieldsV1": {"f:spec": fields}, **more}


#: Who owns what, what is there, what we say; what is told of whom.
FOUND: list[tuple[str, list[dict[str, Any]], dict[str, Any], dict[str, Any], dict[str, list[str]]]] = [
    ("nobody else", [entry("windtunnel", {"f:a": {}})], {"a": 1}, {"a": 2}, {}),
    ("the same", [entry("kubectl", {"f:a": {}})], {"a": 1}, {"a": 1}, {}),
    ("a field", [entry("kubectl", {"f:a": {}})], {"a": 1}, {"a": 2}, {"kubectl": ["a: 1 instead of 2"]}),
    ("another field of theirs", [entry("kubectl", {"f:b": {}})], {"a": 1, "b": 1}, {"a": 2}, {}),
    ("beside ours in one map", [entry("kubectl", {"f:m": {"f:b": {}}})], {"m": {"a": 1}}, {"m": {"a": 2}}, {}),
    ("in a map", [entry("k", {"f:m": {"f:a": {}}})], {"m": {"a": 1}}, {"m": {"a": 2}}, {"k": ["m.a: 1 instead of 2"]}),
    ("in a list", [entry("k", {"f:l": {}})], {"l": [{"name": "x", "a": 1}]}, {"l": [{"name": "x", "a": 2}]},
     {"k": ["l[x].a: 1 instead of 2"]}),
    ("of a list", [entry("k", {"f:l": {}})], {"l": [{"name": "y"}]}, {"l": [{"name": "x"}]},
     {"k": ["l[x] was removed", "l[y] was added"]}),
    ("by keys of a list", [entry("k", {"f:l": {'k:{"name":"x"}': {}}})], {"l": [{"name": "x", "a": 1}]},
     {"l": [{"name": "x", "a": 2}]}, {"k": ["l[x].a: 1 instead of 2"]}),
    ("the operator's status", [entry("manager", {"f:a": {}}, subresource="status")], {"a": 1}, {"a": 2}, {}),
    ("the later one", [entry("new", {"f:a": {}}, time="2026-01-02"), entry("old", {"f:a": {}}, time="2026-01-01")],
     {"a": 1}, {"a": 2}, {"new": ["a: 1 instead of 2"]}),
    ("each their own", [entry("one", {"f:a": {}}), entry("two", {"f:b": {}})], {"a": 1, "b": 1}, {"a": 2, "b": 2},
     {"one": ["a: 1 instead of 2"], "two": ["b: 1 instead of 2"]}),
]  # fmt: skip


@pytest.mark.parametrize(("entries", "live", "ours", "told"), [one[1:] for one in FOUND], ids=[one[0] for one in FOUND])
def test_what_others_made_of_our_fields(
    entries: list[Any], live: dict[str, Any], ours: dict[str, Any], told: dict[str, list[str]]
) -> None:
    thing = {"metadata": {"managedFields": entries}, "spec": live}
    found = contested.found(thing, {"spec": ours})
    assert not found or contested.shared(thing)
    assert {one.manager: list(one.fields) for one in found} == told


def test_it_is_counted_and_an_annotation_holds_it() -> None:
    entries: list[Overruled] = []
    for at in range(1, 12):
        for manager in ("argocd", f"person-{at}"):
            fields = ("predictors[v2].replicas: 5 instead of 2", "predictors[v2].traffic: 9 instead of 5")
            one = Overruled(manager, fields)
            entries = contested.added(entries, one, "r1", float(at))
    kept = contested.read(contested.write(entries))
    assert len(kept) == 4 and kept == entries[-4:]
    argocd = next(one for one in kept if one.manager == "argocd")
    assert (argocd.times, argocd.rollout_id, argocd.left) == (11, "r1", ("v2",))
    said = contested.sentence("SeldonDeployment visits", argocd)
    assert "argocd" in said and "11 times" in said and "ignoreDifferences" in said and "left to it" in said
    once = contested.sentence("it", kept[-1])
    assert "times" not in once and "ignoreDifferences" not in once
    assert contested.read({record.OVERRULED: "{"}) == contested.read({record.OVERRULED: '[{"a": 1}]'}) == []
    many = [{"name": f"x{at}", "a": 1} for at in range(9)]
    live = {"metadata": {"managedFields": [entry("k", {"f:l": {}})]}, "spec": {"l": many}}
    (told,) = contested.found(live, {"spec": {"l": [{**one, "a": 2} for one in many]}})
    assert len(told.fields) == 7 and told.fields[-1] == "and 3 more"


@pytest.fixture
def running() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def arm(n: int, weight: int = 0) -> Arm:
    return Arm(str(n), f"sha256:{n:064x}", f"models:/visits/{n}", weight)


def release(champion: int, *candidates: Arm, **more: Any) -> Release:
    one = {"warmup": [{"age": 30.0}], "serving": {**SERVING, **more.pop("serving", {})}}
    settings = {"1": one, "2": one}
    return Release("visits", arm(1, champion), candidates, token=1, rollout_id="r1", settings=settings, **more)


def look(at: float) -> dict[str, Any]:
    decision = {"action": "hold", "outcome": "PASS", "row": "wait", "reason": "as yet", "numbers": {}}
    return {"rollout_id": "r1", "token": 1, "at": at, "decision": {**decision, "state": {"step": 0}}}


def test_a_gitops_tool_is_overruled_told_and_in_the_end_advised(
    running: ExitStack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights are the release's; the looks, its evidence, say who else wrote them, and so does the log."""
    cluster = running.enter_context(fakeseldon.cluster())
    running.enter_context(fakeseldon.Seldon(cluster, lambda name: "ready"))
    settings = Seldon(image="i", registry="r", access=Access(cluster.kubeconfig(tmp_path / "config")), poll_s=0.02)
    backend = SeldonBackend(settings, Client(settings.access))
    backend.apply(release(75, arm(2, 25), lease_until=9e9, lease_s=60.0))
    log = ObjectLooks(backend, "visits")

    def predictors() -> dict[str, dict[str, Any]]:
        found = cluster.get(SDEP, "visits")
        assert found is not None
        return {one["name"]: one for one in found["spec"]["predictors"]}

    def others(thing: dict[str, Any]) -> None:
        for one in thing["spec"]["predictors"]:
            one["traffic"] = {"v1": 100, "v2": 0}[one["name"]]
            one["replicas"] = 4

    log.append(look(1.0))
    assert "overruled" not in log.tail("r1")[-1]
    for times in (1, 2, 3):
        caplog.clear()
        cluster.edit(SDEP, "visits", others, "argocd-controller")
        with caplog.at_level(logging.WARNING, "windtunnel.seldon"):
            log.append(look(times + 1.0))
        assert {name: one["traffic"] for name, one in predictors().items()} == {"v1": 75, "v2": 25}, "traffic is ours"
        (said,) = (one.getMessage() for one in caplog.records)
        assert "argocd-controller" in said and "predictors[v2].traffic: 0 instead of 25" in said
        assert ("ignoreDifferences" in said) == (times == 3)
        assert {one["replicas"] for one in predictors().values()} == ({4} if times == 3 else {1})
    caplog.clear()
    log.append(look(9.0))
    seen = log.tail("r1")[-1]
    (told,) = seen["overruled"]
    assert (told["manager"], told["times"], told["left"]) == ("argocd-controller", 3, ["v1", "v2"])
    assert not caplog.records, "nobody wrote, nobody is told"
    backend.abort("visits", "harm", "gate")
    assert {one["replicas"] for one in predictors().values()} == {4}, "an autoscaler of theirs goes on"
    assert {name: one["traffic"] for name, one in predictors().items()} == {"v1": 100}
    lines = shown(
        {"model": "visits", "registry": "answers", "rollout": {"version": "2", "champion": "1", "state": "running"},
         "step": None, "gates": [], "arms": [], "decision": None, "orders": [], "paused": None, "frozen": [],
         "overruled": [told], "traffic": {"error": "-"}, "untold": []}
    )  # fmt: skip
    assert any("overruled  argocd-controller, 3 times: predictors[v1].replicas" in line for line in lines)


def test_what_they_add_is_nobodys_conflict(
    running: ExitStack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An explainer that a team puts into our predictor makes the list theirs; nothing of ours is touched by it."""
    cluster = running.enter_context(fakeseldon.cluster())
    running.enter_context(fakeseldon.Seldon(cluster, lambda name: "ready"))
    settings = Seldon(image="i", registry="r", access=Access(cluster.kubeconfig(tmp_path / "config")), poll_s=0.02)
    backend = SeldonBackend(settings, Client(settings.access))
    backend.apply(release(100))
    cluster.edit(SDEP, "visits", lambda it: it["spec"]["predictors"][0].update(explainer={"type": "x"}), "team")
    backend.apply(release(75, arm(2, 25), stage=1))
    found = cluster.get(SDEP, "visits")
    assert found is not None and found["spec"]["predictors"][0]["explainer"] == {"type": "x"}
    assert record.OVERRULED not in found["metadata"]["annotations"] and not caplog.records


def test_an_autoscaler_of_models_and_servers_keeps_its_number(
    running: ExitStack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On Core 2 an HorizontalPodAutoscaler may scale a Model and its Server; a release of the next version, or the same
    one asked for again, does not set them back. Other fields are."""
    cluster = running.enter_context(fakecore2.cluster())
    core = running.enter_context(fakecore2.Core2(cluster, lambda name: "ready"))
    settings = Core2(image="i", registry="r", access=Access(cluster.kubeconfig(tmp_path / "config")), poll_s=0.02)
    backend = Core2Backend(settings, Client(settings.access))
    backend.apply(release(100, arm(2)))
    hpa = "kube-controller-manager"
    for plural in ("models", "servers"):
        cluster.edit(plural, "visits-v2", lambda it: it["spec"].update(replicas=3), hpa, "scale")
        cluster.edit(plural, "visits-v1", lambda it: it["spec"].update(replicas=5), "somebody")
    cluster.edit("models", "visits-v2", lambda it: it["spec"].update(memory="1"), "kubectl-edit")
    with caplog.at_level(logging.INFO, "windtunnel.seldon"):
        backend.apply(release(75, arm(2, 25), stage=1))
    models = {one["metadata"]["name"]: one["spec"] for one in cluster.all("models")}
    assert models["visits-v2"]["replicas"] == 3 and models["visits-v1"]["replicas"] == 1
    assert models["visits-v2"]["memory"] == str(2**30)
    said = [one.getMessage() for one in caplog.records]
    assert f"Model visits-v2: the number of its servers is left to {hpa}" in said
    assert any(line.startswith("Model visits-v2: kubectl-edit had written") and 'memory: "1"' in line for line in said)
    assert any(line.startswith("Model visits-v1: somebody had written") for line in said)
    servers = {one["metadata"]["name"]: one["spec"]["replicas"] for one in cluster.all("servers")}
    assert servers["visits-v2"] == 3
    assert dict(core.routes["visits.experiment"].clusters) == {"visits-v1": 75, "visits-v2": 25}
    cluster.edit("experiments", "visits", lambda it: it["spec"]["candidates"][0].update(weight=1), "flux")
    caplog.clear()
    backend.apply(release(50, arm(2, 50), stage=2))
    assert any("Experiment visits: flux had written" in one.getMessage() for one in caplog.records)
    notes = json.loads(cluster.all("experiments")[0]["metadata"]["annotations"][record.OVERRULED])
    assert [one["manager"] for one in notes] == ["flux"]
