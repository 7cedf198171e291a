"""What a run uses while it runs, on its MLflow run as system metrics (TRN-6).

The runner samples the training's processes, their cgroup and the GPUs it sees, whatever the training imports, and
writes to the run's spool; from there the numbers reach the server when it is there. MLflow's own monitor is not used:
it belongs into the training's code, counts the machine instead of the run, and ends for good when the server does not
answer once. Its names are (``system/cpu_utilization_percentage``), so that MLflow's page of system metrics shows them.

A thread of the runner, not its loop: a driver that hangs must not keep the runner from ending a run.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windtunnel import files, procfs
from windtunnel.tracking import nodes, processes
from windtunnel.tracking.gpus import MEGABYTE, Gpus
from windtunnel.tracking.server import MetricPoint
from windtunnel.tracking.spool import Spool

#: What MLflow calls the page they appear on.
PREFIX = "system/"
#: Seconds between two samples; MLflow's own default and MLflow's own variable.
EVERY = 10.0
VARIABLE = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
#: Where the training asks for MLflow's own monitor, ours would write the same names.
THEIRS = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"

#: In the run's folder: what its GPUs are.
FACTS = "gpus.json"
CGROUP = Path("/sys/fs/cgroup")
NETWORK = Path("/proc/net/dev")


def prefix() -> str:
    """Before each name; with several nodes each has its own, as MLflow's monitor has it."""
    return PREFIX + (f"node_{nodes.rank()}/" if nodes.count() > 1 else "")


def interval(environment: Mapping[str, str]) -> float:
    """Seconds between two samples, from the training's environment; 0: none are taken."""
    if environment.get(THEIRS, "").lower() in ("1", "true"):
        return 0.0
    try:
        return max(0.0, float(environment.get(VARIABLE) or EVERY))
    except ValueError:
        return EVERY


@dataclass(slots=True)
class Usage:
    """What the processes below one of them have used so far; in a pod, what their container and its network have.

    Attributes:
        root: pid of the process whose descendants count.
        cpus: cores that the run was given: its CPU is a share of these.
        memory_limit: bytes it may hold; None: no limit.
        cgroup: of a container that is the run's own; None where it shares one.
        network: the kernel's table of a network that is the run's own; None where it shares one.
    """

    root: int
    cpus: float
    memory_limit: int | None
    cgroup: Path | None = None
    network: Path | None = None
    _at: float | None = None
    _cpu: float = 0.0
    _throttled: float = 0.0
    _first: tuple[float, float] | None = None

    def sample(self, memory: int, now: float) -> dict[str, float]:
        """Numbers by MLflow's names, without the prefix; shares are of the time since the last call.

        Args:
            memory: bytes that the processes hold now, as the runner counts them.
            now: seconds, by a clock that nobody sets.
        """
        out = {"system_memory_usage_megabytes": memory / MEGABYTE}
        if self.memory_limit:
            out["system_memory_usage_percentage"] = 100 * memory / self.memory_limit
        cpu, throttled = cpu_seconds(self.root), self._throttled_seconds()
        if self._at is not None and now > self._at:
            passed = now - self._at
            # Processes that nobody waited for take their time with them.
            out["cpu_utilization_percentage"] = 100 * max(0.0, cpu - self._cpu) / (passed * self.cpus)
            if throttled is not None:
                out["cpu_throttled_percentage"] = 100 * max(0.0, throttled - self._throttled) / passed
        self._at, self._cpu, self._throttled = now, cpu, throttled or 0.0
        return out | self._held() | self._sent()

    def _throttled_seconds(self) -> float | None:
        """For how long the container's limit kept it waiting; None where it has no limit."""
        found = _table(self.cgroup / "cpu.stat") if self.cgroup is not None else {}
        return found["throttled_usec"] / 1e6 if "throttled_usec" in found else None

    def _held(self) -> dict[str, float]:
        """What the container holds as the kubelet counts it: all but the cache that can be dropped at once."""
        if self.cgroup is None:
            return {}
        try:
            most = (self.cgroup / "memory.max").read_text().strip()
            current = int((self.cgroup / "memory.current").read_text())
        except (OSError, ValueError):
            return {}
        if most == "max":
            return {}
        held = max(0, current - int(_table(self.cgroup / "memory.stat").get("inactive_file", 0)))
        return {
            "container_memory_usage_megabytes": held / MEGABYTE,
            "container_memory_usage_percentage": 100 * held / int(most),
        }

    def _sent(self) -> dict[str, float]:
        if self.network is None:
            return {}
        came, went = _traffic(self.network)
        if self._first is None:
            self._first = (came, went)
        return {
            "network_receive_megabytes": (came - self._first[0]) / MEGABYTE,
            "network_transmit_megabytes": (went - self._first[1]) / MEGABYTE,
        }


