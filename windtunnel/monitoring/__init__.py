"""Watching a model in production: reference, windows, drift, performance, report, reaction.

``watch`` ties them together; everything else decides over plain values and is usable alone.
"""
