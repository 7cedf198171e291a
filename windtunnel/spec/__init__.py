"""The description of a model and its policies. Pure; YAML files are read by ``windtunnel.spec.load``."""

from windtunnel.spec.card import Card
from windtunnel.spec.data import Check, Data, Feature
from windtunnel.spec.evaluation import Benchmark, Evaluation, Metric, Slice
from windtunnel.spec.model import Model
from windtunnel.spec.monitoring import Drift, Monitoring, Performance, Retrain
from windtunnel.spec.pod import Pod, ServerPod, Toleration, TrainJob, Volume
from windtunnel.spec.policy import Policy
from windtunnel.spec.prices import Prices
from windtunnel.spec.rollout import Audience, Gate, Hours, Limits, Rollout, Segments, Step
from windtunnel.spec.serving import Scale, Serving
from windtunnel.spec.training import ExtraStep, Resources, Training

__all__ = [
    "Audience",
    "Benchmark",
    "Card",
    "Check",
    "Data",
    "Drift",
    "Evaluation",
    "ExtraStep",
    "Feature",
    "Gate",
    "Hours",
    "Limits",
    "Metric",
    "Model",
    "Monitoring",
    "Performance",
    "Pod",
    "Prices",
    "Policy",
    "Resources",
    "Retrain",
    "Rollout",
    "Scale",
    "Segments",
    "ServerPod",
    "Serving",
    "Slice",
    "Step",
    "Toleration",
    "TrainJob",
    "Training",
    "Volume",
]
