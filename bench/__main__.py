"""``python -m bench [NAME ...]``: run all benchmarks, or those named, and keep what they say in docs/benchmarks.md."""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
from datetime import date
from pathlib import Path

NAMES = ("imports", "parse", "router", "memory")
DOC = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def machine() -> str:
    """The machine in general terms."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {system}"


def keep(name: str, text: str) -> None:
    """Replace the part of the page between this benchmark's marks."""
    page = DOC.read_text(encoding="utf-8") if DOC.exists() else "# Benchmarks\n"
    block = f"<!-- {name} -->\n{text}\n*{date.today():%Y-%m-%d}, {machine()}.*\n<!-- /{name} -->\n"
    pattern = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->\n", re.DOTALL)
    page = pattern.sub(lambda _: block, page) if pattern.search(page) else f"{page}\n{block}"
    DOC.write_text(page, encoding="utf-8")


def main() -> None:
    for name in sys.argv[1:] or NAMES:
        if name not in NAMES:
            sys.exit(f"unknown benchmark {name!r}; expected one of {', '.join(NAMES)}")
        text = importlib.import_module(f"bench.{name}").run().markdown()
        print(text, flush=True)
        keep(name, text)


if __name__ == "__main__":
    main()
