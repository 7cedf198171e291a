"""Where monitoring keeps its files, and how they are written: whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from windtunnel.canonical import dumps, loads
from windtunnel.errors import DataError
from windtunnel.files import write_bytes
from windtunnel.home import Home
from windtunnel.names import check_model_name


def folder(home: Home, model: str) -> Path:
    """``HOME/monitoring/MODEL``."""
    return home.monitoring / check_model_name(model)


def reference_file(home: Home, model: str, version: str) -> Path:
    return folder(home, model) / f"reference-{version}.json"


def sample_file(home: Home, model: str, version: str) -> Path:
    return folder(home, model) / f"reference-{version}.sample.parquet"


def windows_file(home: Home, model: str) -> Path:
    return folder(home, model) / "windows.json"


def window_name(window: Mapping[str, Any]) -> str:
    """The same for the same window (``start``, ``end``, in seconds) of the same ``version``."""
    return f"{float(window['start']):.3f}-{float(window['end']):.3f}-v{window['version']}"


def write_json(path: Path, value: Any) -> None:
    """Canonical JSON (NaN and infinities survive), atomically."""
    write_bytes(path, dumps(value) + b"\n", parents=True)


def read_json(path: Path) -> Any | None:
    """The value in ``path``, or None when there is no such file.

    Raises:
        DataError: the file is not what ``write_json`` wrote.
    """
    try:
        return loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint="move it away; it will be written anew") from error
