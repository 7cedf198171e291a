"""What a run uses, on its MLflow run as system metrics. DEMAND TRN-6"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import until

from windtunnel.home import Home
from windtunnel.tracking import gpus, local, nodes, sampling
from windtunnel.tracking.contract import RunSpec, RunStatus, run_dir
from windtunnel.tracking.gpus import Gpus
from windtunnel.tracking.run import own_metrics
from windtunnel.tracking.server import connect
from windtunnel.tracking.spool import Spool

FAST = {sampling.VARIABLE: "0.2"}


def test_a_run_that_never_heard_of_mlflow_has_system_metrics(
    spec: Callable[..., RunSpec], run: Callable[..., RunStatus], store: str, home: Home
) -> None:
    """DEMAND TRN-6, TRK-7: the server was away until the run had ended, and has every number afterwards."""
    from mlflow.tracking import MlflowClient

    run_id = connect(store).create_run("visits", "burns", {}, "burns")
    dead = spec("burns", run_id=run_id, kind="step", tracking_uri="http://127.0.0.1:9", environment=FAST)
    ended = run(dead, env={"WINDTUNNEL_DELIVER_WITHIN": "0", "WINDTUNNEL_CLOSE_WITHIN": "0"})
    assert ended.failure == "transient", "what was made is not delivered yet"
    spool = Spool(run_dir(home, run_id))
    before = [point for point in spool.points()[0] if point.key == "system/cpu_utilization_percentage"]
    assert len(before) >= 3
    again = spec("burns", run_id=run_id, kind="step", tracking_uri=store, environment=FAST)
    assert run(again, restart=True).state == "succeeded"
    client = MlflowClient(tracking_uri=store)
    found = client.get_metric_history(run_id, "system/cpu_utilization_percentage")
    assert [point.step for point in found] == list(range(len(found))), "one series over both attempts"
    assert len(found) >= len(before) + 3
    assert max(point.value for point in found) > 10, "of one core, however busy the machine is"
    memory = client.get_metric_history(run_id, "system/system_memory_usage_megabytes")
    assert max(point.value for point in memory) > 64
    share = client.get_metric_history(run_id, "system/system_memory_usage_percentage")[-1]
    assert share.value == pytest.approx(100 * memory[-1].value / (2 * 2**30 / 1e6), abs=0.01)
    assert own_metrics(spool) == {"loss": 0.5}, "the training's own metrics are not mixed with the machine's"


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [({}, 10.0), ({sampling.VARIABLE: "2.5"}, 2.5), ({sampling.VARIABLE: "soon"}, 10.0), ({sampling.VARIABLE: "-1"}, 0),
     ({sampling.THEIRS: "true"}, 0)],
)  # fmt: skip
def test_how_often_is_mlflows_own_setting(environment: dict[str, str], seconds: float) -> None:
    """Where the training asks for MLflow's own monitor, its names are left to it."""
    assert sampling.interval(environment) == seconds


def test_a_container_is_measured_as_the_kubelet_does(tmp_path: Path) -> None:
    cgroup, network = tmp_path / "cgroup", tmp_path / "dev"
    cgroup.mkdir()

    def say(throttled: int, current: int, came: int) -> None:
        (cgroup / "cpu.stat").write_text(f"usage_usec 99\nnr_throttled 1\nthrottled_usec {throttled}\n")
        (cgroup / "memory.max").write_text("1000000000\n")
        (cgroup / "memory.current").write_text(f"{current}\n")
        (cgroup / "memory.stat").write_text("anon 5\ninactive_file 100000000\n")
        lo, eth = "1 0 0 0 0 0 0 0 7 0 0 0 0 0 0 0", f"{came} 0 0 0 0 0 0 0 {2 * came} 0 0 0 0 0 0 0"
        network.write_text(f"Inter-|\n face |\n    lo: {lo}\n  eth0: {eth}\n")

    usage = sampling.Usage(os.getpid(), 2.0, 2 * 10**8, cgroup=cgroup, network=network)
    say(1_000_000, 400_000_000, 5_000_000)
    first = usage.sample(10**8, 50.0)
    assert "cpu_utilization_percentage" not in first, "a share needs two looks"
    say(3_000_000, 600_000_000, 8_000_000)
    second = usage.sample(10**8, 60.0)
    assert second["cpu_throttled_percentage"] == pytest.approx(20.0)
    assert second["container_memory_usage_megabytes"] == pytest.approx(500.0)
    assert second["container_memory_usage_percentage"] == pytest.approx(50.0)
    assert second["system_memory_usage_percentage"] == pytest.approx(50.0)
    assert (second["network_receive_megabytes"], second["network_transmit_megabytes"]) == pytest.approx((3.0, 6.0))
    (cgroup / "memory.max").write_text("max\n")
    assert "container_memory_usage_megabytes" not in usage.sample(0, 70.0)
    assert sampling.Usage(os.getpid(), 1.0, None).sample(0, 1.0) == {"system_memory_usage_megabytes": 0.0}


def test_cpu_time_of_processes_that_have_ended_is_not_lost() -> None:
    before = sampling.cpu_seconds(os.getpid())
    inner = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], check=True)"
    subprocess.run([sys.executable, "-c", outer], check=True)
    assert 0.45 < sampling.cpu_seconds(os.getpid()) - before < 20


