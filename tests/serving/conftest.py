"""A real serving stack without Airflow and MLflow's server: supervisord, Envoy, model servers."""

from __future__ import annotations

import enum
import http.client
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from windtunnel.evidence import manifest
from windtunnel.home import Home
from windtunnel.serving import desired
from windtunnel.serving.backend import Arm
from windtunnel.serving.local import LocalBackend, envoy, servers
from windtunnel.serving.traffic import meter
from windtunnel.stackfile import StackFile, make_socket_folder, supervisor_socket

ROOT = Path(__file__).parents[2]
SERVING_PYTHON = os.environ.get("WINDTUNNEL_SERVING_PYTHON") or str(ROOT / ".venv-serving/bin/python")
ROW: dict[str, Any] = {"age": 30.0, "income": 50.0, "visits": 2, "plan": "free"}
FEATURES = [
    {"name": "age", "minimum": 0, "maximum": 130},
    {"name": "income", "nullable": True},
    {"name": "visits"},
    {"name": "plan", "kind": "categorical", "categories": ["free", "paid"]},
]


#: Values of ``visits`` that make the troublesome model misbehave.
class Trouble(enum.IntEnum):
    RAISE = 101
    SLEEP = 102
    NAN = 103
    LEAK = 104
    EXIT = 105


_TROUBLE = f'''
import os, time
import mlflow, numpy as np

class Trouble(mlflow.pyfunc.PythonModel):
    """Predicts well, unless a request asks for trouble."""

    def predict(self, context, model_input, params=None):
        mode = int(model_input["visits"].iloc[0])
        if mode == {Trouble.RAISE:d}:
            raise RuntimeError("no such member")
        if mode == {Trouble.SLEEP:d}:
            time.sleep(float(model_input["age"].iloc[0]))
        if mode == {Trouble.LEAK:d}:
            kept = []
            while True:
                kept.append(np.ones(4 << 20))
        if mode == {Trouble.EXIT:d}:
            os._exit(1)
        values = np.full(len(model_input), float("nan") if mode == {Trouble.NAN:d} else 2.5)
        return values

mlflow.models.set_model(Trouble())
'''
_BROKEN = '''
import mlflow

class Broken(mlflow.pyfunc.PythonModel):
    """Cannot be loaded."""

    def load_context(self, context):
        raise RuntimeError("weights are missing")

    def predict(self, context, model_input, params=None):
        return [0.0] * len(model_input)

mlflow.models.set_model(Broken())
'''


@dataclass(frozen=True)
class Saved:
    path: Path
    digest: str

    def arm(self, version: str, weight: int = 0) -> Arm:
        return Arm(version, self.digest, str(self.path), weight)


