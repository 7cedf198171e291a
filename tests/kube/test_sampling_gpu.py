"""Sampling on a real GPU: the run of a process that uses it, with NVIDIA's own library. DEMAND TRN-6

Needs a driver, and few packages: ``pip install pytest rfc8785 httpx nvidia-ml-py``, then
``python -m pytest --noconftest tests/kube/test_sampling_gpu.py``.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from windtunnel.home import Home
from windtunnel.tracking import local, sampling
from windtunnel.tracking.contract import RunSpec, run_dir
from windtunnel.tracking.gpus import Gpus
from windtunnel.tracking.spool import Spool

HELD = 2**30
#: Holds 1 GiB of GPU 0 and keeps it busy, by the driver alone: no framework is needed, and none of ours.
CODE = f"""
import ctypes, time

def train(run):
    cuda = ctypes.CDLL("libcuda.so.1")
    def check(code):
        assert code == 0, code
    check(cuda.cuInit(0))
    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    check(cuda.cuDeviceGet(ctypes.byref(device), 0))
    check(cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device))
    check(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t({HELD})))
    end = time.monotonic() + 8
    while time.monotonic() < end:
        for _ in range(200):
            check(cuda.cuMemsetD8_v2(memory, ctypes.c_ubyte(7), ctypes.c_size_t({HELD})))
        check(cuda.cuCtxSynchronize())
    check(cuda.cuMemFree_v2(memory))
"""


@pytest.fixture
def seen() -> Any:
    try:
        found = Gpus()
    except LookupError as error:
        pytest.skip(f"needs an NVIDIA GPU with its driver: {error}")
    yield found
    found.close()


def test_every_number_of_an_idle_or_busy_gpu(seen: Gpus) -> None:
    values, facts = seen.sample(), seen.facts()
    for one in seen.gpus:
        assert 0 <= values[f"gpu_{one.index}_memory_usage_percentage"] <= 100
        if one.slice is None:
            assert 0 <= values[f"gpu_{one.index}_utilization_percentage"] <= 100
            assert values[f"gpu_{one.index}_power_usage_watts"] > 1
    assert all(fact["memory"] > 2**30 and fact["name"] and fact["driver"] for fact in facts)
    print(json.dumps({"facts": facts, "values": values}))


def test_a_sample_costs_little(seen: Gpus) -> None:
    began = time.perf_counter()
    for _ in range(50):
        seen.sample()
    print(f"one look at {len(seen.gpus)} GPUs: {1000 * (time.perf_counter() - began) / 50:.2f} ms")


def test_a_training_that_uses_a_gpu_says_how_much(seen: Gpus, tmp_path: Path) -> None:
    (tmp_path / "wt_gpu_case.py").write_text(CODE)
    home = Home(tmp_path / "home")
    idle = seen.sample()["gpu_0_memory_usage_megabytes"]
    spec = RunSpec(
        run_id="gpu", model="sea", entry_point="wt_gpu_case:train", kind="step", time_limit=120.0,
        resources={"cpu": 1, "memory": 8 * 2**30, "disk": 2**30}, python_path=[str(tmp_path)],
        environment={sampling.VARIABLE: "0.5"}, tracking_uri="http://127.0.0.1:9",
    )  # fmt: skip
    local.start(home, spec, env={**os.environ, "WINDTUNNEL_DELIVER_WITHIN": "0", "WINDTUNNEL_CLOSE_WITHIN": "0"})
    ended = local.wait(home, "gpu", timeout=120)
    log, _ = local.tail(home, "gpu")
    assert ended.failure == "transient" and "not delivered" in ended.message, log  # its server is nobody
    points = Spool(run_dir(home, "gpu")).points()[0]
    last = {key: [p.value for p in points if p.key == key] for key in {p.key for p in points}}
    assert len(last["system/gpu_0_memory_usage_megabytes"]) >= 5
    assert max(last["system/gpu_0_memory_usage_megabytes"]) >= idle + HELD / 1e6
    if seen.gpus[0].slice is None:
        assert max(last["system/gpu_0_utilization_percentage"]) > 50
        assert last["system/gpu_0_mean_utilization_percentage"][0] > 10
    assert last["system/gpu_0_peak_memory_mb"][0] >= HELD / 2**20
    facts = json.loads((run_dir(home, "gpu") / "facts.json").read_text())
    assert json.loads(facts["tags"]["wt.gpus"])[0]["name"] == seen.gpus[0].name
    print(json.dumps({key: values for key, values in sorted(last.items()) if "gpu" in key}))
