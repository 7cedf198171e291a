"""An entry as bytes: the quick form is the canonical one, and a line is read as it was written (DEMAND REG-7)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel import canonical
from windtunnel.evidence import entry, merkle

TEXT = st.one_of(
    st.text(st.characters(blacklist_categories=["Cs"])),
    st.sampled_from(["~wt:nan", "~wt:str:x", '"', "\\", "\n\r\t\b\f\x00\x1f\x7f", "é\u2028😀", '","hash":"sha256:']),
)
MAYBE = st.none() | TEXT
HASH = st.binary(min_size=32, max_size=32).map(lambda raw: "sha256:" + raw.hex())
ROWS = st.fixed_dictionaries(
    {
        "at": st.floats(allow_nan=False) | st.sampled_from([1763735456.0, 1e15, 1e16, 1e21, 1e-7, 0.001, 0.0, -0.0]),
        "actor": TEXT, "action": TEXT, "model": TEXT, "version": MAYBE, "outcome": TEXT, "code": MAYBE,
        "detail": TEXT, "correlation_id": MAYBE, "prev": HASH, "hash": HASH, "seq": st.integers(1, 2**53 - 1),
    }
)  # fmt: skip


@given(ROWS)
def test_the_quick_form_is_the_canonical_one(row: dict[str, Any]) -> None:
    assert entry.line(row) == canonical.dumps(row)
    assert entry.chain_hash(row) == canonical.digest({name: row[name] for name in entry.CHAINED})
    leaf = canonical.dumps({"hash": row["hash"], "seq": row["seq"]})
    assert entry.leaf(row["seq"], row["hash"]) == merkle.leaf_hash(leaf)


@given(ROWS)
def test_a_line_is_taken_apart_where_it_was_put_together(row: dict[str, Any]) -> None:
    line = entry.line(row)
    assert b"\n" not in line
    found = entry.LINE.fullmatch(line)
    assert found is not None
    at, _, hashed, model, prev, _, seq = found.groups()
    assert canonical.loads(at) == row["at"]
    assert (hashed.decode(), prev.decode(), int(seq)) == (row["hash"], row["prev"], row["seq"])
    assert canonical.loads(model) == row["model"]


@pytest.mark.parametrize(
    "change", [(b'"seq":', b'"seq": '), (b'"version"', b'"version_"'), (b"}", b"}}"), (b"{", b" {")]
)
def test_another_form_is_no_entry(change: tuple[bytes, bytes]) -> None:
    row = dict.fromkeys(entry.FIELDS, "x") | {"at": 1.5, "seq": 1, "hash": entry.GENESIS, "prev": entry.GENESIS}
    line = entry.line(row)
    assert entry.LINE.fullmatch(line)
    assert not entry.LINE.fullmatch(line.replace(*change, 1))
