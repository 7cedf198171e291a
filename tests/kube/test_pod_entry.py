"""What runs in a training pod, as a plain process with the pod's exact environment; a real S3 API, and a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import roles
from waiting import until

from windtunnel import canonical
from windtunnel.data import objects as stores
from windtunnel.data import parcels, steps
from windtunnel.data.objects import Objects
from windtunnel.errors import DataError, IntegrityError, UnavailableError
from windtunnel.evidence import manifest
from windtunnel.home import Home
from windtunnel.spec import Pod
from windtunnel.tracking.contract import RunSpec
from windtunnel.tracking.pods.depot import Depot
from windtunnel.tracking.pods.manifest import HOME, Place, training_pod

CASES = Path(__file__).parent / "cases"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "eu-central-1"}


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """A real S3 API on loopback: the variables by which boto3 finds it."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield {**KEYS, "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}"}
    server.stop()


@pytest.fixture
def cloud() -> Iterator[roles.Cloud]:
    with roles.cloud() as made:
        yield made


@pytest.fixture(params=["s3", "file"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, dict[str, str]]:
    """URL of an empty store, and what a process needs to reach it."""
    if request.param == "file":
        return (tmp_path / "shared volume").as_uri(), {}
    if request.param == "role":
        account = request.getfixturevalue("cloud")
        given = {}
        for name in ("airflow", "training"):
            (tmp_path / name).mkdir()
            given[name] = account.service_account(tmp_path / name, account.role(name, "steps"))
        roles.be(monkeypatch, given["airflow"])
        return f"s3://{account.bucket}/steps", given["training"]
    import boto3

    found: dict[str, str] = request.getfixturevalue("s3")
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    bucket = f"b-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": KEYS["AWS_DEFAULT_REGION"]}
    )
    return f"s3://{bucket}/team/windtunnel", found


@pytest.fixture
def objects(store: tuple[str, dict[str, str]]) -> Objects:
    return stores.connect(store[0])


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "worker")


@pytest.fixture
def spec(home: Home) -> Callable[..., RunSpec]:
    def make(function: str = "train", **more: Any) -> RunSpec:
        frame = pd.DataFrame({"t": range(20), "a": range(20), "y": range(20)})
        path = home.root.parent / "rows.parquet"
        frame.to_parquet(path)
        rows = steps.write_output(home, "sea.train", "run:1", "data", "rows", path)
        fields: dict[str, Any] = {
            "run_id": uuid.uuid4().hex,
            "model": "sea",
            "entry_point": f"wt_pod_cases:{function}",
            "inputs": {"rows": rows},
            "features": [{"name": "a"}],
            "target": "y",
            "time": "t",
            "resources": {"cpu": 1, "memory": 2**31, "disk": 2**30, "gpu": 0},
            "time_limit": 300.0,
            "python_path": ["/dags/of/the/worker"],
            **more,
        }
        return RunSpec(**fields)

    return make


@pytest.fixture
def pod(tmp_path: Path, store: tuple[str, dict[str, str]]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process with the environment of the pod's manifest and nothing else, in folders of its own."""
    begun: list[subprocess.Popen[str]] = []

    def start(spec: RunSpec, digest: str, attempt: int = 1, **variables: str) -> subprocess.Popen[str]:
        place = Place(
            command=["python", "-P", "-m", "windtunnel.tracking.pods.entry"],
            attempt=attempt,
            variables={"WINDTUNNEL_STORE": store[0], "WINDTUNNEL_SPEC_DIGEST": digest, **variables},
        )
        made = training_pod(spec, Pod(image="here"), place)["spec"]["containers"][0]
        folder = tmp_path / f"pod-{spec.run_id}-{attempt}"
        mounted = {HOME: folder / "windtunnel", "/tmp": folder / "tmp"}
        for path in mounted.values():
            path.mkdir(parents=True)
        environment = {each["name"]: each["value"] for each in made["env"] if "value" in each}
        environment = {name: str(mounted.get(value, value)) for name, value in environment.items()}
        environment |= {**store[1], "PATH": os.environ["PATH"], "PYTHONPATH": str(CASES)}
        process = subprocess.Popen(
            [sys.executable, *made["command"][1:]], env=environment, cwd=mounted[HOME], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        begun.append(process)
        return process

    yield start
    for process in begun:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=100)


ON_S3 = pytest.mark.parametrize("store", ["s3"], indirect=True)  # on a folder it flies in tests/operators/test_pods.py


@ON_S3
@pytest.mark.long
def test_a_pod_that_is_told_to_stop_is_followed_by_one_that_goes_on(
    objects: Objects, home: Home, spec: Callable[..., RunSpec], pod: Callable[..., Any], tmp_path: Path
) -> None:
    """DEMAND TRN-1, TRN-3, PIP-2: preempted in the second of three epochs; only the third is trained again."""
    wall = tmp_path / "wall"
    task = spec(params={"wall": str(wall), "until": 2})
    depot = Depot(objects, task.run_id)
    digest = depot.deposit(home, task)
    first = pod(task, digest, WINDTUNNEL_CHECKPOINT_EVERY="0.2")
    until(lambda: first.poll() is not None or _kept(objects, depot) == "2")
    assert first.poll() is None, first.communicate()[0]
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=100)
    assert first.returncode == 75, said
    ended = depot.outcome(1)
    assert ended is not None and (ended.state, ended.failure) == ("failed", "transient")
    assert len(depot.checkpoints()) <= 2, "older ones are removed"
    wall.touch()
    second = pod(task, digest, attempt=2)
    said, _ = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert "goes on from 0001-" in said
    assert "epoch 3 of 3" in said and "epoch 2 of 3" not in said
    ended = depot.outcome(2)
    assert ended is not None and ended.attempt == 2
    made = depot.collect(home)
    assert made.model_path is not None and Path(made.model_path).is_relative_to(home.runs)
    assert manifest.build(Path(made.model_path)).content == made.digest
    assert made.metrics["epoch"] == 2.0
    where = "pipelines/sea.train/runs/run:1/steps/data/outputs/rows/rows"
    assert where in objects.sizes("pipelines/"), "an input lies where PIP-2 says"


