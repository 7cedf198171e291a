"""The operators, sensors and watcher of an MLflow server, against a governed one and a plain ``mlflow server``."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pandas as pd
import pytest

# Before anything imports Airflow: it reads its configuration at import and would write into the user's home.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="wt-airflow-"))

from windtunnel.errors import DataError, IntegrityError, RefusedError, TrainingError
from windtunnel.events import Event
from windtunnel.loopback import any_free
from windtunnel.stackfile import read_secret
from windtunnel_airflow.tracking_server import models, runs, sensors, versions
from windtunnel_airflow.tracking_server.hook import MlflowHook
from windtunnel_airflow.tracking_server.poller import Poller
from windtunnel_airflow.tracking_server.predict import BatchPredictOperator
from windtunnel_airflow.tracking_server.rest import MlflowRest
from windtunnel_airflow.tracking_server.triggers import MlflowConditionTrigger
from windtunnel_airflow.tracking_server.watching import EventStream, registry_changes

pytestmark = pytest.mark.real

MLMODEL = b"flavors:\n  python_function:\n    loader_module: wt_line\n    code: code\n    data: data\n"
CODE = b"""
from pathlib import Path

class Line:
    def __init__(self, slope):
        self.slope = slope

    def predict(self, frame):
        import os
        assert not [name for name in os.environ if name.startswith(("MLFLOW_TRACKING_PASS", "AIRFLOW_CONN_"))]
        if (frame["a"] < -99).any():
            raise ValueError("no such row")
        return frame["a"] * self.slope

def _load_pyfunc(path):
    return Line(float((Path(path) / "slope").read_text()))
