"""What setup.py says, without building anything."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import setuptools

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def said() -> dict[str, Any]:
    """The arguments setup.py gives to setuptools, and its table of folders under ``WHERE``."""
    told: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", told.update)
        patch.chdir(ROOT)
        told["WHERE"] = runpy.run_path(str(ROOT / "setup.py"))["WHERE"]
    return told
