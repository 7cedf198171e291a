"""Where a team's code is imported from: a detached run does not inherit the DAG processor's ``sys.path``."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path


def import_roots(codes: Iterable[str]) -> list[str]:
    """Folders a fresh interpreter needs on its path to import ``package.module:function``.

    Only the top-level package is looked up, so no user code runs here. Installed packages need no folder.
    """
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")}
    roots: list[str] = []
    for code in codes:
        top = code.partition(":")[0].partition(".")[0]
        try:
            spec = find_spec(top)
        except (ImportError, ValueError):
            spec = None
        if spec is None:
            continue  # the run itself says so, and names the entry point
        places = list(spec.submodule_search_locations or ()) or ([spec.origin] if spec.origin else [])
        for place in places:
            root = Path(place).resolve().parent
            # An editable install is found by the interpreter itself, but its mapping may rename folders.
            if root not in installed and Path(place).stem in (top, "__init__") and str(root) not in roots:
                roots.append(str(root))
    return roots
