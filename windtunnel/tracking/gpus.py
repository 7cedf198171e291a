"""GPUs as NVIDIA's management library (NVML) sees them: use, memory, power; slices (MIG) by their own memory.

Needs ``nvidia-ml-py`` (extra ``gpu``) and a driver; where either is missing there are no GPUs, and no error. Names are
those of MLflow's own system metrics: ``gpu_0_utilization_percentage``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

MEGABYTE = 1e6  # as MLflow counts


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one slice of one.

    Attributes:
        index: its place among those that are seen, as CUDA counts.
        name: ``NVIDIA H200``.
        uuid: its own, which CUDA_VISIBLE_DEVICES may name.
        slice: the MIG profile, ``1g.18gb``; None where it is a whole GPU.
        handle: NVML's.
        whole: handle of the GPU it is a slice of; its own where it is no slice.
    """

    index: int
    name: str
    uuid: str
    slice: str | None
    handle: Any
    whole: Any

    def to_dict(self) -> dict[str, Any]:
        """What is worth a tag."""
        return {"index": self.index, "name": self.name, "uuid": self.uuid, "slice": self.slice}


class Gpus:
    """The GPUs that this process's CUDA would see.

    Raises (on construction):
        LookupError: there is no NVML, or it knows no GPU; the message says which.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise LookupError("nvidia-ml-py is not installed") from error
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise LookupError(f"no NVIDIA driver: {error}") from error
        wanted = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES")
        self.gpus = _chosen(list(self._find()), wanted)
        if not self.gpus:
            self.close()
            raise LookupError("the driver shows no GPU to this process")

    def _find(self) -> Iterator[Gpu]:
        nvml, at = self._nvml, 0
        for place in range(nvml.nvmlDeviceGetCount()):
            whole = nvml.nvmlDeviceGetHandleByIndex(place)
            name = _text(nvml.nvmlDeviceGetName(whole))
            slices = list(self._slices(whole))
            for handle in slices or [whole]:
                profile = _text(nvml.nvmlDeviceGetName(handle)).rpartition("MIG ")[2] if slices else None
                yield Gpu(at, name, _text(nvml.nvmlDeviceGetUUID(handle)), profile, handle, whole)
                at += 1

    def _slices(self, whole: Any) -> Iterator[Any]:
        nvml = self._nvml
        try:
            current, _ = nvml.nvmlDeviceGetMigMode(whole)
        except nvml.NVMLError:  # a GPU that knows no slices
            return
        if current != nvml.NVML_DEVICE_MIG_ENABLE:
            return
        for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(whole)):
            with suppress(nvml.NVMLError):  # places that hold no slice
                yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, place)

    def sample(self) -> dict[str, float]:
        """Each number that the driver gives now, by MLflow's names; what it does not give is left out.

        Use is of a whole GPU: the driver gives none of a slice. So is power, which of a slice would be its neighbours'.
        """
        nvml, out = self._nvml, {}
        for gpu in self.gpus:
            name = f"gpu_{gpu.index}"
            with suppress(nvml.NVMLError):
                memory = nvml.nvmlDeviceGetMemoryInfo(gpu.handle)
                out[f"{name}_memory_usage_megabytes"] = memory.used / MEGABYTE
                out[f"{name}_memory_usage_percentage"] = 100 * memory.used / memory.total
            if gpu.slice is not None:
                continue
            with suppress(nvml.NVMLError):
                out[f"{name}_utilization_percentage"] = float(nvml.nvmlDeviceGetUtilizationRates(gpu.handle).gpu)
            with suppress(nvml.NVMLError):
                watts = nvml.nvmlDeviceGetPowerUsage(gpu.handle) / 1000
                out[f"{name}_power_usage_watts"] = watts
                out[f"{name}_power_usage_percentage"] = (
                    100_000 * watts / nvml.nvmlDeviceGetEnforcedPowerLimit(gpu.handle)
                )
        return out

    def facts(self) -> list[dict[str, Any]]:
        """What each is, for a tag."""
        nvml, out = self._nvml, []
        driver = None
        with suppress(nvml.NVMLError):
            driver = _text(nvml.nvmlSystemGetDriverVersion())
        for gpu in self.gpus:
            plain = {**gpu.to_dict(), "driver": driver}
            with suppress(nvml.NVMLError):
                plain["memory"] = int(nvml.nvmlDeviceGetMemoryInfo(gpu.handle).total)
            out.append({key: value for key, value in plain.items() if value is not None})
        return out

    def close(self) -> None:
        """Let go of the driver."""
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _chosen(found: list[Gpu], wanted: str | None) -> list[Gpu]:
    """Those that ``CUDA_VISIBLE_DEVICES`` leaves, numbered in its order; all where it is not set.

    CUDA's rules: numbers or UUIDs (or their beginnings), up to the first one that names nothing.
    """
    if wanted is None:
        return found
    kept: list[Gpu] = []
    for word in (part.strip() for part in wanted.split(",")):
        mine = [
            one for one in found if word and (word == str(one.index) or (len(word) > 3 and one.uuid.startswith(word)))
        ]
        if len(mine) != 1:
            break
        one = mine[0]
        kept.append(Gpu(len(kept), one.name, one.uuid, one.slice, one.handle, one.whole))
    return kept