"""
#: A model of code, for a server without policy.
CODED = {"model/MLmodel": MLMODEL, "model/code/wt_line.py": CODE, "model/data/slope": b"3"}


@dataclass
class Server:
    governed: bool
    url: str
    hands: Any
    rest: MlflowRest

    def run(self, files: dict[str, bytes] | None = None) -> str:
        return str(self.hands.run(files, mlmodel=files is None))


@pytest.fixture(scope="module")
def fitted() -> dict[str, bytes]:
    """A model without code of its own: three times ``a``."""
    import mlflow.sklearn
    from sklearn.linear_model import LinearRegression

    rows = pd.DataFrame({"a": [0.0, 1.0, 2.0]})
    with tempfile.TemporaryDirectory(prefix="wt-model-") as folder:
        model = LinearRegression().fit(rows, rows["a"] * 3)
        mlflow.sklearn.save_model(model, f"{folder}/model", pip_requirements=["scikit-learn"])
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def plain_url(registry_server: Any) -> Iterator[str]:
    """A plain MLflow server. Its database begins as a copy of the governed one's: MLflow's migrations take long."""
    folder, port = Path(tempfile.mkdtemp(prefix="wt-plain-")), any_free()
    with (
        closing(sqlite3.connect(registry_server.home.mlflow / "mlflow.db")) as source,
        closing(sqlite3.connect(folder / "mlflow.db")) as copy,
    ):
        source.backup(copy)
    argv = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"]
    argv += ["--port", str(port), "--workers", "1"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "mlflow"), "server", *argv],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        began = time.monotonic()
        while True:
            try:
                if httpx.get(f"{url}/health", timeout=2, trust_env=False).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            assert process.poll() is None and time.monotonic() - began < 110, (folder / "log").read_text()[-3000:]
            time.sleep(0.1)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(90)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["governed", "plain"])
def server(request: Any, registry_server: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    governed = request.param == "governed"
    connection: dict[str, Any] = {"conn_type": "mlflow"}
    if governed:
        password = read_secret(registry_server.home, "mlflow-service")
        connection |= {"host": registry_server.url, "login": "service", "password": password}
    else:
        connection |= {"host": request.getfixturevalue("plain_url")}
    for name in ("MLFLOW_DEFAULT", "WINDTUNNEL_DEFAULT"):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(connection))
    auth = (connection["login"], connection["password"]) if governed else None
    with httpx.Client(base_url=connection["host"], auth=auth, timeout=30, trust_env=False) as http:
        yield Server(governed, connection["host"], helpers.Hands(http), MlflowHook().rest)


@pytest.fixture
def do() -> Callable[..., Any]:
    """Run an operator as a task of one DAG run; its links are checked to lead somewhere."""

    def run(operator: Any, run_id: str = "r1") -> Any:
        ti = SimpleNamespace(dag_id="d", run_id=run_id, task_id=operator.task_id, map_index=-1)
        context = {"ti": ti, "dag_run": SimpleNamespace(start_date=pd.Timestamp("2026-01-01", tz="UTC"))}
        told = operator.execute(context)
        json.dumps(told, allow_nan=False)
        for link in operator.operator_extra_links:
            assert link.get_link(operator, ti_key=None).startswith("http"), link.name
        return told

    return run


def test_the_connection_is_tested(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    good, words = MlflowHook().test_connection()
    assert good, words
    if server.governed:
        wrong = {"conn_type": "mlflow", "host": server.url, "login": "service", "password": "wrong"}
        monkeypatch.setenv("AIRFLOW_CONN_WRONG", json.dumps(wrong))
        good, words = MlflowHook("wrong").test_connection()
        assert not good and "password" in words


def test_a_registered_models_life(server: Server, do: Any) -> None:
    name = f"life-{time.time_ns()}"
    make = {"task_id": "make", "name": name, "tags": {"team": "sea"}, "description": "first"}
    assert do(models.CreateRegisteredModelOperator(**make))["new"] is True
    again = do(models.CreateRegisteredModelOperator(**{**make, "tags": [{"key": "team", "value": "air"}]}))
    assert (again["new"], again["tags"]["team"]) == (False, "air")
    changed = do(
        models.UpdateRegisteredModelOperator(task_id="t", name=name, tags={"x": 1}, remove_tags=["team", "never"])
    )
    assert changed["tags"] == {"x": "1"}
    found = do(models.SearchRegisteredModelsOperator(task_id="t", filter=f"name = '{name}'"))
    assert [one["name"] for one in found] == [name]
    for _ in range(2):  # a try that lost its answer is tried again
        moved = do(models.RenameRegisteredModelOperator(task_id="t", name=name, new_name=f"{name}-b"))
        assert moved["name"] == f"{name}-b"
    with pytest.raises(Exception, match=f"name='{name}'"):
        do(models.GetRegisteredModelOperator(task_id="t", name=name))
    ends = [do(models.DeleteRegisteredModelOperator(task_id="t", name=f"{name}-b"))["deleted"] for _ in range(2)]
    assert ends == [True, False]


def test_a_versions_life(server: Server, do: Any) -> None:
    name, run_id = f"versions-{time.time_ns()}", server.run()

    def make() -> Any:
        operator = versions.CreateModelVersionOperator(
            task_id="make", name=name, source=f"runs:/{run_id}/model", tags={"kind": "x"}, description="d"
        )
        told = do(operator)
        if server.governed:
            lineage = operator.get_openlineage_facets_on_complete(None)
            assert [one.name for one in lineage.outputs] == [f"models/{name}/1"]
        return told

    first, again = make(), make()
    assert (first["version"], first["status"], first["run_id"], first["new"]) == ("1", "READY", run_id, True)
    assert (again["version"], again["new"]) == ("1", False)
    pointed = do(models.SetModelAliasOperator(task_id="t", name=name, alias="blue", version=1))
    assert pointed == {"name": name, "alias": "blue", "version": "1", "former": None}
    assert do(models.SetModelAliasOperator(task_id="t", name=name, alias="blue", version="1"))["former"] == "1"
    assert do(versions.GetModelVersionOperator(task_id="t", name=name, alias="blue"))["version"] == "1"
    staged = do(versions.TransitionModelVersionStageOperator(task_id="t", name=name, version=1, stage="Staging"))
    assert staged["stage"] == "Staging"
    latest = do(versions.GetLatestModelVersionsOperator(task_id="t", name=name, stages=["Staging"]))
    assert [one["version"] for one in latest] == ["1"]
    told = do(
        versions.UpdateModelVersionOperator(task_id="t", name=name, version=1, tags={"a": "b"}, remove_tags=["kind"])
    )
    assert told["tags"]["a"] == "b" and "kind" not in told["tags"]
    found = do(versions.SearchModelVersionsOperator(task_id="t", filter=f"name = '{name}' AND tag.a = 'b'"))
    assert [one["version"] for one in found] == ["1"]
    copies = [
        do(versions.CopyModelVersionOperator(task_id="copy", name=name, alias="blue", to=f"{name}-b")) for _ in range(2)
    ]
    assert [(one["name"], one["version"], one["new"]) for one in copies] == [
        (f"{name}-b", "1", True), (f"{name}-b", "1", False),
    ]  # fmt: skip
    for former in ("1", None):
        gone = do(models.DeleteModelAliasOperator(task_id="t", name=name, alias="blue"))
        assert gone["former"] == former
    ends = [do(versions.DeleteModelVersionOperator(task_id="t", name=name, version=1))["deleted"] for _ in range(2)]
    assert ends == [True, False]


def test_policy_refuses_an_operator_as_anybody(server: Server, do: Any) -> None:
    """DEMAND PIP-6, REG-5: the refusal an operator gets says what is missing; a plain server has no policy."""
    name, run_id = f"policy-{time.time_ns()}", server.run()
    do(versions.CreateModelVersionOperator(task_id="t", name=name, source=f"runs:/{run_id}/model"))
    operator = models.SetModelAliasOperator(task_id="t", name=name, alias="champion", version=1)
    if not server.governed:
        assert do(operator)["version"] == "1"
        return
    with pytest.raises(RefusedError, match="may not become champion"):
        do(operator)


def test_runs(server: Server, do: Any) -> None:
    name = f"runs-{time.time_ns()}"
    made = [do(runs.CreateExperimentOperator(task_id="t", name=name)) for _ in range(2)]
    assert [one["new"] for one in made] == [True, False]
    begun = [do(runs.CreateRunOperator(task_id="begin", experiment=name, tags={"who": "me"})) for _ in range(2)]
    assert begun[0]["run_id"] == begun[1]["run_id"] and [one["new"] for one in begun] == [True, False]
    assert do(runs.CreateRunOperator(task_id="begin", experiment=name), run_id="r2")["run_id"] != begun[0]["run_id"]
    log = {"run_id": begun[0]["run_id"], "metrics": {"rmse": 0.5}, "parameters": {"depth": 3}, "end": "FINISHED"}
    for _ in range(2):
        assert do(runs.LogToRunOperator(task_id="log", **log))["status"] == "FINISHED"
    history = server.rest.get("/metrics/get-history", run_id=begun[0]["run_id"], metric_key="rmse")["metrics"]
    assert len(history) == 1
    found = do(runs.SearchRunsOperator(task_id="t", experiments=[name], filter="metrics.rmse < 1"))
    assert [one["run_id"] for one in found] == [begun[0]["run_id"]]


def test_predicting_files(
    server: Server, do: Any, tmp_path: Path, registry_server: Any, fitted: dict[str, bytes]
) -> None:
    name, run_id = f"predict-{time.time_ns()}", server.run(fitted if server.governed else CODED)
    do(versions.CreateModelVersionOperator(task_id="t", name=name, source=f"runs:/{run_id}/model"))
    rows = pd.DataFrame({"id": [f"r{n}" for n in range(25)], "a": [float(n) for n in range(25)], "b": 0})
    (tmp_path / "in").mkdir()
    rows[:20].to_parquet(tmp_path / "in" / "1.parquet")
    rows[20:].to_parquet(tmp_path / "in" / "2.parquet")
    rows.to_csv(tmp_path / "in.csv", index=False)
    given = {"task_id": "t", "name": name, "version": 1, "columns": ["a"], "keep": ["id"], "chunk": 7}
    told = do(
        BatchPredictOperator(inputs_path=str(tmp_path / "in"), output_path=str(tmp_path / "out" / "p.parquet"), **given)
    )
    assert (told["rows"], told["chunks"], told["version"]) == (25, 4, "1")
    found = pd.read_parquet(told["output"])
    assert list(found.columns) == ["id", "prediction"]
    assert list(found["prediction"]) == pytest.approx([3.0 * n for n in range(25)], abs=1e-9)
    assert list(found["id"]) == list(rows["id"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p.parquet"]
    assert (told["digest"] is not None) == server.governed
    if not server.governed:
        with pytest.raises(IntegrityError, match="cannot be verified"):
            do(
                BatchPredictOperator(
                    inputs_path=str(tmp_path / "in.csv"), output_path=str(tmp_path / "x.csv"), verified=True, **given
                )
            )
        (tmp_path / "bad.csv").write_text("id,a\nr1,1\nr2,-100\n")
        with pytest.raises(TrainingError, match="no such row"):
            do(
                BatchPredictOperator(
                    inputs_path=str(tmp_path / "bad.csv"), output_path=str(tmp_path / "x.csv"), **given
                )
            )
        with pytest.raises(DataError, match="no column wind"):
            wrong = {**given, "columns": ["a", "wind"]}
            do(BatchPredictOperator(inputs_path=str(tmp_path / "in.csv"), output_path=str(tmp_path / "x.csv"), **wrong))
        assert not (tmp_path / "x.csv").exists()
        return
    # Somebody changes one byte of the sealed files, past the proxy.
    (changed,) = registry_server.artifacts.rglob(f"{run_id}/artifacts/model/model.skops")
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.chmod(0o600)
    changed.write_bytes(content)
    before = (tmp_path / "out" / "p.parquet").read_bytes()
    with pytest.raises(IntegrityError):
        do(
            BatchPredictOperator(
                inputs_path=str(tmp_path / "in.csv"), output_path=str(tmp_path / "out" / "p.parquet"), **given
            )
        )
    assert (tmp_path / "out" / "p.parquet").read_bytes() == before


def first_event(trigger: MlflowConditionTrigger, meanwhile: Callable[[], Any]) -> dict[str, Any]:
    """What a trigger, made anew from what Airflow keeps of it, says after something happened."""

    async def go() -> dict[str, Any]:
        _, kwargs = trigger.serialize()
        events = type(trigger)(**json.loads(json.dumps(kwargs))).run()
        waiting = asyncio.ensure_future(events.__anext__())
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await asyncio.to_thread(meanwhile)
        return dict((await asyncio.wait_for(waiting, 60)).payload)

    return asyncio.run(go())


def test_sensors_wait_and_fail(server: Server, do: Any) -> None:
    name, run_id = f"sensed-{time.time_ns()}", server.run()
    end = time.time() + 100

    def wait(sensor: Any, meanwhile: Callable[[], Any]) -> dict[str, Any]:
        return first_event(MlflowConditionTrigger("mlflow_default", sensor.condition(), 0.2, end), meanwhile)

    version = sensors.ModelVersionSensor(task_id="t", name=name, version=1)
    source = f"runs:/{run_id}/model"
    make = versions.CreateModelVersionOperator(task_id="t", name=name, source=source)
    assert wait(version, lambda: do(make))["found"]["status"] == "READY"
    assert do(version)["version"] == "1"
    alias = sensors.ModelAliasSensor(task_id="t", name=name, alias="blue")
    set_alias = models.SetModelAliasOperator(task_id="t", name=name, alias="blue", version=1)
    assert wait(alias, lambda: do(set_alias))["found"]["version"] == "1"
    assert do(sensors.ModelAliasSensor(task_id="t", name=name, alias="blue", changed_from="0", deferrable=False))
    stage = sensors.ModelStageSensor(task_id="t", name=name, stage="staging")
    move = versions.TransitionModelVersionStageOperator(task_id="t", name=name, version=1, stage="Staging")
    assert wait(stage, lambda: do(move))["found"]["version"] == "1"
    begun = do(runs.CreateRunOperator(task_id=f"begin-{name}", experiment="0"))["run_id"]
    fail = runs.LogToRunOperator(task_id="t", run_id=begun, end="FAILED")
    told = wait(sensors.RunSensor(task_id="t", run_id=begun), lambda: do(fail))
    assert told["status"] == "failed" and "is FAILED; waited for FINISHED" in told["message"]
    late = MlflowConditionTrigger("mlflow_default", {**alias.condition(), "version": "9"}, 0.2, time.time() + 1)
    told = first_event(late, lambda: None)
    assert told["status"] == "timeout" and "points to version 1" in told["message"]


def test_many_sensors_ask_together(server: Server) -> None:
    """Two hundred runs and five hundred waiters on one model: a few requests a round."""
    made = [server.rest.send("POST", "/runs/create", experiment_id="0")["run"]["info"]["run_id"] for _ in range(30)]
    name = server.hands.model()
    asked: list[str] = []
    real = httpx.HTTPTransport()

    def note(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return real.handle_request(request)

    counted = MlflowRest(server.rest.address, transport=httpx.MockTransport(note))

    async def rounds() -> list[int]:
        poller, counts = Poller("x", rest=counted, rate=1000), []
        for _ in range(2):
            asked.clear()
            questions = [("run", run) for run in made] + [("model", name)] * 500
            answers = await asyncio.gather(*(poller.ask(question, fresh=0) for question in questions))
            assert [answer["run_id"] for answer in answers[:30]] == made
            counts.append(len(asked))
        return counts

    first, second = asyncio.run(rounds())
    # The first round learns which experiments the runs are of.
    assert first == 31 and second == 2


class Kept:
    """An asset's state store."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def aget(self, key: str) -> Any:
        return self.values.get(key)

    async def aset(self, key: str, value: Any) -> None:
        self.values[key] = value


