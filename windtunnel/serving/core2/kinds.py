"""What Seldon Core 2's kinds of object are called in the API's paths."""

from __future__ import annotations

from windtunnel.kube.kinds import Kind

EXPERIMENT = Kind("mlops.seldon.io", "v1alpha1", "experiments", "Experiment")
MODEL = Kind("mlops.seldon.io", "v1alpha1", "models", "Model")
SERVER = Kind("mlops.seldon.io", "v1alpha1", "servers", "Server")
