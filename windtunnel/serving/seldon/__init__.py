"""Serving by Seldon Core on Kubernetes: ``SeldonBackend`` keeps the contract of ``windtunnel.serving.backend``.

settings   which cluster, images, registry, keys, gateway and Prometheus
record     the desired state in annotations of the object it is about
manifest   from that state to a SeldonDeployment, others' fields left alone; pure
steps      what becomes of the state, beyond what every backend does with it; pure
status     what the object and its pods say of a version; pure
objects    the object read, decided upon and written
contested  fields of ours that somebody else has written: found, told, counted; pure
feed       all objects of the namespace, by one list and one watch
readiness  whether a version has answered for itself
split, gateway  who answers behind the gateway, counted
backend    all of it put together: ``SeldonBackend``
initstep   the pod's first step: fetch, verify manifest and signature, leave that copy to the server

One object per model, named after it: a predictor per version, ``v3``, whose ``traffic`` is its weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windtunnel.serving.seldon.backend import SeldonBackend
    from windtunnel.serving.seldon.settings import Seldon

__all__ = ["Seldon", "SeldonBackend"]


def __getattr__(name: str) -> Any:
    if name == "SeldonBackend":
        from windtunnel.serving.seldon.backend import SeldonBackend

        return SeldonBackend
    if name == "Seldon":
        from windtunnel.serving.seldon.settings import Seldon

        return Seldon
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
