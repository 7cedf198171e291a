"""What a version costs, measured in a server of its own before anybody approves it (EVL-2).

The server is the one that will serve it (same runtime, same checks, same limits), on a private port, not
supervised, not routed, and always stopped. Numbers are of this machine at this moment: bounds on them want slack.
"""

from __future__ import annotations

import http.client
import json
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from windtunnel.errors import DataError, NotReadyError
from windtunnel.home import Home
from windtunnel.serving import artifacts
from windtunnel.serving.artifacts import Folder
from windtunnel.serving.backend import Arm
from windtunnel.serving.local import servers
from windtunnel.spec.evaluation import Benchmark
from windtunnel.spec.serving import Serving

_MODEL, _VERSION = "benchmark", "1"
#: Clients of the throughput phase, and how long it lasts at most.
_CLIENTS, _THROUGHPUT_S = 4, 3.0


@dataclass(slots=True)
class _Tally:
    latencies_ms: list[float] = field(default_factory=list)
    errors: int = 0
    first_error: str | None = None


def benchmark(
    home: Home,
    model_path: Path,
    digest: str,
    rows: Sequence[dict[str, Any]],
    rules: Benchmark,
    serving: Serving,
) -> dict[str, Any]:
    """Measure one version; ``rules.requests`` requests one after the other, then a short burst from four clients.

    Args:
        model_path: folder MLflow saved the model to.
        digest: content digest it must have.
        rows: real rows, feature to value; taken in turn.

    Returns:
        ``requests``, ``errors``, ``first_error``, ``rows_per_request``, ``p50_ms``, ``p95_ms``, ``p99_ms``, ``max_ms``,
        ``throughput_rps`` and ``throughput_clients``, ``memory_mb`` (highest resident, MiB), ``cpu_ms`` (processor time
        per request), ``load_s`` (process start to first answer), ``size_bytes`` (the model's files). Latencies are None
        when no request succeeded.

    Raises:
        DataError: there are no rows.
        IntegrityError: the files are not ``digest``.
        NotReadyError: the server did not become ready.
    """
    if not rows:
        raise DataError("no rows to benchmark with", hint="give at least one real row of the model's inputs")
    place = home.serving / "benchmark" / uuid4().hex[:12]
    manager = servers.ProcessServers()
    try:
        folder = artifacts.ensure(home, _MODEL, Arm(_VERSION, digest, str(model_path)), Folder(place))
        port = servers.free_port(set(), int(place.name, 16))
        program = servers.configure(
            folder,
            home=home,
            model=_MODEL,
            version=_VERSION,
            digest=digest,
            port=port,
            serving=serving.model_copy(update={"sample": 0.0}),
            features=[_feature(name, rows) for name in rows[0]],
            warmup=list(rows[:8]),
            predictions=place / "predictions",
        )
        return _measure(manager, program, folder, port, _bodies(rows, rules), rules, serving)
    finally:
        manager.close()
        shutil.rmtree(place, ignore_errors=True)


def _measure(
    manager: servers.ProcessServers,
    program: servers.Program,
    folder: Folder,
    port: int,
    bodies: list[bytes],
    rules: Benchmark,
    serving: Serving,
) -> dict[str, Any]:
    started = time.monotonic()
    manager.start(program)
    limit = serving.ready_within.total_seconds()
    while not servers.is_ready(_MODEL, port):
        status, note = manager.status(program.name), folder.read_note("failed")
        if status.state != "running" or note or time.monotonic() - started > limit:
            why = note["message"] if note else status.message or f"not ready within {limit:g} s"
            raise NotReadyError(f"the model cannot be served: {why}", hint="run it in the model servers' environment")
        time.sleep(0.05)
    load_s = time.monotonic() - started

    import psutil

    process = psutil.Process(manager.status(program.name).pid)
    timeout = serving.timeout.total_seconds()
    _send(port, bodies[:1] * min(20, rules.requests), timeout, _Tally())  # the first requests pay for caches
    cpu = sum(process.cpu_times()[:2])
    tally = _Tally()
    _send(port, [bodies[i % len(bodies)] for i in range(rules.requests)], timeout, tally)
    cpu_ms = (sum(process.cpu_times()[:2]) - cpu) * 1000 / rules.requests
    rate = _throughput(port, bodies, timeout)
    values = sorted(tally.latencies_ms)

    def quantile(q: float) -> float | None:
        return round(values[min(len(values) - 1, int(q * len(values)))], 3) if values else None

    return {
        "requests": rules.requests,
        "errors": tally.errors,
        "first_error": tally.first_error,
        "rows_per_request": rules.rows_per_request,
        "p50_ms": quantile(0.5),
        "p95_ms": quantile(0.95),
        "p99_ms": quantile(0.99),
        "max_ms": quantile(1.0),
        "throughput_rps": round(rate, 1),
        "throughput_clients": _CLIENTS,
        "memory_mb": round(_peak(process.pid) / 2**20, 1),
        "cpu_ms": round(cpu_ms, 3),
        "load_s": round(load_s, 2),
        "size_bytes": sum(path.stat().st_size for path in folder.model.rglob("*") if path.is_file()),
    }


def _send(port: int, bodies: Sequence[bytes], timeout_s: float, tally: _Tally, until: float | None = None) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        for body in bodies:
            if until is not None and time.monotonic() > until:
                return
            began = time.perf_counter()
            try:
                connection.request("POST", f"/v2/models/{_MODEL}/infer", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = response.read()
                problem = (
                    None if response.status == 200 else f"{response.status}: {answer[:300].decode(errors='replace')}"
                )
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                problem = f"{type(error).__name__}: {error}"
            if problem is None:
                tally.latencies_ms.append((time.perf_counter() - began) * 1000)
            else:
                tally.errors += 1
                tally.first_error = tally.first_error or problem
    finally:
        connection.close()


def _throughput(port: int, bodies: list[bytes], timeout_s: float) -> float:
    tallies = [_Tally() for _ in range(_CLIENTS)]
    began = time.monotonic()
    many = bodies * (1 + 10_000 // len(bodies))
    clients = [
        threading.Thread(target=_send, args=(port, many, timeout_s, tally, began + _THROUGHPUT_S)) for tally in tallies
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return sum(len(tally.latencies_ms) for tally in tallies) / (time.monotonic() - began)


def _bodies(rows: Sequence[dict[str, Any]], rules: Benchmark) -> list[bytes]:
    n = rules.rows_per_request
    whole = [rows[i % len(rows)] for i in range(max(n, len(rows) - len(rows) % n))]
    return [json.dumps({"inputs": servers.tensors(whole[i : i + n])}).encode() for i in range(0, len(whole), n)]


def _feature(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = next((row[name] for row in rows if row[name] is not None), 0.0)
    kind = "boolean" if isinstance(first, bool) else "categorical" if isinstance(first, str) else "numeric"
    return {"name": name, "kind": kind, "nullable": any(row[name] is None for row in rows)}


def _peak(pid: int) -> int:
    """Highest resident memory of a process so far, bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
