"""Benchmarks: ratios measured side by side in one run, printed and kept in docs/benchmarks.md (``python -m bench``)."""