def test_the_watcher_misses_nothing(
    server: Server, service: Any, hands: Any, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND PIP-6: changes by any client become events; a triggerer that dies begins where it was, not after it."""
    if not server.governed:
        pytest.skip("a plain server has no outbox")
    from airflow.triggers.shared_stream import SharedStreamManager

    model = hands.model()
    asset = registry_changes(model, poll=1)
    assert asset.uri == f"windtunnel://{model}/registry/champion"
    (watcher,) = asset.watchers
    store = Kept()
    monkeypatch.setattr(EventStream, "store", store)

    async def take(count: int, persist: bool, meanwhile: Callable[[], Any]) -> list[dict[str, Any]]:
        """What a triggerer does: the trigger's events go to the database, and it hears of that, or dies before."""
        manager = SharedStreamManager(log=__import__("structlog").get_logger(), ack_timeout=60.0)
        trigger = type(watcher.trigger)(**watcher.trigger.serialize()[1])
        key = trigger.shared_stream_key()
        stream = trigger.filter_shared_stream(manager.subscribe(trigger_id=1, trigger=trigger, key=key))
        waiting = asyncio.ensure_future(stream.__anext__())
        while not store.values:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(meanwhile)
        told = []
        for number in range(count):
            told.append((await asyncio.wait_for(waiting, 60)).payload)
            seq = manager.bind_pending_event(trigger_id=1, key=key)
            before = dict(store.values)
            if persist:
                manager.confirm_persisted([seq])
            waiting = asyncio.ensure_future(stream.__anext__())
            while persist and store.values == before:
                await asyncio.sleep(0.02)
            assert number + 1 < count or persist or store.values == before
        waiting.cancel()
        await manager.stop_all()
        return told

    (lost,) = asyncio.run(take(1, False, lambda: helpers.crown(service, hands, model)))
    again, second = asyncio.run(take(2, True, lambda: helpers.crown(service, hands, model, data="sha256:d2")))
    assert again["id"] == lost["id"]
    record = service.champion(model)
    assert (second["model"], second["version"], second["digest"]) == (model, "2", record.digest)
    event = Event.from_extra({"from_trigger": True, "payload": second})
    assert event is not None and event.correlation_id == "c1" and event.cause.startswith("promote by service")
