"""Windtunnel: no model flies untested.

Names are loaded when first used (PEP 562), so that a DAG file pays only for what it names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_SPEC = (
    "Benchmark", "Check", "Data", "Drift", "Evaluation", "ExtraStep", "Feature", "Gate", "Limits", "Metric",
    "Model", "Monitoring", "Performance", "Policy", "Resources", "Retrain", "Rollout", "Serving", "Slice", "Step", "Training",
)
_HOME = {name: "windtunnel.spec" for name in _SPEC} | {
    "Run": "windtunnel.tracking.run",
    "Outcome": "windtunnel.evidence",
    "Verdict": "windtunnel.evidence",
    "load_model": "windtunnel.spec.load",
}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from windtunnel.evidence import Outcome, Verdict
    from windtunnel.spec import (
        Benchmark, Check, Data, Drift, Evaluation, ExtraStep, Feature, Gate, Limits, Metric, Model, Monitoring,
        Performance, Policy, Resources, Retrain, Rollout, Serving, Slice, Step, Training,
    )
    from windtunnel.spec.load import load_model
    from windtunnel.tracking.run import Run


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'windtunnel' has no attribute {name!r}")
