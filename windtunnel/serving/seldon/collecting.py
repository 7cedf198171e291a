"""How a version's rows get out of its pods: by its own server, or by Seldon's request logger (decision 0021). Pure.

Whether requests are copies stands in the object and nowhere in them, so it is said where the predictor is made. Seldon
starts the pods of a predictor anew when it becomes a shadow or stops being one, whatever we say here.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.collector.sending import CA, SHADOW, TOKEN, URL
from windtunnel.serving.seldon.settings import Seldon

#: Where the server's log lies in its pod; an ``emptyDir``, which outlives the server's process.
PREDICTIONS = "/var/lib/windtunnel/predictions"
_SECRET, _AUTHORITY = "/etc/windtunnel/collector", "/etc/windtunnel/collector-ca"
#: The sender keeps half of it at most.
_SIZE = "1Gi"


def by_server(seldon: Seldon) -> bool:
    """Whether pods send their own rows."""
    return seldon.collector is not None and seldon.collector_rows == "server"


def logger(seldon: Seldon, *, shadow: bool) -> dict[str, Any] | None:
    """``graph.logger`` of a predictor; None where the executor logs nothing."""
    if seldon.logger:
        return {"url": seldon.logger, "mode": seldon.logger_mode}
    if seldon.collector is None or by_server(seldon):
        return None
    return {"url": f"{seldon.collector.rstrip('/')}/v1/events{'?shadow=1' if shadow else ''}", "mode": "all"}


def into(pod: dict[str, Any], seldon: Seldon, *, shadow: bool) -> dict[str, Any]:
    """``pod`` with what its first step and its server need to send rows; unchanged where they do not."""
    if not by_server(seldon):
        return pod
    env = [{"name": URL, "value": seldon.collector}]
    mounts: list[dict[str, Any]] = [{"name": "windtunnel-predictions", "mountPath": PREDICTIONS}]
    volumes: list[dict[str, Any]] = [{"name": "windtunnel-predictions", "emptyDir": {"sizeLimit": _SIZE}}]
    if shadow:
        env.append({"name": SHADOW, "value": "1"})
    if seldon.collector_secret:
        env.append({"name": TOKEN, "value": f"{_SECRET}/token"})
        mounts.append({"name": "windtunnel-collector", "mountPath": _SECRET, "readOnly": True})
        items = [{"key": "token", "path": "token"}]
        volumes.append(
            {"name": "windtunnel-collector", "secret": {"secretName": seldon.collector_secret, "items": items}}
        )
    if seldon.collector_ca:
        env.append({"name": CA, "value": f"{_AUTHORITY}/ca.crt"})
        mounts.append({"name": "windtunnel-collector-ca", "mountPath": _AUTHORITY, "readOnly": True})
        items = [{"key": "ca.crt", "path": "ca.crt"}]
        volumes.append(
            {"name": "windtunnel-collector-ca", "secret": {"secretName": seldon.collector_ca, "items": items}}
        )
    containers = {
        kind: [
            {**one, "env": [*one["env"], *env], "volumeMounts": [*one["volumeMounts"], *mounts]} for one in pod[kind]
        ]
        for kind in ("initContainers", "containers")
    }
    return {**pod, **containers, "volumes": [*pod["volumes"], *volumes]}
