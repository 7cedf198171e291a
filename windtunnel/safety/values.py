"""What the pickle machine works with: values that only say what they are, and the stream they come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, BinaryIO

_LINE = 1 << 20
_CHUNK = 1 << 20


class Broken(Exception):
    """The stream cannot be followed further."""


@dataclass(frozen=True, slots=True)
class Name:
    """A global that a pickle asks for."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True)
class Made:
    """What a call would return."""

    of: Name | None
    args: Any = None
    state: Any = None


@dataclass(slots=True)
class Items:
    """A dict with text keys, as far as it is remembered."""

    known: dict[str, Any] = field(default_factory=dict)
    whole: bool = True


class _Unknown:
    __slots__ = ()


UNKNOWN: Any = _Unknown()
LIST: Any = _Unknown()


@dataclass(slots=True)
class Reading:
    """What was learned of one pickle.

    Attributes:
        names: every global it asks for.
        problems: why it may not be loaded; empty when it may.
        acts: something would be called or built before the stream broke.
        stopped: it came to its STOP.
        broken: why it could not be followed to the end.
    """

    names: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    acts: bool = False
    stopped: bool = False
    broken: str | None = None
    integer: int | None = None  # the value, where it is a plain integer (torch's magic number)

    @property
    def likely(self) -> bool:
        """Whether this is a pickle at all, for a file nobody said is one."""
        return self.acts or (self.stopped and bool(self.names))

    def problem(self, text: str) -> None:
        """Remember one more reason, once, and not without end."""
        if text not in self.problems and len(self.problems) < 20:
            self.problems.append(text)


class Source:
    """A stream that knows where it is and never gives less than was asked."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.at = 0

    def read(self, size: int) -> bytes:
        if size > 1 << 26:
            self.skip(size)
            return b""
        data = self._stream.read(size)
        while len(data) < size:
            more = self._stream.read(size - len(data))
            if not more:
                raise Broken(f"it ends in the middle, at byte {self.at + len(data)}")
            data += more
        self.at += size
        return data

    def skip(self, size: int) -> None:
        while size > 0:
            step = len(self._stream.read(min(size, _CHUNK)))
            if not step:
                raise Broken(f"it ends in the middle, at byte {self.at}")
            self.at += step
            size -= step

    def line(self) -> bytes:
        data = self._stream.readline(_LINE)
        if not data.endswith(b"\n"):
            raise Broken(f"a line without an end, at byte {self.at}")
        self.at += len(data)
        return data[:-1]

    def more(self) -> bytes:
        """One byte, or nothing at the end."""
        data = self._stream.read(1)
        self.at += len(data)
        return data


def itemsize(kind: Any) -> tuple[int, bool]:
    """Bytes of one item of a dtype that a pickle builds, and whether it holds objects.

    Raises:
        Broken: it cannot be told.
    """
    if not (
        isinstance(kind, Made) and kind.of == Name("numpy", "dtype") and isinstance(kind.args, tuple) and kind.args
    ):
        raise Broken("an array of an unknown dtype")
    code, state = kind.args[0], kind.state
    if not isinstance(code, str) or code[:1] not in set("biufcmMSUVO") or not code[1:].isdigit():
        raise Broken(f"an array of the unknown dtype {code!r}")
    size = int(code[1:])
    if code[0] == "O":
        return size, True
    if code[0] == "U":
        size *= 4
    if state is None:
        return size, False
    if not isinstance(state, tuple) or len(state) < 6:
        raise Broken("a dtype with an unknown state")
    if state[2] is not None:
        raise Broken("an array of sub-arrays")
    if type(state[5]) is not int or state[5] not in (-1, size):
        raise Broken("a dtype that contradicts itself")
    if state[4] is None:
        return size, False
    if not isinstance(state[4], Items) or not state[4].whole:
        raise Broken("a dtype with unknown fields")
    objects = False
    for entry in state[4].known.values():
        if not isinstance(entry, tuple) or not entry:
            raise Broken("a dtype with an unknown field")
        objects = itemsize(entry[0])[1] or objects
    return size, objects
