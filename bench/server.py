"""A real model server behind the router against the same server alone. DEMAND SRV-4: at least 0.9 x its throughput."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import load, quiet, rig
from bench.table import Table

FEATURES = tuple(f"feature{n}" for n in range(9))
CONNECTIONS = (1, 4, 16)
ROUNDS = 6
SECONDS = 3.0
#: For each number of connections, when others use the machine.
LIMIT_S = 60.0


def save_model(path: Path) -> str:
    """A small boosted model as MLflow stores it; returns the digest of its content."""
    import mlflow
    import numpy as np
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.ensemble import HistGradientBoostingRegressor

    from windtunnel.evidence import manifest

    rng = np.random.default_rng(7)
    rows = pd.DataFrame(rng.normal(size=(2000, len(FEATURES))), columns=list(FEATURES))
    target = rows["feature0"] + rows["feature1"] ** 2
    model = HistGradientBoostingRegressor(max_iter=60, random_state=7).fit(rows, target)
    mlflow.sklearn.save_model(
        model,
        str(path),
        signature=infer_signature(rows, model.predict(rows)),
        pip_requirements=["scikit-learn"],
        serialization_format="cloudpickle",
    )
    return manifest.build(path).content


@contextmanager
def served(made: rig.Rig) -> Iterator[int]:
    """The model in one of our servers, every prediction logged; yields its port."""
    from windtunnel.serving import artifacts
    from windtunnel.serving.backend import Arm
    from windtunnel.serving.local import servers
    from windtunnel.spec.serving import Serving

    home = made.home
    digest = save_model(home.root / "saved")
    folder = artifacts.ensure(home, rig.MODEL, Arm("1", digest, str(home.root / "saved")))
    port = servers.free_port(set(), made.port)
    manager = servers.ProcessServers()
    try:
        program = servers.configure(
            folder, home=home, model=rig.MODEL, version="1", digest=digest, port=port, serving=Serving(),
            features=[{"name": name} for name in FEATURES], warmup=[dict.fromkeys(FEATURES, 0.5)],
        )  # fmt: skip
        manager.start(program)
        rig.wait_until(lambda: servers.is_ready(rig.MODEL, port), 90, "the model server")
        yield port
    finally:
        manager.close()


def run() -> Table:
    from windtunnel.serving.local import servers
    from windtunnel.serving.predictions import PredictionLog

    table = Table(
        "A model server behind the router, and alone",
        ("connections", "alone, requests/s", "behind the router, requests/s", "ratio (range)", "alone p50, ms",
         "router p50, ms", "router p99, ms"),
    )  # fmt: skip
    body = json.dumps({"inputs": servers.tensors([dict.fromkeys(FEATURES, 0.25)])}).encode()
    ratio_at: dict[int, tuple[float, bool | None]] = {}
    sent: list[int] = []
    notes: list[str] = []
    with rig.rig() as made:
        with served(made) as port:
            made.send_all_to(port)
            bare = f"http://127.0.0.1:{port}{rig.PATH}"
            for url in (bare, made.url):
                sent.append(load.burst(url, body, connections=4, seconds=2).requests)
            for connections in CONNECTIONS:

                def pair(n: int, connections: int = connections) -> tuple[load.Load, load.Load]:
                    # A B, B A, A B ...: a machine that gets slower favours neither.
                    urls = (bare, made.url) if n % 2 == 0 else (made.url, bare)
                    found = [load.burst(url, body, connections=connections, seconds=SECONDS) for url in urls]
                    sent.append(sum(one.requests for one in found))
                    return (found[0], found[1]) if n % 2 == 0 else (found[1], found[0])

                measured = quiet.measure(pair, ROUNDS, LIMIT_S)
                notes.append(f"{connections} connections: {measured.note}")
                alone, behind = zip(*measured.values, strict=True)
                ratios = [b.rate / a.rate for a, b in zip(alone, behind, strict=True)]
                ratio = statistics.median(ratios)
                ratio_at[connections] = ratio, measured.shows(ratio >= 0.9)
                table.add(
                    str(connections),
                    f"{statistics.median(one.rate for one in alone):,.0f}",
                    f"{statistics.median(one.rate for one in behind):,.0f}",
                    f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                    f"{statistics.median(one.p50_ms for one in alone):.1f}",
                    f"{statistics.median(one.p50_ms for one in behind):.1f}",
                    f"{statistics.median(one.p99_ms for one in behind):.1f}",
                )
        # The server has ended and has published what it held.
        log = PredictionLog(made.home.predictions)
        mark = log.watermark(rig.MODEL)
        rows = len(log.read(rig.MODEL, 0.0, 4e9, columns=["prediction_id"]))
    for connections in CONNECTIONS[1:]:  # one connection shows the added time, not throughput
        ratio, met = ratio_at[connections]
        table.demand(f"at least 0.9 x the server alone, {connections} connections", f"{ratio:.2f} x", met)
    total = sum(sent)
    slack = len(sent) * 2 * max(CONNECTIONS)  # in flight when a burst ended: logged, not answered
    table.demand(
        "every prediction is in the log",
        f"{rows:,} rows of {total:,} answers, {mark.dropped:,} dropped",
        total <= rows <= total + slack and mark.dropped == 0,
    )
    table.note = (
        f"A boosted model with {len(FEATURES)} features, one row a request, every prediction logged both ways; load by "
        f"{load.tool()}, {ROUNDS} rounds of {SECONDS:g} s each way in turn ({'; '.join(notes)})."
    )
    return table
