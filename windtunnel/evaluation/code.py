"""The user's own metrics and tests, named as ``package.module:function``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from windtunnel.errors import EntryPointError


def load(name: str) -> Callable[..., Any]:
    """Import a function by its name.

    Raises:
        EntryPointError: the module or the function does not exist, or it cannot be called.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise EntryPointError(
            f"cannot import {module_name} for {name}: {error}",
            hint="the code must be importable where evaluation runs: check its folder and its packages",
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise EntryPointError(
            f"{module_name} has no function {attribute}", hint="expected package.module:function; check the spelling"
        )
    function: Callable[..., Any] = found
    return function