def test_a_sampler_that_breaks_says_so_and_the_run_goes_on(tmp_path: Path) -> None:
    said: list[str] = []

    def broken() -> Gpus:
        raise RuntimeError("the driver is of another age")

    one = sampling.Sampler(tmp_path, sampling.Usage(os.getpid(), 1.0, None), lambda: 1, 0.05, broken, said.append)
    until(lambda: said)
    assert "the driver is of another age" in said[0]
    assert one.stop() == {}


class Nvml:
    """NVIDIA's library with two GPUs, the second cut into two slices; what a slice does not tell is an error."""

    class NVMLError(Exception): ...

    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self) -> None:
        self.closed = 0

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None:
        self.closed += 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.1"

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"gpu{index}"

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "NVIDIA H200" + (" MIG 1g.18gb" if "/" in handle else "")

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return ("MIG-" if "/" in handle else "GPU-") + handle

    def nvmlDeviceGetMigMode(self, handle: str) -> tuple[int, int]:
        if handle == "gpu0":
            raise self.NVMLError("not supported")
        return 1, 1

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:
        if index > 1:
            raise self.NVMLError("not found")
        return f"{handle}/{index}"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return SimpleNamespace(used=2 * 10**9 if "/" in handle else 10**9, total=4 * 10**9)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return SimpleNamespace(gpu=75)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 350_000

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        raise self.NVMLError("not supported")


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    found = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", found)  # type: ignore[arg-type]
    return found


def test_gpus_and_slices_by_mlflows_names(nvml: Nvml) -> None:
    """A slice tells its memory and its profile; use and power are the whole GPU's, and not told as if they were its."""
    seen = Gpus({})
    values = seen.sample()
    assert values["gpu_0_memory_usage_megabytes"] == 1000 and values["gpu_0_memory_usage_percentage"] == 25
    assert values["gpu_0_utilization_percentage"] == 75 and values["gpu_0_power_usage_watts"] == 350
    assert "gpu_0_power_usage_percentage" not in values, "what the driver does not tell is left out"
    assert values["gpu_1_memory_usage_megabytes"] == 2000 and "gpu_1_utilization_percentage" not in values
    assert "gpu_1_power_usage_watts" not in values
    assert [(one["index"], one.get("slice")) for one in seen.facts()] == [(0, None), (1, "1g.18gb"), (2, "1g.18gb")]
    assert seen.facts()[0]["driver"] == "580.1"
    json.dumps(seen.facts())


@pytest.mark.parametrize(
    ("visible", "kept"),
    [
        ("1", ["MIG-gpu1/0"]),
        ("MIG-gpu1/1,0", ["MIG-gpu1/1", "GPU-gpu0"]),
        ("0,9,1", ["GPU-gpu0"]),
        ("GPU-gpu0", ["GPU-gpu0"]),
    ],
)
def test_only_gpus_that_cuda_sees_count(visible: str, kept: list[str], nvml: Nvml) -> None:
    found = Gpus({"CUDA_VISIBLE_DEVICES": visible}).gpus
    assert [one.uuid for one in found] == kept
    assert [one.index for one in found] == list(range(len(kept)))


def test_no_gpu_is_no_error(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LookupError, match="no GPU"):
        Gpus({"CUDA_VISIBLE_DEVICES": ""})
    assert nvml.closed == 1
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not installed
    with pytest.raises(LookupError, match="not installed"):
        Gpus({})


def test_one_number_a_run_for_each_gpu() -> None:
    totals = sampling.Totals()
    for used, busy in ((2**20 / 1e6, 10.0), (3 * 2**20 / 1e6, 50.0)):
        totals.add(
            {
                "gpu_0_memory_usage_megabytes": used,
                "gpu_0_utilization_percentage": busy,
                "cpu_utilization_percentage": 9,
            }
        )
    assert totals.summary() == pytest.approx({"gpu_0_peak_memory_mb": 3.0, "gpu_0_mean_utilization_percentage": 30.0})


def test_nodes_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sampling.prefix() == "system/"
    monkeypatch.setenv(nodes.NODES, "4")
    monkeypatch.setenv(nodes.RANK, "3")
    assert sampling.prefix() == "system/node_3/"


def test_the_real_library_without_a_driver() -> None:
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        with pytest.raises(LookupError, match="no NVIDIA driver"):
            Gpus({})
    else:
        pytest.skip("this machine has a GPU: see tests/kube/test_sampling_gpu.py")


def test_what_gpus_are_reaches_the_run_as_a_tag(tmp_path: Path, nvml: Nvml) -> None:
    one = sampling.Sampler(tmp_path, sampling.Usage(os.getpid(), 1.0, None), lambda: 1, 0.05, lambda: Gpus({}))
    until(lambda: (tmp_path / sampling.FACTS).exists() and (tmp_path / "metrics.jsonl").exists())
    peaks = one.stop()
    assert peaks["system/gpu_0_peak_memory_mb"] == pytest.approx(10**9 / 2**20)
    assert json.loads((tmp_path / sampling.FACTS).read_text())[2]["slice"] == "1g.18gb"
    assert nvml.closed == 1
    keys = {point.key for point in Spool(tmp_path).points()[0]}
    assert "system/gpu_0_utilization_percentage" in keys
    assert gpus.MEGABYTE == 1e6, "MLflow's megabytes"
    assert local.status(Home(tmp_path), "r").state == "absent"
