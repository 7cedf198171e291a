"""Finding the user's code, and saying precisely what is wrong when it cannot be found."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from windtunnel.errors import EntryPointError


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known[:12]) or 'nothing callable'}"


def _module(name: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            parent = name.rpartition(".")[0]
            where = f"package {parent!r} has no module {name.rpartition('.')[2]!r}" if parent else "no such module"
            raise EntryPointError(
                f"entry point {reference!r}: {where} (looking for {error.name!r})",
                hint="install it, or put its folder beside the DAG file; check the spelling",
            ) from None
        raise EntryPointError(
            f"entry point {reference!r}: importing {name} needs module {error.name!r}, which is not installed",
            hint=f"add {error.name} to the training environment",
        ) from error
    except Exception as error:
        raise EntryPointError(
            f"entry point {reference!r}: importing {name} raised {type(error).__name__}: {error}",
            hint="the module must be importable by itself; see the traceback in the log",
        ) from error


def resolve(reference: str) -> Callable[..., Any]:
    """The function behind ``package.module:function``.

    Raises:
        EntryPointError: module or function do not exist, the import raises, it is no function, or it does not take
            exactly one run.
    """
    name, _, attribute = reference.partition(":")
    module = _module(name, reference)
    try:
        found = getattr(module, attribute)
    except AttributeError:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise EntryPointError(
            f"entry point {reference!r}: {module.__name__} ({module.__file__}) has no {attribute!r}",
            hint=_nearest(attribute, sorted(known)),
        ) from None
    if not callable(found):
        raise EntryPointError(
            f"entry point {reference!r} is a {type(found).__name__}, expected a function",
            hint="def train(run: windtunnel.Run) -> model",
        )
    if inspect.iscoroutinefunction(found):
        raise EntryPointError(f"entry point {reference!r} is async, expected a plain function", hint="use def")
    try:
        inspect.signature(found).bind(object())
    except TypeError:
        raise EntryPointError(
            f"entry point {reference!r} has signature {inspect.signature(found)}, expected one argument: the run",
            hint=f"def {attribute}(run: windtunnel.Run)",
        ) from None
    except ValueError:  # a builtin without a signature: calling it will tell
        pass
    return found  # type: ignore[no-any-return]
