"""Is a version good enough to be registered: metrics, slices, fairness, leakage, the user's own tests (EVL-1)."""

from windtunnel.evaluation.evaluate import EvaluationResult, evaluate
from windtunnel.evaluation.metrics import compute, row_loss

__all__ = ["EvaluationResult", "compute", "evaluate", "row_loss"]