@ON_S3
def test_a_pod_that_a_person_ends_is_cancelled_and_not_failed(
    objects: Objects, home: Home, spec: Callable[..., RunSpec], pod: Callable[..., Any], tmp_path: Path
) -> None:
    """DEMAND TRN-7: the word in the store tells TERM by a person from TERM by the cluster."""
    task = spec(params={"wall": str(tmp_path / "wall"), "until": 1})
    depot = Depot(objects, task.run_id)
    process = pod(task, depot.deposit(home, task), WINDTUNNEL_CHECKPOINT_EVERY="0.2")
    until(lambda: process.poll() is not None or _kept(objects, depot) == "1")
    assert process.poll() is None, process.communicate()[0]
    depot.ask_to_end(1, "Ada ended it")
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 130, said
    ended = depot.outcome(1)
    assert ended is not None and (ended.state, ended.message) == ("cancelled", "Ada ended it")


@pytest.mark.parametrize("store", ["role"], indirect=True)
def test_a_pod_has_a_role_and_no_key(
    objects: Objects, store: tuple[str, dict[str, str]], home: Home, spec: Callable[..., RunSpec],
    pod: Callable[..., Any], cloud: roles.Cloud, tmp_path: Path,
) -> None:  # fmt: skip
    """DEMAND TRN-2, OPS-13: inputs, checkpoints and outputs by IRSA, and the token is renewed while it trains. The next
    attempt has another role, which may do nothing here: it ends at once, for good, and says whose role that is."""
    cloud.good_for = 300.0  # boto3 asks anew before each request
    wall = tmp_path / "wall"
    task = spec(params={"wall": str(wall), "until": 2})
    depot = Depot(objects, task.run_id)
    digest = depot.deposit(home, task)
    process = pod(task, digest, WINDTUNNEL_CHECKPOINT_EVERY="0.2")
    until(lambda: process.poll() is not None or _kept(objects, depot) == "2")
    assert process.poll() is None, process.communicate()[0]
    given = store[1]
    renewed = cloud.renew(Path(given["AWS_WEB_IDENTITY_TOKEN_FILE"]), given["AWS_ROLE_ARN"])
    assert renewed not in cloud.presented
    wall.touch()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert renewed in cloud.presented
    assert depot.collect(home).metrics["epoch"] == 2.0
    given |= cloud.service_account(tmp_path / "training", cloud.role("somebody"))
    process = pod(task, digest, attempt=2)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 65, said
    assert f"asked by role {given['AWS_ROLE_ARN']}" in said and "install-on-eks.md" in said


