"""The files a model server reads: its settings, and MLServer's. Written by whoever deploys it, here or in a pod."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from windtunnel import files
from windtunnel.serving.artifacts import Folder
from windtunnel.spec.serving import Serving


def program_name(model: str, version: str) -> str:
    """``wt-MODEL-VERSION``: supervised program, and its file in conf.d."""
    return f"wt-{model}-{version}"


def write(
    folder: Folder,
    *,
    model: str,
    version: str,
    digest: str,
    port: int,
    serving: Serving,
    predictions: Path,
    features: Sequence[dict[str, Any]] = (),
    warmup: Sequence[dict[str, Any]] = (),
    host: str = "127.0.0.1",
    instance: str = "0",
    metrics_port: int | None = None,
) -> int:
    """Write them into ``folder``; files that hold the same already are not touched.

    Args:
        predictions: root of the prediction log.
        features: ``spec.Feature`` as plain dicts; with the signature they make the input check.
        warmup: rows (feature to value) predicted before the server is ready.
        host: address the server listens on.
        instance: tells the writers of one version's prediction log apart.
        metrics_port: in a pod, where no router of ours stands before the server: it keeps ``max_concurrency``,
            ``queue`` and ``timeout`` itself, and tells its numbers on this port.

    Returns:
        Threads that the server may use.
    """
    threads = max(1, math.ceil(serving.cpu))
    more: dict[str, Any] = {}
    if serving.batch is not None:
        more["batch"] = {"size": serving.batch, "delay_s": serving.batch_delay.total_seconds()}
    if metrics_port is not None:
        bounds = {"max_concurrency": serving.max_concurrency, "queue": serving.queue}
        more["limits"] = {**bounds, "metrics_port": metrics_port}
    folder.mlserver.mkdir(parents=True, exist_ok=True)
    files.write_json_if_changed(
        folder.server_file,
        {
            "model": model,
            "version": version,
            "digest": digest,
            "port": port,
            "cpu": threads,
            "memory": serving.memory,
            "timeout_s": serving.timeout.total_seconds(),
            "drain_s": serving.drain.total_seconds(),
            "flush_s": serving.flush.total_seconds(),
            "sample": serving.sample,
            "predictions": str(predictions),
            "instance": instance,
            "features": list(features),
            "warmup": list(warmup),
            **more,
        },
    )
    files.write_json_if_changed(
        folder.mlserver / "settings.json",
        {
            "debug": False,
            "host": host,
            "http_port": port,
            "metrics_endpoint": None,
            "parallel_workers": 0,
            "server_name": program_name(model, version),
        },
    )
    files.write_json_if_changed(
        folder.mlserver / "model-settings.json",
        {
            "name": model,
            "implementation": "windtunnel.serving.modelserver.runtime.WindtunnelRuntime",
            "parameters": {"uri": str(folder.path), "version": version},
        },
    )
    return threads
