"""What is known about a model and how sure we are: verdicts, manifests, canonical bytes. Pure but for reading files in ``manifest``."""

from windtunnel.evidence.verdict import Kind, Outcome, Verdict

__all__ = ["Kind", "Outcome", "Verdict"]
