"""The runner: a small process that starts the user's process, watches it, and tells how it ended.

``python -P -m windtunnel.tracking.runner RUN_DIR LOCK_FD``; started by ``local.start``, which waits until this has
forked away. It imports nothing heavy, holds the run's life lock, and does one thing at a time: a single loop over the
child's output, its end, the clock and signals. User code never runs in it.
"""

from __future__ import annotations

import json
import math
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from windtunnel import files, procfs
from windtunnel.tracking import closing, cost, nodes, processes, sampling
from windtunnel.tracking.contract import EXIT, FAILURE_OF_EXIT, Failure, RunSpec

LOG_LIMIT = 16 * 2**20
LOG_TAIL = 256 * 1024
GRACE = 10.0
CLOSE_WITHIN = float(os.environ.get("WINDTUNNEL_CLOSE_WITHIN", "15"))
LOOK_EVERY = 0.5
DISK_EVERY = 5.0


class CappedLog:
    """A log file that cannot fill the disk: its beginning, a note, and at the end the last words."""

    def __init__(self, path: Path, limit: int = LOG_LIMIT, tail: int = LOG_TAIL) -> None:
        self._out = path.open("ab", buffering=0)
        self._limit, self._tail = limit, tail
        self._written = 0
        self._last: deque[bytes] = deque()
        self._kept = 0
        self._dropped = 0

    def write(self, data: bytes) -> None:
        room = max(self._limit - self._written, 0)
        head, rest = data[:room], data[room:]
        if head:
            self._put(head)
        if not rest:
            return
        if not self._dropped:
            self._put(
                f"\nwindtunnel: the log is cut here after {self._limit} bytes; "
                f"its last {self._tail // 1024} KiB follow when the run has ended\n".encode()
            )
        self._dropped += len(rest)
        self._last.append(rest)
        self._kept += len(rest)
        while self._kept - len(self._last[0]) >= self._tail:
            self._kept -= len(self._last.popleft())

    def _put(self, data: bytes) -> None:
        self._written += len(data)
        try:
            self._out.write(data)
        except OSError:  # a full disk must not stop the watching
            pass

    def close(self, last: str | None = None) -> None:
        if self._dropped:
            end = b"".join(self._last)[-self._tail :]
            if missing := self._dropped - len(end):
                self._put(f"\nwindtunnel: {missing} bytes of log are left out here\n".encode())
            self._put(end)
        if last:
            self._put(f"\nwindtunnel: {last}\n".encode())
        self._out.close()


def used_disk(folder: Path) -> int:
    """Bytes allocated below ``folder``; files that vanish meanwhile do not count."""
    total, queue = 0, [str(folder)]
    while queue:
        try:
            with os.scandir(queue.pop()) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            queue.append(entry.path)
                        else:
                            total += entry.stat(follow_symlinks=False).st_blocks * 512
                    except OSError:
                        continue
        except OSError:
            continue
    return total


def _gib(amount: float) -> str:
    return f"{amount / 2**30:.2f} GiB" if amount >= 2**28 else f"{amount / 2**20:.1f} MiB"


