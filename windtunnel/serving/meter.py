"""The meter: tails the router's access log and publishes counters per version (being written)."""

from __future__ import annotations

from windtunnel.serving.traffic import DEAD_AFTER_S, read_recent, read_traffic

__all__ = ["DEAD_AFTER_S", "read_recent", "read_traffic"]