def cpu_seconds(root: int) -> float:
    """CPU time of every process below ``root``, and of those below it that have ended and were waited for.

    utime, stime, cutime and cstime of ``/proc/PID/stat`` (proc_pid_stat(5)); of ``root`` itself its children's only.
    """
    ticks = 0
    for pid in [root, *processes.descendants(root)]:
        fields = procfs.stat(pid)
        if fields is not None:
            ticks += sum(int(value) for value in fields[13:15] + ([] if pid == root else fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _table(path: Path) -> dict[str, float]:
    """A file of ``NAME NUMBER`` lines; empty where there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: float(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].lstrip("-").isdigit()}


def _traffic(path: Path) -> tuple[float, float]:
    """Bytes received and sent over all interfaces but loopback, since they came up."""
    try:
        lines = path.read_text().splitlines()[2:]
    except OSError:
        return 0.0, 0.0
    found = [(name.strip(), rest.split()) for name, _, rest in (line.partition(":") for line in lines)]
    outside = [fields for name, fields in found if name != "lo" and len(fields) > 8]
    return sum(float(fields[0]) for fields in outside), sum(float(fields[8]) for fields in outside)


@dataclass(slots=True)
class Totals:
    """Highest and mean of what was sampled, for those who read one number a run."""

    highest: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)

    def add(self, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.highest[key] = max(value, self.highest.get(key, value))
            self.sums[key] = self.sums.get(key, 0.0) + value
            self.count[key] = self.count.get(key, 0) + 1

    def summary(self) -> dict[str, float]:
        """``gpu_0_peak_memory_mb`` (2**20 bytes) and ``gpu_0_mean_utilization_percentage`` of each GPU."""
        out = {}
        for key in sorted(self.sums):
            gpu, _, what = key.partition("_memory_usage_megabytes")
            if not what and gpu != key and gpu.startswith("gpu_"):
                out[f"{gpu}_peak_memory_mb"] = self.highest[key] * MEGABYTE / 2**20
            gpu, _, what = key.partition("_utilization_percentage")
            if not what and gpu != key and gpu.startswith("gpu_"):
                out[f"{gpu}_mean_utilization_percentage"] = self.sums[key] / self.count[key]
        return out


class Sampler:
    """A thread that samples until it is told to stop. Nothing it meets reaches the run.

    Args:
        folder: of the run; its spool takes the numbers.
        usage: of the run's processes.
        memory: bytes they hold, as the runner last saw.
        every: seconds between two samples.
        gpus: finds the GPUs; raises LookupError where there are none.
    """

    def __init__(
        self,
        folder: Path,
        usage: Usage,
        memory: Callable[[], int],
        every: float,
        gpus: Callable[[], Gpus] = Gpus,
        log: Callable[[str], object] = lambda text: None,
    ) -> None:
        self._spool, self._usage, self._memory, self._every, self._log = Spool(folder), usage, memory, every, log
        self._find = gpus
        self._stop = threading.Event()
        self._step = 0
        self.prefix = prefix()
        self.totals = Totals()
        self._thread = threading.Thread(target=self._work, name="windtunnel-sampler", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        gpus: Gpus | None = None
        try:
            self._step = 1 + max(
                (p.step for key, p in self._spool.last().items() if key.startswith(self.prefix)), default=-1
            )
            gpus = self._gpus()
            self._usage.sample(self._memory(), time.monotonic())  # shares are counted from here
            pause = min(1.0, self._every)  # a short run is seen once, too
            while not self._stop.wait(pause):
                self._take(gpus)
                pause = self._every
        except Exception as error:  # the run must not die of its bookkeeping
            self._log(f"nothing is sampled any more: {type(error).__name__}: {error}")
        finally:
            if gpus is not None:
                gpus.close()

    def _gpus(self) -> Gpus | None:
        try:
            found = self._find()
        except LookupError:
            return None
        self._spool_facts(found.facts())
        return found

    def _spool_facts(self, facts: list[dict[str, Any]]) -> None:
        """What the GPUs are, on a page of its own: the facts are the child's to write while it lives."""
        files.write_json(self._spool.folder / FACTS, facts)

    def _take(self, gpus: Gpus | None) -> None:
        values = self._usage.sample(self._memory(), time.monotonic())
        if gpus is not None:
            values |= gpus.sample()
        self.totals.add(values)
        now = int(time.time() * 1000)
        points = [MetricPoint(self.prefix + key, round(value, 3), now, self._step) for key, value in values.items()]
        self._spool.append(points)
        self._step += 1

    def stop(self, within: float = 2.0) -> dict[str, float]:
        """End the thread; what is worth one number a run, by names with their prefix."""
        self._stop.set()
        self._thread.join(within)
        return {self.prefix + key: value for key, value in self.totals.summary().items()}
