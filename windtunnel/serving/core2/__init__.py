"""Serving by Seldon Core 2 on Kubernetes: ``Core2Backend`` keeps the contract of ``windtunnel.serving.backend``.

settings   ``Core2``: what an installation says of its cluster, beside what it says for Core 1
kinds      what the objects are called in the API's paths
manifest   from the desired state to Experiment, Model and Server; pure
experiments, parts   the object that says what is wanted, written; the objects that follow from it, made and removed
status     what a Model says of its version; pure
readiness  whether a version has answered for itself
backend    all of it put together: ``Core2Backend``
launch     start of the model server in a Server's pod: it loads the verified copy and nothing else

One Experiment per model, named after it, carries the desired state; a Model and a Server per version, ``MODEL-v3``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windtunnel.kube.kinds import Kind
    from windtunnel.serving.core2.backend import Core2Backend
    from windtunnel.serving.core2.settings import Core2
    from windtunnel.serving.seldon.backend import SeldonBackend
    from windtunnel.serving.seldon.settings import Seldon

__all__ = ["Core2", "Core2Backend", "backend_of", "needed"]


def backend_of(seldon: Seldon, **more: Any) -> SeldonBackend:
    """The backend for the API that the settings name; ``more`` goes to it as it is (``client``, ``traffic``)."""
    from windtunnel.serving.core2.settings import Core2

    if isinstance(seldon, Core2):
        from windtunnel.serving.core2.backend import Core2Backend

        return Core2Backend(seldon, **more)
    from windtunnel.serving.seldon.backend import SeldonBackend

    return SeldonBackend(seldon, **more)


def needed(seldon: Seldon) -> dict[Kind, tuple[str, ...]]:
    """What a release by these settings does with objects of Seldon's, beside listing them: verbs by kind."""
    from windtunnel.kube.kinds import SELDON_DEPLOYMENT
    from windtunnel.serving.core2.kinds import EXPERIMENT, MODEL, SERVER
    from windtunnel.serving.core2.settings import Core2

    written = ("get", "watch", "create", "patch")
    if not isinstance(seldon, Core2):
        return {SELDON_DEPLOYMENT: written}
    return {EXPERIMENT: written, MODEL: (*written, "delete"), SERVER: (*written, "delete")}


def __getattr__(name: str) -> Any:
    if name == "Core2Backend":
        from windtunnel.serving.core2.backend import Core2Backend

        return Core2Backend
    if name == "Core2":
        from windtunnel.serving.core2.settings import Core2

        return Core2
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