class Runner:
    """One run's watch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = RunSpec.from_dict(files.read_json(folder / "spec.json") or {})
        self.begun: dict[str, Any] = files.read_json(folder / "start.json") or {}
        self.memory_limit = int(self.spec.resources.get("memory") or 0) or None
        self.disk_limit = int(self.spec.resources.get("disk") or 0) or None
        self.log = CappedLog(folder / "log.txt")
        self.peak = 0
        self.memory = 0
        self.doom: tuple[Failure, str] | None = None  # why we are ending it
        self.kill_at: float | None = None
        self.told = False
        self.sampler: sampling.Sampler | None = None

    def run(self) -> None:
        processes.adopt_orphans()
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, self._asked_to_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        files.write_json(self.folder / "runner.json", {"pid": os.getpid(), "start": procfs.started(os.getpid())})
        began, kills = time.monotonic(), processes.oom_kills()
        try:
            child, output = self._spawn()
        except OSError as error:
            self._finish("failed", "transient", f"the training process did not start: {error}", began)
            return
        # If this very write fails, the child is still found by its token.
        files.write_json(
            self.folder / "child.json", {"pid": child.pid, "start": procfs.started(child.pid), "at": time.time()}
        )
        self.sampler = self._sample()
        self._watch(child, output, began)
        state, failure, message = self._verdict(child.returncode, processes.oom_kills() > kills)
        self._finish(state, failure, message, began)

    def _asked_to_stop(self, *_: object) -> None:
        self.told = True

    def _spawn(self) -> tuple[subprocess.Popen[bytes], int]:
        readable, writable = os.pipe()
        os.set_blocking(readable, False)
        threads = str(max(1, math.ceil(float(self.spec.resources.get("cpu") or 1))))
        limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT")
        environment = {
            **os.environ,
            **dict.fromkeys(limits, threads),
            **self.spec.environment,
            "WINDTUNNEL_RUNNER_PID": str(os.getpid()),
            # A server that is down must cost the run seconds, not MLflow's default of minutes.
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"),
            "MLFLOW_HTTP_REQUEST_TIMEOUT": os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "30"),
        }
        try:
            child = subprocess.Popen(
                [sys.executable, "-P", "-u", "-m", "windtunnel.tracking.child", str(self.folder)],
                cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=writable, stderr=writable,
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(writable)
        return child, readable

    def _sample(self) -> sampling.Sampler | None:
        """Begin to sample what the run uses (TRN-6); None where nobody is told, or the training does it itself."""
        every = sampling.interval({**os.environ, **self.spec.environment})
        if self.spec.tracking_uri is None or every <= 0:
            return None
        alone = "WINDTUNNEL_POD" in os.environ  # container and network are the run's own
        usage = sampling.Usage(
            os.getpid(), float(self.spec.resources.get("cpu") or 1), self.memory_limit,
            cgroup=sampling.CGROUP if alone else None, network=sampling.NETWORK if alone else None,
        )  # fmt: skip
        say = lambda text: self.log.write(f"windtunnel: {text}\n".encode())  # noqa: E731
        return sampling.Sampler(self.folder, usage, lambda: self.memory, every, log=say)

    def _watch(self, child: subprocess.Popen[bytes], output: int, began: float) -> None:
        end_of_child = os.pidfd_open(child.pid)
        selector = selectors.DefaultSelector()
        selector.register(output, selectors.EVENT_READ)
        selector.register(end_of_child, selectors.EVENT_READ)
        look_at = disk_at = beat_at = 0.0
        while True:
            near = self.memory_limit and self.memory > 0.5 * self.memory_limit
            ready = {key.fd for key, _ in selector.select(timeout=0.1 if near else 0.25)}
            if output in ready and not self._pump(output, 64):
                selector.unregister(output)  # closed by the child; an end of file is always ready
            if end_of_child in ready:
                break
            now = time.monotonic()
            if now >= look_at:
                look_at = now + (0.1 if near else LOOK_EVERY)
                self.memory = procfs.memory(processes.descendants(os.getpid()))
                self.peak = max(self.peak, self.memory)
            if self.doom is None:
                over_memory = self.memory_limit is not None and self.memory > self.memory_limit
                self.doom = self._judge(now - began)
                if self.doom is None and now >= disk_at:
                    disk_at = now + DISK_EVERY
                    self.doom = self._judge_disk()
                if self.doom is not None:
                    # There is no time to be polite to what eats the machine's memory.
                    self.kill_at = now + (0 if over_memory else GRACE)
                    processes.kill(processes.descendants(os.getpid()), signal.SIGTERM)
            if self.kill_at is not None and now >= self.kill_at:
                processes.kill(processes.descendants(os.getpid()), signal.SIGKILL)
            if now >= beat_at:
                beat_at = now + 1.0
                self._beat()
        child.wait()
        # Whatever the training left behind ends with it, then its last words are read.
        token = str(self.begun.get("token", ""))
        started = (files.read_json(self.folder / "child.json") or {}).get("start")
        processes.end_leftovers(token, child.pid, started, within=5.0)
        processes.kill(processes.descendants(os.getpid()), signal.SIGKILL)
        self._pump(output, 4096)
        os.close(output)
        os.close(end_of_child)
        selector.close()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def _pump(self, output: int, chunks: int) -> bool:
        """Move what the child has said into the log; False when it can say no more."""
        for _ in range(chunks):
            try:
                data = os.read(output, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.log.write(data)
        return True

    def _judge(self, elapsed: float) -> tuple[Failure, str] | None:
        """Why the run must end now, if it must."""
        # The order lies on disk: whoever gave it may have been killed before it could send a signal.
        wish = files.read_json(self.folder / "cancel.json")
        if wish:
            return ("cancelled", str(wish.get("reason") or "cancelled"))
        if self.told:
            return ("transient", "the runner was told to stop (SIGTERM): the stack or the machine goes down")
        if self.memory_limit and self.memory > self.memory_limit:
            return (
                "resource",
                f"it held {_gib(self.memory)} of memory; its limit is {_gib(self.memory_limit)} "
                "(training.resources.memory)",
            )
        if elapsed > self.spec.time_limit:
            return ("resource", f"it ran past its time limit of {self.spec.time_limit:g} s (training.time_limit)")
        return None

    def _judge_disk(self) -> tuple[Failure, str] | None:
        if self.disk_limit and (used := used_disk(self.folder)) > self.disk_limit:
            return (
                "resource",
                f"its folder holds {_gib(used)}; the limit is {_gib(self.disk_limit)} (training.resources.disk)",
            )
        return None

    def _beat(self) -> None:
        try:
            beat = {"at": time.time(), "memory": self.memory, "peak_memory": self.peak}
            files.write_json(self.folder / "heartbeat.json", beat, durable=False)
        except OSError:
            pass

    def _verdict(self, code: int, out_of_memory: bool) -> tuple[str, Failure | None, str]:
        """(state, failure, message) from how the child ended."""
        if self.doom is not None:
            failure, message = self.doom
            return ("cancelled" if failure == "cancelled" else "failed"), failure, message
        if code == 0:
            if (self.folder / "result.json").exists():
                return "succeeded", None, "done"
            return "failed", "code", "the process ended with exit code 0 before its work was done: does it call exit()?"
        said = files.read_json(self.folder / "failure.json") or {}
        if code < 0:
            name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
            if -code == signal.SIGKILL:
                near = self.memory_limit is not None and self.peak > 0.8 * self.memory_limit
                if out_of_memory or near:
                    return "failed", "resource", f"the kernel killed it for memory; it held {_gib(self.peak)} at most"
                return "failed", "transient", "it was killed from outside (SIGKILL)"
            if -code in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                return "failed", "transient", f"it was ended from outside ({name})"
            return "failed", "code", f"it crashed ({name}); see the log"
        failure = FAILURE_OF_EXIT.get(code, "code")
        return "failed", failure, str(said.get("message") or f"it ended with exit code {code}; see the log")

    def _finish(self, state: str, failure: Failure | None, message: str, began: float) -> None:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = usage.ru_utime + usage.ru_stime
        self.log.close(None if state == "succeeded" else f"{state}: {message}")
        peak = max(self.peak, usage.ru_maxrss * 1024)
        seen = self.sampler.stop() if self.sampler is not None else {}
        over: dict[str, Any] = {
            "run_id": self.spec.run_id, "state": state, "failure": failure,
            "exit_code": 0 if failure is None else EXIT[failure], "message": message,
            "started_at": self.begun.get("at"), "ended_at": time.time(),
            "peak_memory": peak,
            "cpu_seconds": round(cpu, 3), "pid": os.getpid(), "heartbeat": time.time(),
        }  # fmt: skip
        prefix = sampling.prefix()
        numbers = {
            f"{prefix}peak_memory_mb": peak / 2**20,
            f"{prefix}cpu_seconds": cpu,
            f"{prefix}wall_seconds": time.monotonic() - began,
            **seen,
        }
        if nodes.rank() > 0:
            closing.intend(self.folder, None, message, {}, numbers)  # the run's end is node 0's to tell
        else:
            tags = {"wt.failure": failure or "none", "wt.attempt": str(self.begun.get("attempt", 1))}
            if gpus := files.read_json(self.folder / sampling.FACTS):
                tags["wt.gpus"] = json.dumps(gpus)
            if self.spec.prices:
                from windtunnel.spec.prices import Prices  # the descriptions' library, for those who have prices only

                spent = cost.cost(Prices.model_validate(self.spec.prices), self.spec.resources, self._spells())
                tags |= spent.tags()
                numbers |= {cost.METRIC: spent.amount} if spent.amount is not None else {}
            wish: Any = "FINISHED" if state == "succeeded" else "KILLED" if state == "cancelled" else "FAILED"
            closing.intend(self.folder, wish, message, tags, numbers)
        # A success is told when the MLflow run says so too; anything else must be known at once.
        if state == "succeeded":
            closing.close(self.folder, self.spec, patience=CLOSE_WITHIN)
        files.write_json(self.folder / "exit.json", over)
        if state != "succeeded":
            closing.close(self.folder, self.spec, patience=CLOSE_WITHIN)

    def _spells(self) -> list[cost.Spell]:
        """How long this attempt and those before it ran, by their papers."""
        now, attempt = time.time(), int(self.begun.get("attempt", 1))
        out = [cost.Spell(attempt, now - float(self.begun.get("at") or now))]
        for number in range(1, attempt):
            aside = self.folder / "attempts" / str(number)
            begun = (files.read_json(aside / "start.json") or {}).get("at")
            # One that died without a word lived at least until its last heartbeat.
            ended = (files.read_json(aside / "exit.json") or {}).get("ended_at")
            ended = ended or (files.read_json(aside / "heartbeat.json") or {}).get("at")
            out.append(cost.Spell(number, float(ended) - float(begun) if begun and ended else None))
        return sorted(out, key=lambda one: one.attempt)


def main(arguments: list[str]) -> None:
    """Fork away from the starter, keep the lock, watch."""
    folder, lock = Path(arguments[0]), int(arguments[1])
    os.set_inheritable(lock, False)
    if os.fork():
        os._exit(0)
    os.umask(0o077)
    try:
        Runner(folder).run()
    except BaseException as error:
        # Without an exit file the run counts as lost, which is right; say why for whoever looks.
        print(f"runner failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise


if __name__ == "__main__":
    main(sys.argv[1:])
