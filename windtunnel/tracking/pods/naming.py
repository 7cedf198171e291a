"""Names and labels of training pods.

A pod's name follows from run and attempt: making the same pod twice meets the first one (409), and is not a second
training. Labels find the pods of a run, a model, a story, a cost centre.
"""

from __future__ import annotations

import hashlib
import re

#: At most this long, by Kubernetes' rules for labels and for names that are also host names (RFC 1123).
LIMIT = 63
_HASH = 8

NAME = "app.kubernetes.io/name"
MANAGED_BY = "app.kubernetes.io/managed-by"
COMPONENT = "app.kubernetes.io/component"
MODEL = "windtunnel.dev/model"
RUN = "windtunnel.dev/run"
ATTEMPT = "windtunnel.dev/attempt"
CORRELATION_ID = "windtunnel.dev/correlation-id"
COST_CENTRE = "windtunnel.dev/cost-centre"
#: Annotations: whose it is, as JSON (``orphans.Task``), and for how many seconds its task waits for a node.
TASK = "windtunnel.dev/task"
START_WITHIN = "windtunnel.dev/start-within"
#: Kueue's own: the queue that admits the pod, and its priority there.
QUEUE = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY = "kueue.x-k8s.io/priority-class"

#: Every training pod has these.
COMMON = {NAME: "windtunnel", MANAGED_BY: "windtunnel", COMPONENT: "training"}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH]


def label_value(text: str) -> str:
    """``text`` where it can be a label's value; else what can be kept of it and a hash, so that no two become one."""
    kept = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)
    kept = kept.strip("-_.")
    if kept == text and len(text) <= LIMIT:
        return text
    short = kept[: LIMIT - _HASH - 1].rstrip("-_.")
    return f"{short}-{_hash(text)}" if short else _hash(text)


def pod_name(model: str, run_id: str, attempt: int, limit: int = LIMIT) -> str:
    """``wt-MODEL-RUN-ATTEMPT`` within 63 characters; the run is always told apart by a hash of its whole id.

    Args:
        attempt: from 1; each attempt at a run is a pod of its own.
        limit: fewer characters, where something is put behind the name.
    """
    tail = f"-{_hash(run_id)}-{attempt}"
    head = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    return f"wt-{head}"[: limit - len(tail)].rstrip("-") + tail


def selector(run_id: str, attempt: int | None = None) -> str:
    """Label selector of a run's pods, or of one attempt's."""
    wanted = {MANAGED_BY: "windtunnel", RUN: label_value(run_id)}
    if attempt is not None:
        wanted[ATTEMPT] = str(attempt)
    return ",".join(f"{key}={value}" for key, value in sorted(wanted.items()))
