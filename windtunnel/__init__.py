"""Windtunnel: no model flies untested.

Names are loaded when first used (PEP 562), so that a DAG file pays only for what it names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windtunnel.evidence import Outcome, Verdict
    from windtunnel.spec import (
        Audience,
        Benchmark,
        Card,
        Check,
        Data,
        Drift,
        Evaluation,
        ExtraStep,
        Feature,
        Gate,
        Hours,
        Limits,
        Metric,
        Model,
        Monitoring,
        Performance,
        Pod,
        Policy,
        Resources,
        Retrain,
        Rollout,
        Scale,
        Segments,
        Serving,
        Slice,
        Step,
        Toleration,
        Training,
        Volume,
    )
    from windtunnel.spec.load import load_model
    from windtunnel.tracking.run import Run

__version__ = "0.1.0"

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
    "Outcome",
    "Performance",
    "Pod",
    "Policy",
    "Resources",
    "Retrain",
    "Rollout",
    "Run",
    "Scale",
    "Segments",
    "Serving",
    "Slice",
    "Step",
    "Toleration",
    "Training",
    "Verdict",
    "Volume",
    "__version__",
    "load_model",
]

#: Where a public name lives, unless it is part of the description.
_ELSEWHERE = {
    "Outcome": "windtunnel.evidence",
    "Run": "windtunnel.tracking.run",
    "Verdict": "windtunnel.evidence",
    "load_model": "windtunnel.spec.load",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'windtunnel' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ELSEWHERE.get(name, "windtunnel.spec")), name)
