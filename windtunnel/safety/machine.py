"""A pickle read without running it: every opcode is followed, nothing is imported or called.

The machine keeps a stack and a memo as Python's unpickler does, but of values that only say what they are: constants,
names (``Name``), and what a call would make (``Made``). So it knows which names a pickle really asks for, however they
are put together (``STACK_GLOBAL`` over the memo, ``INST``, ``OBJ``). What it cannot know is a problem.

It is lenient where unpicklers differ (quoting, frames): what some unpickler would run is followed. It reads joblib's
files too, in which arrays stand between opcodes. Source of the format: CPython's ``pickletools`` and ``pickle``.
"""

from __future__ import annotations

import _compat_pickle
from collections.abc import Callable
from typing import Any

from windtunnel.safety.opcodes import operations
from windtunnel.safety.values import LIST, UNKNOWN, Broken, Items, Made, Name, Reading, Source, itemsize

#: Whether a pickle may name this global: module, qualified name.
Allowed = Callable[[str, str], bool]

_TEXT = 4096  # longer strings are no name of anything
_KEEP = 64  # members of a tuple or dict that are remembered
_HIGHEST = 5
WRAPPER = ("joblib.numpy_pickle", "NumpyArrayWrapper")
_CODECS = {"latin1", "latin-1", "utf-8", "utf8", "ascii"}


