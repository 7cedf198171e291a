"""Waiting for what another process does, as long as a busy machine may need."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx


def until(what: Callable[[], Any], limit_s: float = 120.0, every_s: float = 0.2) -> Any:
    """The first true answer. One that is not there yet (HTTP or lookup error) is asked for again.

    Raises:
        AssertionError: there was none within ``limit_s`` seconds.
    """
    end, last = time.monotonic() + limit_s, None
    while True:
        try:
            last = what()
        except (httpx.HTTPError, LookupError, ValueError) as error:
            last = error
        else:
            if last:
                return last
        assert time.monotonic() < end, f"not within {limit_s:g} s; last seen: {last!r}"
        time.sleep(every_s)
