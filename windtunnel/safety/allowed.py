"""Which names a pickle, or a skops file, may ask for: an allow-list, exact by module and qualified name.

A rule such as "anything of scikit-learn" would let through what its modules merely imported
(``sklearn.datasets._base.GzipFile`` opens and empties files). So names stand one by one in three files.
``allowed.json``: the libraries' classes (``scripts/allowed_types.py`` writes it). ``few.json``: functions and plain
types that pickles need, by hand. ``weights.json``: what puts tensors together; naming only these runs nothing else.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cache
from importlib import resources

#: Of a trusted module, names that are never its types: what modules import to reach the system.
_NEVER = frozenset(
    (
        "os",
        "sys",
        "subprocess",
        "importlib",
        "builtins",
        "pickle",
        "marshal",
        "ctypes",
        "socket",
        "shutil",
        "eval",
        "exec",
        "compile",
        "open",
        "system",
        "popen",
        "Popen",
        "run",
        "call",
        "check_call",
        "check_output",
        "getattr",
        "setattr",
        "delattr",
        "globals",
        "locals",
        "vars",
        "import_module",
        "__import__",
        "loads",
        "load",
        "input",
        "breakpoint",
        "attrgetter",
        "methodcaller",
        "itemgetter",
        "partial",
        "reduce",
        "map",
        "filter",
    )
)


@cache
def _table(name: str) -> dict[str, frozenset[str]]:
    text = resources.files("windtunnel.safety").joinpath(f"{name}.json").read_text(encoding="utf-8")
    return {module: frozenset(names) for module, names in json.loads(text).items()}


@cache
def _listed(module: str) -> frozenset[str]:
    """The names of one module that may be asked for."""
    empty: frozenset[str] = frozenset()
    return empty.union(*(_table(name).get(module, empty) for name in ("allowed", "few", "weights")))


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the description of a model allows beyond the lists.

    Attributes:
        pickle: formats that may run code when they are loaded.
        trust: modules whose types may be loaded and whose code may lie beside the model, or single types.
    """

    pickle: bool = False
    trust: tuple[str, ...] = ()

    def trusts(self, module: str) -> bool:
        """Whether a module, or one it lies in, is trusted. Python's own modules never are."""
        root = module.partition(".")[0]
        if root in sys.stdlib_module_names or not root:
            return False
        return any(module == name or module.startswith(f"{name}.") for name in self.trust)

    def allows(self, module: str, name: str) -> bool:
        """Whether a pickle may ask for this name."""
        if name in _listed(module):
            return True
        root = module.partition(".")[0]
        if root in sys.stdlib_module_names:
            return False
        if f"{module}.{name}" in self.trust:
            return True
        return self.trusts(module) and name.isidentifier() and name not in _NEVER

    def allows_type(self, full: str) -> bool:
        """The same for a dotted name, as skops writes it."""
        module, _, name = full.rpartition(".")
        return self.allows(module, name)


def weights(full: str) -> bool:
    """Whether a name only puts tensors together."""
    module, _, name = full.rpartition(".")
    return name in _table("weights").get(module, ())
