"""One entry of the audit as bytes: what its hash covers, its line in an export, its leaf in the tree. Pure.

The hash of an entry is SHA-256 over the canonical JSON (RFC 8785) of the ``CHAINED`` fields; ``prev`` among them is
the hash of the model's former entry. ``seq``, the database's number, is not among them: the leaf, over ``hash`` and
``seq``, binds it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from windtunnel import canonical
from windtunnel.evidence import merkle

#: ``prev`` of the first entry of a model.
GENESIS = "sha256:" + "0" * 64
CHAINED = ("at", "actor", "action", "model", "version", "outcome", "code", "detail", "correlation_id", "prev")
FIELDS = (*CHAINED, "hash", "seq")

_quote: Callable[[str], str] = json.encoder.encode_basestring
_TAGGED = "~wt:"


def chain_hash(row: Mapping[str, Any]) -> str:
    """``sha256:...`` of one entry, its predecessor's hash in ``prev``."""
    return "sha256:" + sha256(_body(row, "", "")).hexdigest()


def line(row: Mapping[str, Any]) -> bytes:
    """The entry in an export: canonical JSON of all ``FIELDS`` on one line, without a newline."""
    return _body(row, f'"hash":{_text(row["hash"])},', f'"seq":{int(row["seq"])},')


def leaf(seq: int | str, hashed: str) -> bytes:
    """Leaf hash of an entry: over the canonical JSON of its hash and number."""
    return merkle.leaf_hash(f'{{"hash":"{hashed}","seq":{seq}}}'.encode())


def _body(row: Mapping[str, Any], hashed: str, seq: str) -> bytes:
    # What canonical.dumps gives for these fields, ten times as fast; tests/evidence/test_entry.py compares the two.
    get = row.__getitem__
    return (
        f'{{"action":{_text(get("action"))},"actor":{_text(get("actor"))},"at":{_number(get("at"))},'
        f'"code":{_text(get("code"))},"correlation_id":{_text(get("correlation_id"))},'
        f'"detail":{_text(get("detail"))},{hashed}"model":{_text(get("model"))},"outcome":{_text(get("outcome"))},'
        f'"prev":{_text(get("prev"))},{seq}"version":{_text(get("version"))}}}'
    ).encode()


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str) and not value.startswith(_TAGGED):
        return _quote(value)
    return canonical.dumps(value).decode()


def _number(value: Any) -> str:
    if isinstance(value, float) and 1e-3 < value < 1e15:
        # Python's shortest form is ECMAScript's in this range, but for the ".0" of whole numbers.
        return repr(value).removesuffix(".0")
    return canonical.dumps(value).decode()


# Possessive (Python 3.11): a string is never read twice.
_STRING = rb'"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+"'
_MAYBE = rb"(?:null|" + _STRING + rb")"
_HASH = rb'"(sha256:[0-9a-f]{64})"'
#: A line of an export. Groups: at, hash field, hash, model, prev, seq field, seq.
LINE = re.compile(
    rb'\{"action":' + _STRING + rb',"actor":' + _STRING + rb',"at":(-?[0-9.eE+-]+|"~wt:[^"\\]*")'
    rb',"code":' + _MAYBE + rb',"correlation_id":' + _MAYBE + rb',"detail":' + _STRING
    + rb',("hash":' + _HASH + rb',)"model":(' + _STRING + rb'),"outcome":' + _STRING + rb',"prev":' + _HASH
    + rb',("seq":([0-9]+),)"version":' + _MAYBE + rb"\}"
)  # fmt: skip
