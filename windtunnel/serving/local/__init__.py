"""The backend of this machine: a model server per version, behind Envoy."""

from windtunnel.serving.local.backend import LocalBackend, reconcile_all

__all__ = ["LocalBackend", "reconcile_all"]
