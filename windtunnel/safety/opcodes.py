"""Pickle's opcodes, each with what it does to the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from windtunnel.safety.values import LIST, Items

if TYPE_CHECKING:
    from windtunnel.safety.machine import Machine


def operations(m: Machine) -> dict[bytes, Callable[[], Any]]:
    """Opcode to what it does."""
    return {
        b"\x80": m.proto,
        b"\x95": m.frame,
        b"(": m.mark,
        b"0": m.pop,
        b"1": lambda: m.to_mark(),
        b"2": lambda: m.push(m.top()),
        # constants
        b"N": lambda: m.push(None),
        b"\x88": lambda: m.push(True),
        b"\x89": lambda: m.push(False),
        b"I": m.int_line,
        b"J": lambda: m.push(m.number(4, signed=True)),
        b"K": lambda: m.push(m.number(1)),
        b"M": lambda: m.push(m.number(2)),
        b"L": m.long_line,
        b"\x8a": lambda: m.long(1),
        b"\x8b": lambda: m.long(4),
        b"F": m.float_line,
        b"G": m.float_bytes,
        b"S": m.string_line,
        b"T": lambda: m.counted(4, plain=True),
        b"U": lambda: m.counted(1, plain=True),
        b"V": m.unicode_line,
        b"X": lambda: m.counted(4, text=True),
        b"\x8c": lambda: m.counted(1, text=True),
        b"\x8d": lambda: m.counted(8, text=True),
        b"B": lambda: m.counted(4),
        b"C": lambda: m.counted(1),
        b"\x8e": lambda: m.counted(8),
        b"\x96": lambda: m.counted(8),
        # containers
        b")": lambda: m.tuple_of(0),
        b"\x85": lambda: m.tuple_of(1),
        b"\x86": lambda: m.tuple_of(2),
        b"\x87": lambda: m.tuple_of(3),
        b"t": lambda: m.tuple_of(None),
        b"]": lambda: m.push(LIST),
        b"l": m.mark_list,
        b"}": lambda: m.push(Items()),
        b"d": m.mark_dict,
        b"\x8f": lambda: m.push(LIST),
        b"\x91": m.mark_list,
        b"a": lambda: m.append(False),
        b"e": lambda: m.append(True),
        b"\x90": lambda: m.append(True),
        b"s": lambda: m.set_items(False),
        b"u": lambda: m.set_items(True),
        # memo
        b"p": lambda: m.put(int(m.source.line())),
        b"q": lambda: m.put(m.number(1)),
        b"r": lambda: m.put(m.number(4)),
        b"\x94": lambda: m.put(len(m.memo)),
        b"g": lambda: m.get(int(m.source.line())),
        b"h": lambda: m.get(m.number(1)),
        b"j": lambda: m.get(m.number(4)),
        # names and calls
        b"c": m.global_lines,
        b"\x93": m.stack_global,
        b"R": m.reduce,
        b"\x81": m.reduce,
        b"\x92": m.newobj_ex,
        b"i": m.inst,
        b"o": m.obj,
        b"b": m.build,
        b"\x82": lambda: m.extension(1),
        b"\x83": lambda: m.extension(2),
        b"\x84": lambda: m.extension(4),
        b"P": lambda: m.persistent(m.source.line()),
        b"Q": lambda: m.persistent(m.take()),
        b"\x97": lambda: m.buffer(True),
        b"\x98": lambda: m.buffer(False),
    }
