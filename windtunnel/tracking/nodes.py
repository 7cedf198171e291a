"""Which of a training's nodes this process is on, by its environment; alone unless told.

A training of several nodes runs the same entry point on each. Node 0 speaks for all: its model is delivered, its
metrics and its end are the run's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

#: Ours, beside what torch looks for: these are never taken over from elsewhere.
RANK = "WINDTUNNEL_NODE_RANK"
NODES = "WINDTUNNEL_NODES"


def rank(environment: Mapping[str, str] | None = None) -> int:
    """Number of this node, from 0."""
    return int((os.environ if environment is None else environment).get(RANK) or 0)


def count(environment: Mapping[str, str] | None = None) -> int:
    """How many nodes there are."""
    return int((os.environ if environment is None else environment).get(NODES) or 1)
