"""What is known about a model, and how surely: verdicts and manifests. Pure but for reading files in ``manifest``."""

from windtunnel.evidence.verdict import Kind, Outcome, Verdict

__all__ = ["Kind", "Outcome", "Verdict"]