def test_a_pod_told_to_stop_asks_why(objects: Objects, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEMAND TRN-7: once, and a store that does not answer is no reason to stay."""
    from windtunnel.errors import UnavailableError
    from windtunnel.tracking.pods.entry import Order, PodRun

    run = PodRun(Order(objects.url, "sha256:0", "run-1", 1, 600.0, home))
    run.depot = Depot(objects, "run-1")
    run.folder.mkdir(parents=True)
    run._ask_why()
    assert not (run.folder / "cancel.json").exists()
    run.depot.ask_to_end(2, "another attempt")
    run._ask_why()
    assert not (run.folder / "cancel.json").exists()
    run.depot.ask_to_end(1, "Ada ended it")
    run._ask_why()
    assert json.loads((run.folder / "cancel.json").read_text())["reason"] == "Ada ended it"

    def away(key: str) -> bytes:
        raise UnavailableError("no answer")

    monkeypatch.setattr(objects, "get_bytes", away)
    run._ask_why()


def _kept(objects: Objects, depot: Depot) -> str:
    keys = depot.checkpoints()
    return (objects.get_bytes(f"{keys[-1]}/checkpoint/epoch.txt") or b"").decode() if keys else ""


@ON_S3
def test_kinds_of_failure_leave_by_their_codes(
    objects: Objects, home: Home, spec: Callable[..., RunSpec], pod: Callable[..., Any]
) -> None:
    """DEMAND PIP-3"""
    task = spec("bad_data")
    depot = Depot(objects, task.run_id)
    process = pod(task, depot.deposit(home, task))
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 65, said
    ended = depot.outcome(1)
    assert ended is not None and ended.failure == "data" and "the column is empty" in ended.message
    assert objects.get_bytes(f"{depot.key}/attempts/1/log.txt")


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda o, key, d: o.put_bytes(f"{key}/rows", b"x" * 10), "expected"),
        (lambda o, key, d: o.delete([f"{key}/rows"]), "is missing"),
        (lambda o, key, d: o.delete([f"{key}{parcels.SIDECAR}"]), "is missing"),
        (lambda o, key, d: o.put_bytes(f"{d.key}/spec.json", canonical.dumps({"inputs": {}})), "not what this pod"),
    ],
    ids=["changed", "gone", "unfinished", "another order"],
)
def test_a_corrupt_or_missing_input_ends_before_any_work(
    break_it: Callable[[Objects, str, Depot], None],
    said: str,
    objects: Objects,
    home: Home,
    spec: Callable[..., RunSpec],
    tmp_path: Path,
) -> None:
    """DEMAND PIP-2"""
    task = spec()
    depot = Depot(objects, task.run_id)
    digest = depot.deposit(home, task)
    break_it(objects, "pipelines/sea.train/runs/run:1/steps/data/outputs/rows", depot)
    with pytest.raises((DataError, IntegrityError), match=said):
        depot.fetch(digest, tmp_path / "inputs")


def test_a_bad_checkpoint_is_passed_over(objects: Objects, tmp_path: Path) -> None:
    """DEMAND TRN-3: the newest good one counts."""
    depot, run = Depot(objects, "r"), tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True)
    for epoch in (1, 2):
        (run / "checkpoint" / "epoch.txt").write_text(str(epoch))
        (run / "metrics.jsonl").write_text(f"{epoch}\n")
        assert depot.save_checkpoint(run, f"0001-{epoch:06d}") is not None
    objects.put_bytes(f"{depot.checkpoints()[-1]}/checkpoint/epoch.txt", b"9")
    again, told = tmp_path / "again", []
    assert depot.restore(again, told.append) == "0001-000001"
    assert (again / "checkpoint" / "epoch.txt").read_text() == "1"
    assert (again / "metrics.jsonl").read_text() == "1\n"
    assert "corrupt" in told[0]
    assert Depot(objects, "another").restore(tmp_path / "empty", told.append) is None


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_set_that_its_queue_let_go_again_counts_its_checkpoints_on(
    objects: Objects, home: Home, spec: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND TRN-3, TRN-4: it is the same attempt; what it stores now is the newest, not the first to be removed."""
    from windtunnel.tracking.pods import entry

    task = spec()
    depot, before = Depot(objects, task.run_id), tmp_path / "before"
    (before / "checkpoint").mkdir(parents=True)
    for epoch in (4, 5):
        (before / "checkpoint" / "epoch.txt").write_text(str(epoch))
        depot.save_checkpoint(before, f"0001-{epoch:06d}")
    monkeypatch.setenv("WINDTUNNEL_NODES", "2")
    monkeypatch.setattr(entry.signal, "signal", lambda *given: None)
    monkeypatch.setattr(entry.local, "start", lambda *given, **more: None)
    monkeypatch.setattr(entry.PodRun, "_watch", lambda self: None)
    run = entry.PodRun(entry.Order(objects.url, depot.deposit(home, task), task.run_id, 1, 600.0, Home(tmp_path / "p")))
    run.go()
    kept = run.folder / "checkpoint" / "epoch.txt"
    assert kept.read_text() == "5"
    run._checkpoint()
    assert [key[-11:] for key in depot.checkpoints()] == ["0001-000004", "0001-000005"], "what came back is not new"
    kept.write_text("6")
    run._checkpoint()
    assert [key[-11:] for key in depot.checkpoints()] == ["0001-000005", "0001-000006"]
    assert _kept(objects, depot) == "6"


def test_a_pod_that_is_told_to_stop_leaves_the_upload_it_is_in(
    objects: Objects, spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    """DEMAND TRN-3, TRN-7: the training hears of it at once; what was half sent is no checkpoint, the one before stays
    the newest, and the last one is sent to its end."""
    from windtunnel.tracking.pods import entry

    task = spec()
    depot = Depot(objects, task.run_id)
    run = entry.PodRun(entry.Order(objects.url, "", task.run_id, 1, 600.0, Home(tmp_path / "p")))
    folder = run.folder / "checkpoint"
    folder.mkdir(parents=True)
    (folder / "epoch").write_text("1")
    run._checkpoint()
    (folder / "epoch").write_text("2")
    (folder / "weights").write_bytes(os.urandom(20 * 2**20))
    asked: list[str] = []

    class Told:
        """The same store; TERM comes when it has begun to take a file."""

        def __getattr__(self, name: str) -> Any:
            return getattr(objects, name)

        def put(self, key: str, source: Path, go_on: Callable[[], None] | None = None) -> None:
            def ask() -> None:
                asked.append(key)
                if key.endswith("/weights"):
                    signal.raise_signal(signal.SIGTERM)
                assert go_on is not None
                go_on()

            objects.put(key, source, ask if go_on is not None else None)

    run.depot = Depot(Told(), task.run_id)  # type: ignore[arg-type]
    before = signal.signal(signal.SIGTERM, run._asked_to_stop)
    try:
        run._checkpoint()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert run.told and asked.count(asked[-1]) == 1, "it was left at the first question"
    assert [key[-11:] for key in depot.checkpoints()] == ["0001-000000"]
    assert depot.restore(tmp_path / "next") == "0001-000000" and (tmp_path / "next/checkpoint/epoch").read_text() == "1"
    assert not objects.sizes(f"{depot.key}/checkpoints/0001-000001/checkpoint/weights")
    if isinstance(objects, stores.S3Objects):
        until(lambda: "Uploads" not in objects._client.list_multipart_uploads(Bucket=objects.bucket), 60)
    run._checkpoint(last=True)
    assert depot.restore(tmp_path / "next") == "0001-000001" and (tmp_path / "next/checkpoint/epoch").read_text() == "2"
    assert (tmp_path / "next/checkpoint/weights").stat().st_size == 20 * 2**20


def test_a_parcel_is_whole_or_not_there(objects: Objects, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "a b.txt").write_bytes(b"1")
    (folder / "empty").write_bytes(b"")
    assert parcels.receive(objects, "p", tmp_path / "x") is None
    sent = parcels.send(objects, "p", parcels.contents(folder))
    assert parcels.receive(objects, "p", tmp_path / "x") == sent
    assert (tmp_path / "x" / "below" / "a b.txt").read_bytes() == b"1"
    objects.put_bytes("p/empty", b"!")
    with pytest.raises(IntegrityError, match="p/empty has 1 bytes, expected 0"):
        parcels.receive(objects, "p", tmp_path / "x")
    assert (tmp_path / "x" / "empty").read_bytes() == b"", "what was there stays"
    assert parcels.send(objects, "p", parcels.contents(folder)) == sent
    parcels.remove(objects, "p")
    assert not objects.sizes("p")


def test_a_parcel_that_names_a_file_outside_is_refused(objects: Objects, tmp_path: Path) -> None:
    plain = {"files": {"../../evil": ["0" * 64, 1]}, "about": {}}
    objects.put_bytes(f"p{parcels.SIDECAR}", canonical.dumps(plain))
    with pytest.raises(IntegrityError, match="outside"):
        parcels.receive(objects, "p", tmp_path / "x")
    objects.put_bytes(f"p{parcels.SIDECAR}", b"[1")
    with pytest.raises(IntegrityError, match="list of files"):
        parcels.receive(objects, "p", tmp_path / "x")


def test_stores_that_refuse_and_stores_that_are_away(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What an answer means for another try; DEMAND PIP-3, OPS-13."""
    import boto3
    from botocore.config import Config

    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DataError, match="NoSuchBucket"):
        stores.connect("s3://nobody-has-this-bucket/x").put_bytes("a", b"1")
    away = boto3.client(
        "s3", endpoint_url="http://127.0.0.1:9", config=Config(retries={"max_attempts": 0}, connect_timeout=2)
    )
    with pytest.raises(UnavailableError, match="does not answer"):
        stores.connect("s3://b", away).get_bytes("a")
    for url in ("gs://bucket/x", "s3://", "file://host/x", "/plain"):
        with pytest.raises(DataError, match="no object store"):
            stores.connect(url)