class Machine:
    """Follows one pickle from where ``source`` stands to its STOP.

    Args:
        source: the bytes.
        allowed: whether a global may be named.
        tensors: persistent ids are torch's storages (inside torch's zip files) and not a problem.
        arrays: arrays stand in the stream as joblib writes them.
        budget: opcodes after which it gives up.
    """

    def __init__(
        self,
        source: Source,
        allowed: Allowed,
        *,
        tensors: bool = False,
        arrays: bool = False,
        budget: int = 100_000_000,
    ) -> None:
        self.source = source
        self.allowed = allowed
        self.tensors = tensors
        self.arrays = arrays
        self.budget = budget
        self.reading = Reading()
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.protocol = 0
        self.frame_end: int | None = None
        self.ops = operations(self)

    def run(self, first: bytes = b"") -> Reading:
        """Follow it. ``first`` is an opcode that was read from the source already."""
        try:
            left = self.budget
            ops, source = self.ops, self.source
            while True:
                code = first or source.read(1)
                first = b""
                if code == b".":
                    value = self.take()
                    self.reading.stopped = True
                    self.reading.integer = value if type(value) is int else None
                    return self.reading
                operation = ops.get(code)
                if operation is None:
                    raise Broken(f"{code!r} at byte {source.at - 1} is no opcode")
                operation()
                left -= 1
                if left <= 0:
                    raise Broken(f"it has more than {self.budget} opcodes")
        except Broken as error:
            self.reading.broken = str(error)
        except (ValueError, OverflowError, IndexError, UnicodeError) as error:
            self.reading.broken = f"{type(error).__name__} at byte {self.source.at}"
        return self.reading

    # -- the stack

    def take(self) -> Any:
        if not self.stack:
            raise Broken(f"an empty stack at byte {self.source.at}")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack:
            raise Broken(f"an empty stack at byte {self.source.at}")
        return self.stack[-1]

    def to_mark(self) -> list[Any]:
        if not self.marks:
            raise Broken(f"no mark at byte {self.source.at}")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.source.read(size), "little", signed=signed)

    # -- opcodes

    def proto(self) -> None:
        self.protocol = self.source.read(1)[0]
        if self.protocol > _HIGHEST:
            raise Broken(f"protocol {self.protocol} is not known")

    def frame(self) -> None:
        self.frame_end = self.number(8) + self.source.at

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        # As the C unpickler does: with nothing above the mark, the mark goes.
        if self.stack:
            self.stack.pop()
        elif self.marks:
            self.stack = self.marks.pop()
        else:
            raise Broken(f"an empty stack at byte {self.source.at}")

    def text(self, raw: bytes, *, plain: bool = False) -> None:
        """A string; ``plain`` for Python 2's, which unpicklers decode as they like."""
        if len(raw) > _TEXT or (plain and (b"\\" in raw or not raw.isascii())):
            self.push(UNKNOWN)
            return
        self.push(raw.decode("utf-8", "surrogatepass"))

    def unicode_line(self) -> None:
        self.push(str(self.source.line(), "raw-unicode-escape"))

    def string_line(self) -> None:
        raw = self.source.line().strip()
        self.text(raw[1:-1] if len(raw) >= 2 and raw[:1] in b"'\"" and raw[:1] == raw[-1:] else raw, plain=True)

    def counted(self, size: int, *, text: bool = False, plain: bool = False) -> None:
        """A string or bytes whose length stands before it in ``size`` bytes."""
        length = self.number(size)
        if not (text or plain) or length > _TEXT:
            self.source.skip(length)
            self.push(UNKNOWN)
            return
        self.text(self.source.read(length), plain=plain)

    def int_line(self) -> None:
        raw = self.source.line()
        self.push({b"00": False, b"01": True}.get(raw) if raw in (b"00", b"01") else int(raw.strip() or b"x", 0))

    def float_line(self) -> None:
        self.source.line()
        self.push(UNKNOWN)

    def float_bytes(self) -> None:
        self.source.read(8)
        self.push(UNKNOWN)

    def long_line(self) -> None:
        raw = self.source.line().strip().removesuffix(b"L")
        self.push(int(raw, 0) if len(raw) < 40 else UNKNOWN)

    def long(self, size: int) -> None:
        length = self.number(size)
        if length > 16:
            self.source.skip(length)
            self.push(UNKNOWN)
            return
        self.push(self.number(length, signed=True))

    def tuple_of(self, count: int | None) -> None:
        if count is None:
            items = self.to_mark()
        else:
            if len(self.stack) < count:
                raise Broken(f"an empty stack at byte {self.source.at}")
            items = self.stack[len(self.stack) - count :] if count else []
            if count:
                del self.stack[-count:]
        self.push(tuple(items) if len(items) <= _KEEP else UNKNOWN)

    def mark_list(self) -> None:
        self.to_mark()
        self.push(LIST)

    def mark_dict(self) -> None:
        items = self.to_mark()
        self.push(Items())
        self._set(items)

    def append(self, many: bool) -> None:
        self.to_mark() if many else self.take()
        self._no_name(self.top(), "adds to")

    def set_items(self, many: bool) -> None:
        self._set(self.to_mark() if many else [*reversed([self.take(), self.take()])])

    def _set(self, items: list[Any]) -> None:
        target = self.top()
        self._no_name(target, "sets members of")
        if isinstance(target, Items):
            for key, value in zip(items[::2], items[1::2], strict=False):
                if isinstance(key, str) and len(target.known) < _KEEP:
                    target.known[key] = value
                else:
                    target.whole = False

    def _no_name(self, target: Any, what: str) -> None:
        if isinstance(target, Name):
            self.reading.acts = True
            self.reading.problem(f"it {what} {target} itself")

    def put(self, key: int) -> None:
        self.memo[key] = self.top()

    def get(self, key: int) -> None:
        if key not in self.memo:
            raise Broken(f"memo {key} was never written, at byte {self.source.at}")
        self.push(self.memo[key])

    # -- what makes a pickle dangerous

    def name(self, module: Any, name: Any) -> Name | None:
        """A global is asked for: it is on the list, or a problem."""
        if not isinstance(module, str) or not isinstance(name, str):
            self.reading.acts = True
            self.reading.problem(f"it asks for a name that is put together while loading, at byte {self.source.at}")
            return None
        if self.protocol < 3:  # names of Python 2, as the unpickler maps them
            if (module, name) in _compat_pickle.NAME_MAPPING:
                module, name = _compat_pickle.NAME_MAPPING[(module, name)]
            elif module in _compat_pickle.IMPORT_MAPPING:
                module = _compat_pickle.IMPORT_MAPPING[module]
        found = Name(module, name)
        self.reading.names.add(str(found))
        if not self.allowed(module, name):
            self.reading.problem(f"{found} is not on the list of types that may be loaded")
        return found

    def global_lines(self) -> None:
        module, name = self.source.line(), self.source.line()
        self.push(self.name(module.decode("utf-8"), name.decode("utf-8")) or UNKNOWN)

    def stack_global(self) -> None:
        name, module = self.take(), self.take()
        self.push(self.name(module, name) or UNKNOWN)

    def _call(self, callee: Any, args: Any) -> None:
        self.reading.acts = True
        if not isinstance(callee, Name):
            self.reading.problem(f"it calls what is no plain name, at byte {self.source.at}")
            self.push(UNKNOWN)
            return
        if (callee.module, callee.name) == ("_codecs", "encode") and not (
            isinstance(args, tuple) and len(args) > 1 and args[1] in _CODECS
        ):
            self.reading.problem("it calls _codecs.encode with another codec than text has")
        self.push(Made(callee, args))

    def reduce(self) -> None:
        args, callee = self.take(), self.take()
        self._call(callee, args)

    def newobj_ex(self) -> None:
        self.take()
        self.reduce()

    def inst(self) -> None:
        module, name = self.source.line(), self.source.line()
        args = tuple(self.to_mark())
        self._call(self.name(module.decode("utf-8"), name.decode("utf-8")), args)

    def obj(self) -> None:
        items = self.to_mark()
        if not items:
            raise Broken(f"an object of no class at byte {self.source.at}")
        self._call(items[0], tuple(items[1:]))

    def build(self) -> None:
        state, target = self.take(), self.top()
        self.reading.acts |= isinstance(target, (Made, Name))
        self._no_name(target, "builds on")
        if target is UNKNOWN:
            self.reading.problem(f"it builds on something unknown, at byte {self.source.at}")
        if isinstance(target, Made):
            target.state = state
            if self.arrays and target.of == Name(*WRAPPER):
                self._array(target)

    def extension(self, size: int) -> None:
        self.number(size)
        self.reading.problem("it asks for a name by an extension code, which only the loading process knows")
        self.push(UNKNOWN)

    def persistent(self, pid: Any) -> None:
        storage = isinstance(pid, tuple) and len(pid) >= 2 and pid[0] == "storage" and isinstance(pid[1], Name)
        if not self.tensors:  # every common loader stops here
            raise Broken("it asks the loader for an object by a persistent id")
        if not storage:
            self.reading.problem("it asks torch for something else than a storage")
        self.push(Made(None))

    def buffer(self, push: bool) -> None:
        self.reading.problem("it takes buffers from outside of the file")
        if push:
            self.push(UNKNOWN)

    # -- joblib

    def _array(self, wrapper: Made) -> None:
        """Skip the array that joblib wrote behind its wrapper; one of objects is a pickle of its own."""
        if self.frame_end is not None and self.source.at < self.frame_end:
            # joblib would read the array behind the frame, and go on with opcodes we took for numbers.
            raise Broken("an array stands inside a frame")
        state = wrapper.state
        if not isinstance(state, Items) or not state.whole:
            raise Broken("an array without a plain description")
        shape, kind = state.known.get("shape"), state.known.get("dtype")
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            raise Broken("an array without a plain shape")
        size, objects = itemsize(kind)
        if objects:
            inner = Machine(self.source, self.allowed, budget=self.budget)
            found = inner.run()
            self.reading.names |= found.names
            for text in found.problems:
                self.reading.problem(text)
            if found.broken:
                raise Broken(f"an array of objects cannot be followed: {found.broken}")
        else:
            if state.known.get("numpy_array_alignment_bytes") is not None:
                self.source.skip(self.source.read(1)[0])
            for count in shape:
                size *= count
            self.source.skip(size)
        self.stack[-1] = Made(None)
