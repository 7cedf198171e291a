"""``python -m bench [--quick] [NAME ...]``: run all benchmarks, or those named, and keep what they say in
docs/benchmarks.md.

``--quick`` runs the studies (those that simulate, not measure) small, and keeps nothing. Exit code 1 when a demand was
missed.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
from datetime import date
from pathlib import Path

NAMES = (
    "imports",
    "parse",
    "router",
    "weights",
    "server",
    "log",
    "collector",
    "looks",
    "seldon",
    "memory",
    "flight",
    "pods",
    "triggerer",
    "audit",
    "verify",
    "sealing",
    "registry",
    "search",
    "large",
    "moving",
    "lineage",
    "truth",
    "detection",
    "gates",
    "plans",
    "users",
)
#: They simulate: the same numbers on any machine.
STUDIES = ("truth", "detection", "gates", "plans", "users")
DOC = Path(__file__).parent.parent / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

What `make bench` measured last. Ratios are of things measured in turn in one run; absolute numbers are of one machine
at one moment.
"""


def machine() -> str:
    """The machine in general terms."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kind = f"{platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {kind}, Python {platform.python_version()}"


def kept(page: str, name: str, text: str) -> str:
    """``page`` with the part between this benchmark's marks replaced, or added in the order of ``NAMES``."""
    block = f"<!-- {name} -->\n{text}\n*{date.today():%Y-%m-%d}, {machine()}.*\n<!-- /{name} -->\n"
    pattern = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->\n", re.DOTALL)
    if pattern.search(page):
        return pattern.sub(lambda _: block, page)
    for later in NAMES[NAMES.index(name) + 1 :]:
        at = page.find(f"<!-- {later} -->")
        if at >= 0:
            return f"{page[:at]}{block}\n{page[at:]}"
    return f"{page.rstrip()}\n\n{block}"


def main() -> None:
    quick = "--quick" in sys.argv
    names = [name for name in sys.argv[1:] if name != "--quick"] or list(STUDIES if quick else NAMES)
    for name in names:
        if name not in NAMES:
            sys.exit(f"unknown benchmark {name!r}; expected one of {', '.join(NAMES)}")
        if quick and name not in STUDIES:
            sys.exit(f"--quick is for studies ({', '.join(STUDIES)}), not for {name!r}")
    missed = []
    for name in names:
        study = importlib.import_module(f"bench.{name}").run
        table = study(quick=True) if quick else study()
        print(table.markdown(), flush=True)
        if quick:
            continue
        page = DOC.read_text(encoding="utf-8") if DOC.exists() else HEAD
        DOC.write_text(kept(page, name, table.markdown()), encoding="utf-8")
        if not table.met:
            missed.append(name)
    if missed:
        sys.exit(f"demands missed in: {', '.join(missed)}")


if __name__ == "__main__":
    main()
