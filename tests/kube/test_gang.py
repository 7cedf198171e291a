"""A training of several nodes: one set, all of it or none, judged by the node that began the end. DEMAND TRN-4"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from windtunnel.data import objects as stores
from windtunnel.data import steps
from windtunnel.errors import DescriptionError
from windtunnel.home import Home
from windtunnel.spec import Pod
from windtunnel.tracking import nodes as ranks
from windtunnel.tracking.contract import RunSpec, RunStatus
from windtunnel.tracking.pods import gang, naming, nodes
from windtunnel.tracking.pods.depot import Depot
from windtunnel.tracking.pods.manifest import HOME, Place, training_pod

CASES = Path(__file__).parent / "cases"
PLACE = Place(command=["python", "-P", "-m", "windtunnel.tracking.pods.entry"], namespace="models", attempt=2)


def run(**more: Any) -> RunSpec:
    asked = {"cpu": 4, "memory": 2**33, "disk": 2**30, "gpu": 8, "gpu_type": "NVIDIA-H200"}
    return RunSpec(**{"run_id": "0f" * 16, "model": "sea", "entry_point": "a:b", "resources": asked, **more})


def test_a_set_is_one_indexed_job_of_the_single_pod() -> None:
    """DEMAND TRN-1, TRN-4: what a pod is given, each node is; its number and the way to node 0 come on top."""
    pod = Pod(image="here", queue="team-a", queue_priority="high", spot="gke", cost_centre="tides")
    made = gang.job_set(run(), pod, PLACE, 4)
    spec = made["spec"]
    [job] = spec["replicatedJobs"]
    inner = job["template"]["spec"]
    assert (inner["completions"], inner["parallelism"], inner["completionMode"]) == (4, 4, "Indexed")
    assert inner["backoffLimit"] == 0 and spec["failurePolicy"]["maxRestarts"] == 0, "one node's failure is everybody's"
    assert spec["suspend"] is True, "a queue lets it go as a whole"
    assert spec["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}
    single = training_pod(run(), pod.model_copy(update={"queue": None, "queue_priority": None}), PLACE)
    template = inner["template"]
    env = single["spec"]["containers"][0].pop("env")
    more = template["spec"]["containers"][0].pop("env")
    assert template["spec"] == single["spec"] and template["metadata"]["labels"] == single["metadata"]["labels"]
    assert more[: len(env)] == env
    told = {one["name"]: one.get("value") for one in more[len(env) :]}
    name = made["metadata"]["name"]
    assert told["MASTER_ADDR"] == told["PET_MASTER_ADDR"] == f"{name}-node-0-0.{name}"
    assert (told["WORLD_SIZE"], told["PET_NNODES"], told["PET_NPROC_PER_NODE"]) == ("4", "4", "8")
    assert told["MASTER_PORT"] == told["PET_MASTER_PORT"] == "29500"
    numbers = [one["name"] for one in more if INDEX in str(one.get("valueFrom"))]
    assert numbers == ["NODE_RANK", "PET_NODE_RANK", "RANK", ranks.RANK]
    labels = made["metadata"]["labels"]
    assert (labels[naming.QUEUE], labels[naming.QUEUE_PRIORITY]) == ("team-a", "high")
    assert naming.QUEUE not in template["metadata"]["labels"], "the set is queued, not each pod once more"
    assert gang.job_set(run(), Pod(image="here"), PLACE, 2)["spec"]["suspend"] is False
    assert len({one["name"] for one in more}) == len(more)


INDEX = "batch.kubernetes.io/job-completion-index"


@pytest.mark.parametrize("model", ["sea", "a" * 40, "x-" * 20 + "y"])
def test_names_leave_room_for_what_is_put_behind_them(model: str) -> None:
    name = gang.gang_name(model, uuid.uuid4().hex, 12)
    longest = f"{name}-node-0-999-abcde"
    assert len(longest) <= 63 and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", longest)
    assert name != gang.gang_name(model, uuid.uuid4().hex, 12)


def test_a_gang_needs_what_a_pod_needs() -> None:
    with pytest.raises(DescriptionError, match=r"training\.pod\.image"):
        gang.job_set(run(), Pod(), PLACE, 2)


# -- how it ended


def the_set(*conditions: dict[str, str], suspend: bool = False, count: int = 2) -> dict[str, Any]:
    job = {"name": "node", "replicas": 1, "template": {"spec": {"parallelism": count}}}
    return {"metadata": {}, "spec": {"suspend": suspend, "replicatedJobs": [job]}, "status": {"conditions": conditions}}


def true(kind: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": "True", "reason": "R", "message": message}


def a_pod(rank: int, phase: str = "Running", state: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    made = f"2026-11-21T10:00:0{rank}Z"
    meta = {"name": f"p{rank}", "annotations": {INDEX: str(rank)}, "creationTimestamp": made}
    statuses = [{"name": "training", "state": state or {"running": {}}}]
    return {"metadata": meta, "spec": {}, "status": {"phase": phase, "containerStatuses": statuses, **status}}


def ended(rank: int, code: int, at: str = "10:30:00", reason: str = "Error", **status: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": f"2026-11-21T{at}Z"}}
    return a_pod(rank, "Succeeded" if code == 0 else "Failed", state, **status)


def word(failure: Any, at: float, message: str = "said") -> RunStatus:
    codes = {"data": 65, "code": 70, "resource": 71, "transient": 75}
    return RunStatus("r", "failed", codes[failure], failure, message, ended_at=at)


PREEMPTED = [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": ""}]
UNSCHEDULED = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]
FAILED = the_set(true("Failed", "jobset failed"))
JUDGED: list[tuple[str, Any, list[Any], dict[int, RunStatus], dict[str, Any], tuple[str, str | None, str, str]]] = [
    ("done", the_set(true("Completed")), [], {}, {}, ("succeeded", None, "done", "")),
    ("running", the_set(), [a_pod(0), a_pod(1)], {}, {}, ("running", None, "wait", "")),
    ("one runs, one waits", the_set(),
     [a_pod(0), a_pod(1, "Pending", {"waiting": {"reason": "ContainerCreating"}})], {}, {},
     ("waiting", None, "wait", "1 of 2 nodes run")),
    ("not all of it by then", the_set(), [a_pod(0)], {}, {"given_up": True},
     ("not-started", "transient", "resume", "1 of 2 nodes run; all must")),
    ("no node takes the second", the_set(),
     [a_pod(0), a_pod(1, "Pending", {"waiting": {}}, conditions=UNSCHEDULED)], {}, {"given_up": True},
     ("unschedulable", "resource", "fail", "node 1: Unschedulable: 0/3 nodes")),
    ("in a queue", the_set(suspend=True), [], {}, {}, ("waiting", None, "wait", "no queue has admitted it")),
    ("in a queue for too long", the_set(suspend=True), [], {}, {"given_up": True},
     ("queued", "transient", "resume", "no queue has admitted it")),
    ("out of memory on one", FAILED, [ended(0, 70), ended(1, 137, "10:30:09", "OOMKilled")], {0: word("code", 5.0)}, {},
     ("oom-killed", "resource", "fail", "node 1: the kernel killed it")),
    ("preempted, and the other's connection was cut", FAILED,
     [ended(0, 70, "10:29:00"), ended(1, 143, conditions=PREEMPTED)], {0: word("code", 1.0, "connection reset")}, {},
     ("preempted", "transient", "resume", "node 1: PreemptionByScheduler")),
    ("bad data on one, the other told to stop", FAILED, [ended(1, 65)],
     {0: word("transient", 9.0), 1: word("data", 8.0)}, {}, ("exited", "data", "fail", "node 1:")),
    ("a bug, then the others' echo", FAILED, [ended(0, 70, "10:30:00"), ended(1, 70, "10:30:08")],
     {0: word("code", 200.0, "peer is gone"), 1: word("code", 100.0, "the bug")}, {},
     ("exited", "code", "fail", "node 1:")),
    ("all pods are gone, their words are not", FAILED, [], {0: word("transient", 9.0), 1: word("data", 8.0, "no rows")},
     {}, ("exited", "data", "fail", "node 1: no rows")),
    ("nobody knows", FAILED, [], {}, {}, ("deleted", "transient", "resume", "R: jobset failed")),
    ("gone", None, [], {}, {}, ("deleted", "transient", "resume", "the set of pods is gone")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("thing", "pods", "said", "more", "expected"), [case[1:] for case in JUDGED], ids=[case[0] for case in JUDGED]
)
def test_who_began_the_end(
    thing: Any,
    pods: list[Any],
    said: dict[int, RunStatus],
    more: dict[str, Any],
    expected: tuple[str, str | None, str, str],
) -> None:
    """DEMAND PIP-3, TRN-4: the first cause, not what it looked like from the other nodes."""
    found = gang.judge(thing, pods, said, **more)
    assert (found.kind, found.failure, found.next) == expected[:3]
    assert expected[3] in found.message


# -- the nodes themselves, as processes with the environment that the set gives them


@pytest.fixture
def fly(tmp_path: Path) -> Callable[..., tuple[list[tuple[int, str]], Depot, Home]]:
    """Two nodes of one run; (exit code, log) of each, and what is in the store."""

    def go(function: str, kept: Path | None = None, **spec: Any) -> tuple[list[tuple[int, str]], Depot, Home]:
        home, store = Home(tmp_path / "worker"), (tmp_path / "store").as_uri()
        frame = pd.DataFrame({"t": range(20), "a": range(20), "y": range(20)})
        frame.to_parquet(tmp_path / "rows.parquet")
        rows = steps.write_output(home, "sea.train", "run", "data", "rows", tmp_path / "rows.parquet")
        task = RunSpec(
            run_id=uuid.uuid4().hex, model="sea", entry_point=f"wt_pod_cases:{function}", inputs={"rows": rows},
            features=[{"name": "a"}], target="y", time="t", time_limit=200.0,
            resources={"cpu": 1, "memory": 2**31, "disk": 2**30}, **spec,
        )  # fmt: skip
        depot = Depot(stores.connect(store), task.run_id)
        if kept is not None:
            depot.save_checkpoint(kept, "0001-000000")
        variables = {"WINDTUNNEL_STORE": store, "WINDTUNNEL_SPEC_DIGEST": depot.deposit(home, task)}
        made = gang.job_set(task, Pod(image="here"), Place(PLACE.command, variables=variables), 2)
        template = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = str(probe.getsockname()[1])
        # What a cluster's DNS and its nodes of their own would do.
        here = {gang.host(made["metadata"]["name"], 0): "127.0.0.1", str(gang.PORT): port}
        begun = []
        for rank in range(2):
            folder = tmp_path / f"node-{rank}"
            mounted = {HOME: str(folder / "windtunnel"), "/tmp": str(folder / "tmp")}
            for path in mounted.values():
                Path(path).mkdir(parents=True)
            environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CASES)}
            for one in template["containers"][0]["env"]:
                if "value" in one:
                    environment[one["name"]] = {**here, **mounted}.get(one["value"], one["value"])
                elif INDEX in one["valueFrom"]["fieldRef"]["fieldPath"]:
                    environment[one["name"]] = str(rank)
            command = [sys.executable, *template["containers"][0]["command"][1:]]
            begun.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    cwd=mounted[HOME],
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            )
        try:
            said = [process.communicate(timeout=280)[0] for process in begun]
        finally:
            for process in begun:
                process.kill()
        return [(process.returncode, text) for process, text in zip(begun, said, strict=True)], depot, home

    return go


def test_nodes_meet_and_only_node_0_delivers(fly: Callable[..., Any], tmp_path: Path) -> None:
    """DEMAND TRN-3, TRN-4: two real processes find each other by the set's environment alone; both go on from what
    node 0 kept before a queue took the set back, and its metrics go on with node 0 only."""
    kept = tmp_path / "kept"
    (kept / "checkpoint").mkdir(parents=True)
    (kept / "checkpoint" / "epoch.txt").write_text("1")
    (kept / "metrics.jsonl").write_text('["before",1.0,1,0]\n')
    done, depot, home = fly("together", kept=kept)
    assert [code for code, _ in done] == [0, 0], done
    assert all("goes on from 0001-000000" in text for _, text in done)
    pods = [path for path in tmp_path.glob("node-*/windtunnel/runs/*") if (path / "checkpoint" / "epoch.txt").exists()]
    assert len(pods) == 2
    words = {path.parent.parent.parent.name: '"before"' in (path / "metrics.jsonl").read_text() for path in pods}
    assert words == {"node-0": True, "node-1": False}
    assert "node 1 of 2 has met the others" in done[1][1]
    words = nodes.said(depot, 1)
    assert {rank: found.state for rank, found in words.items()} == {0: "succeeded", 1: "succeeded"}
    made = depot.collect(home)
    assert made.metrics == {"before": 1.0, "rank": 0.0}, "what the run is, node 0 says"
    assert made.model_path is not None and made.digest
    log = depot.objects.get_bytes(f"{depot.key}/attempts/1/nodes/1/log.txt")
    assert log is not None and b"node 1 of 2" in log
    assert depot.objects.get_bytes(f"{depot.key}/attempts/1/nodes/0/exit.json") is None


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_torch_meets_by_the_same_environment(fly: Callable[..., Any]) -> None:
    """DEMAND TRN-4"""
    done, depot, home = fly("with_torch")
    assert [code for code, _ in done] == [0, 0], done
    assert depot.collect(home).metrics == {"total": 3.0}
