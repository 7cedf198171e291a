"""Whether a model's files may be loaded: what would run code, who signed them. Nothing here loads or runs anything."""

from windtunnel.safety.allowed import Allowance
from windtunnel.safety.scan import Finding, Report, scan, scan_file

__all__ = ["Allowance", "Finding", "Report", "scan", "scan_file"]