@dataclass(frozen=True)
class Models:
    good: Saved
    trouble: Saved
    broken: Saved


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Small models saved with MLflow, the same signature all."""
    import mlflow
    import numpy as np
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    root = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "age": rng.uniform(0, 90, 200),
            "income": rng.normal(50, 9, 200),
            "visits": rng.integers(0, 9, 200),
            "plan": rng.choice(["free", "paid"], 200),
        }
    )
    model = make_pipeline(
        ColumnTransformer([("plan", OneHotEncoder(), ["plan"]), ("numbers", "passthrough", ["age", "visits"])]),
        LinearRegression(),
    ).fit(frame, 0.1 * frame.age + frame.visits)
    signature = infer_signature(frame, model.predict(frame))
    mlflow.sklearn.save_model(model, str(root / "good"), signature=signature, pip_requirements=["scikit-learn"])
    source = root / "behaviour.py"
    source.write_text(_TROUBLE)
    mlflow.pyfunc.save_model(
        str(root / "trouble"), python_model=str(source), signature=signature, pip_requirements=["mlflow"]
    )
    # Saving loads the code, and what the broken model does when loaded is the point: its code is put in afterwards.
    shutil.copytree(root / "trouble", root / "broken")
    (root / "broken" / source.name).write_text(_BROKEN)
    found = {name: root / name for name in ("good", "trouble", "broken")}
    return Models(**{name: Saved(path, manifest.build(path).content) for name, path in found.items()})


@dataclass
class Served:
    """A running supervisord with Envoy, in a home of its own."""

    home: Home
    port: int
    process: subprocess.Popen[bytes] | None = None
    backend: LocalBackend = field(init=False)

    def __post_init__(self) -> None:
        self.backend = LocalBackend(self.home)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "supervisor.supervisord",
                "-n",
                "-c",
                str(self.home.supervisor / "supervisord.conf"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self.backend.router.alive, 10, "Envoy")

    def pid(self, program: str) -> int | None:
        return self.backend.manager.status(program).pid

    def pids(self) -> list[int]:
        names = ["envoy", *self.backend.manager.names()]
        return [pid for pid in map(self.pid, names) if pid]

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def power_cut(self) -> None:
        """Everything dies at once, without a word."""
        assert self.process is not None
        pids = self.pids()
        for pid in (self.process.pid, *pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(60)
        wait_until(lambda: not any(alive(pid) for pid in pids), 10, "the end of all processes")

    def infer(self, model: str, *rows: dict[str, Any], headers: dict[str, str] | None = None, **more: Any) -> Answer:
        body = more.get("body") or json.dumps({"inputs": servers.tensors(list(rows) or [ROW])})
        return self.call("POST", f"/v2/models/{model}/infer", body, headers)

    def call(self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, response.read())
        finally:
            connection.close()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def version(self) -> str | None:
        return self.headers.get("x-windtunnel-version")


#: How much slower than at rest a machine may be that does other things too.
LOADED = 5


def wait_until(condition: Callable[[], object], limit_s: float, what: str) -> None:
    """``limit_s`` is what a machine at rest may take."""
    deadline = time.monotonic() + LOADED * limit_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {LOADED} times {limit_s} s"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Running, and no zombie that somebody else has to bury."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def make_home(root: Path, port: int) -> Home:
    """A home with a supervisord configuration that runs Envoy."""
    home = Home(root)
    for folder in (home.root, home.logs, home.supervisor / "conf.d"):
        folder.mkdir(parents=True, exist_ok=True)
    stack = StackFile(
        str(home.root), {"envoy": port}, {"inference": f"http://127.0.0.1:{port}"},
        {"main": sys.executable, "serving": SERVING_PYTHON},
    )  # fmt: skip
    home.stack_file.write_text(stack.to_json())
    envoy.bootstrap(home, port)
    make_socket_folder(supervisor_socket(home))
    command = shlex.join(envoy.command(home)).replace("%", "%%")
    (home.supervisor / "supervisord.conf").write_text(
        f"[supervisord]\nlogfile={home.logs}/supervisord.log\npidfile={home.supervisor}/supervisord.pid\n"
        f"[unix_http_server]\nfile={supervisor_socket(home)}\nchmod=0600\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        f"[program:envoy]\ncommand={command}\nredirect_stderr=true\nstdout_logfile={home.logs}/envoy.log\n"
        f"[include]\nfiles={home.supervisor}/conf.d/*.conf\n"
    )
    return home


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """The stack of this folder's real tests, one for the session."""
    folder = Path(tempfile.mkdtemp(prefix="wts-"))
    port = servers.free_port(set(), os.getpid())
    found = Served(make_home(folder / "home", port), port)
    stop = threading.Event()
    counting = threading.Thread(target=meter.run, args=(found.home, stop), daemon=True)
    try:
        found.start()
        counting.start()
        yield found
    finally:
        stop.set()
        counting.join()
        pids = found.pids() if found.process else []
        found.stop()
        wait_until(lambda: not any(alive(pid) for pid in pids), 20, "the end of the servers")
        shutil.rmtree(folder, ignore_errors=True)


def settings(serving: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "serving": {"flush": "1s", "drain": "1s", "timeout": "2s", **(serving or {})},
        "features": FEATURES,
        "warmup": [ROW],
    }


@dataclass
class Kit:
    """What the conformance suite asks for; see there."""

    served: Served
    saved: Models
    model: str = "visits"
    row: ClassVar[dict[str, Any]] = ROW
    trouble: ClassVar[type[Trouble]] = Trouble
    tokens: ClassVar[Iterator[int]] = itertools.count(1)
    alive = staticmethod(alive)
    wait_until = staticmethod(wait_until)

    @property
    def backend(self) -> LocalBackend:
        return self.served.backend

    @property
    def settings(self) -> dict[str, Any]:
        more = {version: settings() for version in ("1", "3", "8", "9")}
        return {**more, "2": settings({"memory": "600Mi"})}

    def ask(self, headers: dict[str, str]) -> str | None:
        answer = self.served.infer(self.model, headers=headers)
        return answer.version if answer.status == 200 else None

    def arm(self, n: int, weight: int) -> Arm:
        return (self.saved.good if n == 1 else self.saved.trouble).arm(str(n), weight)

    def changed_arm(self, weight: int) -> Arm:
        return Arm("8", "sha256:" + "0" * 64, str(self.saved.good.path), weight)

    def unready_arm(self, weight: int) -> Arm:
        return self.saved.broken.arm("9", weight)

    def next_token(self) -> int:
        return next(self.tokens)

    def fingerprint(self) -> object:
        home = self.served.home
        files = [home.supervisor / "conf.d", envoy.folder(home), home.serving_model(self.model)]
        stamps = {
            str(path): path.stat().st_mtime_ns
            for root in files
            for path in root.rglob("*.json")
            if "loaded" not in path.name
        }
        stamps |= {str(path): path.stat().st_mtime_ns for path in files[0].glob("*.conf")}
        return stamps, self.served.pids(), desired.StateFile(home, self.model).read()


@pytest.fixture(scope="session")
def kit(served: Served, models: Models) -> Kit:
    return Kit(served, models)


@pytest.fixture(scope="session")
def serving_python() -> str:
    return SERVING_PYTHON


@pytest.fixture
def row() -> dict[str, Any]:
    return dict(ROW)
