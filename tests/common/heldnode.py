"""A node whose pods can be held in a phase of their life, and that ends their processes when they are deleted."""

from __future__ import annotations

import contextlib
import copy
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from fakecluster import Cluster, Kubelet, Status

from windtunnel.tracking.pods import naming

#: Phases of a pod before its container runs: what the API says of it.
WAITING: dict[str, Status] = {
    "queued": {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "gated"}],
    },
    "unschedulable": {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}],
    },
    "starting": {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [{"name": "training", "image": "x", "imageID": "", "ready": False, "restartCount": 0,
                               "state": {"waiting": {"reason": "ContainerCreating"}}}],
    },
}  # fmt: skip
PHASES = (*WAITING, "running", "uploading")

#: Read by every interpreter of a pod: its store is slow while there is a file that says so.
SLOW = '''
"""Uploads of what was trained take as long as there is a file that says so."""
import os, time
from pathlib import Path

from windtunnel.data.objects import FolderObjects

put, here = FolderObjects.put, Path(__file__).parent


def slowly(self, key, source, go_on=None):
    run = os.environ.get("WINDTUNNEL_RUN_ID", "")
    if key.startswith(f"runs/{run}/trained/"):
        (here / f"sends-{run}").touch()
        while (here / f"slow-{run}").exists():
            time.sleep(0.05)
    return put(self, key, source, go_on)


FolderObjects.put = slowly
'''


class HeldNode(Kubelet):
    """Pods are told apart by the DAG run that made them; the first pod of each is held where ``hold`` says.

    Args:
        code: a folder of the test's own: what holds uploads is written there, and ``modules`` beside it.

    Attributes:
        made: every pod that was ever made, as it was then.
        gone: name -> when it was no more (``time.monotonic``).
        forced: names of pods whose time was over before they had ended.
    """

    def __init__(
        self, cluster: Cluster, folder: Path, code: Path, modules: list[Path], secrets: dict[str, str] | None = None
    ) -> None:
        super().__init__(cluster, folder, code, secrets)
        code.mkdir(parents=True)
        (code / "sitecustomize.py").write_text(SLOW)
        for module in modules:
            (code / module.name).write_text(module.read_text())
        cluster.lingers = self._end
        self.hold: dict[str, str] = {}
        self.freed: set[str] = set()
        self.made: list[dict[str, Any]] = []
        self.gone: dict[str, float] = {}
        self.forced: set[str] = set()
        self._threads: list[threading.Thread] = []

    # -- what the test asks for
    def wall(self, dag_run: str) -> Path:
        """Where the training of that DAG run waits for the test, while it is not there."""
        return self.code / f"wall-{dag_run}"

    def free(self, dag_run: str) -> None:
        """Let its pods go on."""
        self.freed.add(dag_run)
        self.wall(dag_run).touch()
        for pod in self.of(dag_run):
            (self.code / f"slow-{run_id(pod)}").unlink(missing_ok=True)

    def of(self, dag_run: str) -> list[dict[str, Any]]:
        """The pods that it made, the oldest first."""
        return [pod for pod in self.made if dag_run_of(pod) == dag_run]

    def reached(self, dag_run: str) -> bool:
        """Whether its first pod is where it is held."""
        pods, phase = self.of(dag_run), self.hold[dag_run]
        if not pods:
            return False
        name = str(pods[0]["metadata"]["name"])
        if phase in WAITING:
            return True
        if phase == "running":
            return name in self.processes and "epoch 2 of 3" in (self.folder / name / "log").read_text()
        return (self.code / f"sends-{run_id(pods[0])}").exists()

    # -- the node
    def run(self, pod: dict[str, Any]) -> None:
        mine = dag_run_of(pod)
        phase = self.hold.get(mine, "") if not self.of(mine) and mine not in self.freed else ""
        self.made.append(copy.deepcopy(pod))
        if phase == "uploading":
            (self.code / f"slow-{run_id(pod)}").touch()
        if phase not in WAITING:
            return super().run(pod)
        if phase == "queued":  # as Kueue's webhook does it
            pod["metadata"]["labels"][naming.QUEUE] = "team"
            pod["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
        elif phase == "starting":
            pod["spec"]["nodeName"] = "a"
        begin: Callable[[dict[str, Any]], None] = super().run

        def status() -> Status:
            if mine not in self.freed:
                return WAITING[phase]
            pod["spec"].pop("schedulingGates", None)
            pod["spec"]["nodeName"] = "a"
            begin(pod)  # which says itself from now on how it is
            found: Any = self.cluster.scripts[str(pod["metadata"]["name"])][0]
            return dict(found())

        self.cluster.scripts[str(pod["metadata"]["name"])] = [status]
        return None

    def _end(self, name: str, grace: int | None) -> bool:
        process = self.processes.get(name)
        if process is None or process.poll() is not None:
            self.gone[name] = time.monotonic()
            return False
        if "deletionTimestamp" not in self.cluster.pods[name]["metadata"]:
            thread = threading.Thread(target=self._terminate, args=(name, process, grace or 60), daemon=True)
            self._threads.append(thread)
            thread.start()
        return True

    def _terminate(self, name: str, process: subprocess.Popen[bytes], grace: int) -> None:
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            self.forced.add(name)
        self._sweep(name)
        process.wait(60)
        self.cluster.pods.pop(name, None)
        self.gone[name] = time.monotonic()

    def _sweep(self, name: str) -> None:
        """A pod's processes end with it, those that became nobody's descendants, too."""
        folder = str(self.folder / name)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(folder in value for value in process.environ().values()):
                    process.kill()

    def stop(self) -> None:
        for name in list(self.processes):
            self._sweep(name)
        super().stop()
        for thread in self._threads:
            thread.join(100)

    def alive(self) -> list[str]:
        """Pods of which a process is there."""
        return [name for name, process in self.processes.items() if process.poll() is None]


def dag_run_of(pod: dict[str, Any]) -> str:
    """The DAG run that made a pod."""
    return str(json.loads(pod["metadata"]["annotations"][naming.TASK])["run"])


def run_id(pod: dict[str, Any]) -> str:
    """The MLflow run of a pod."""
    return str(pod["metadata"]["annotations"]["windtunnel.dev/run-id"])
