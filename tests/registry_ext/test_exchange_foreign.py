"""DEMAND REG-10: another installation's audit is kept as it came, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import IntegrityError
from windtunnel.evidence import checkpoint, entry, merkle
from windtunnel.evidence.checkpoint import Checkpoint, SigningKey
from windtunnel.home import ENV_HOME, ENV_TEMPORARY, Home
from windtunnel.registry.exchange import ENTRIES, LOG, log_folder
from windtunnel_mlflow.exchange import exports, foreign
from windtunnel_mlflow.refusal import Refusal

KEY = SigningKey("windtunnel-audit/there", bytes(range(32)))
OTHER = SigningKey("windtunnel-audit/there", bytes(range(1, 33)))


def log(count: int, word: str = "tag") -> list[dict[str, Any]]:
    """Entries of three models in turn."""
    heads: dict[str, str] = {}
    rows = []
    for number in range(count):
        model = f"m{number % 3}"
        row = {
            "at": 1000.0 + number, "actor": "ada", "action": word if number == 5 else "tag", "model": model,
            "version": None, "outcome": "done", "code": None, "detail": "{}", "correlation_id": None,
            "prev": heads.get(model, entry.GENESIS), "seq": number + 1,
        }  # fmt: skip
        row["hash"] = heads[model] = entry.chain_hash(row)
        rows.append(row)
    return rows


def leaves(rows: list[dict[str, Any]]) -> list[bytes]:
    return [entry.leaf(row["seq"], row["hash"]) for row in rows]


def said(rows: list[dict[str, Any]], what: str = LOG, key: SigningKey = KEY) -> dict[str, Any]:
    note = checkpoint.sign(Checkpoint(key.name, len(rows), merkle.root(leaves(rows)), 1), key)
    return {"kind": "audit", "what": what, "key": key.verifier.text(), "checkpoint": note}


def text(rows: list[dict[str, Any]]) -> str:
    return "".join(entry.line(row).decode() + "\n" for row in rows)


def entries(rows: list[dict[str, Any]], model: str) -> str:
    nodes, found = merkle.levels(leaves(rows)), ""
    for index, row in enumerate(rows):
        if row["model"] == model:
            proof = [part.hex() for part in merkle.proof_in(nodes, index)]
            found += json.dumps({"index": index, "entry": entry.line(row).decode(), "proof": proof}) + "\n"
    return found


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def place(home: Home) -> Path:
    return foreign.folder(home, log_folder(KEY.name))


def test_a_log_is_kept_grows_and_is_never_made_shorter(home: Home) -> None:
    rows = log(20)
    assert foreign.take(home, said(rows[:12]), 0, text(rows[:12]), True)
    assert not foreign.take(home, said(rows[:12]), 0, text(rows[:12]), True)
    whole = text(rows)
    half = len(text(rows[:10]))
    assert not foreign.take(home, said(rows), 0, whole[:half], False)
    assert foreign.take(home, said(rows), half, whole[half:], True)
    assert (place(home) / LOG).read_text() == whole
    assert not foreign.take(home, said(rows[:12]), 0, text(rows[:12]), True)
    assert (place(home) / LOG).read_text() == whole
    assert foreign.kept(home) == [log_folder(KEY.name)]
    piece, after, last = foreign.piece(place(home) / LOG, 0, most=100)
    assert (piece, last) == (whole[:after], False)
    assert whole[after - 1] == "\n"
    rest, end, last = foreign.piece(place(home) / LOG, after)
    assert (piece + rest, end, last) == (whole, len(whole), True)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: text(rows[:-1]), "saw 12|12 entries|has 11"),
        (lambda rows: text(rows).replace("ada", "bob", 1), "not what was written"),
        (lambda rows: text([*rows[:4], *rows[5:]]), "is not there, or was made anew"),
        (lambda rows: text(log(13)), "13 entries, 12 were signed"),
        (lambda rows: text(log(12, "other")), "entries"),
        (lambda rows: "", "entries"),
        (lambda rows: "nonsense\n", "no entry"),
    ],
)
def test_a_log_that_is_not_what_was_signed_is_not_kept(home: Home, change: Any, why: str) -> None:
    rows = log(12)
    with pytest.raises(IntegrityError, match=why):
        foreign.take(home, said(rows), 0, change(rows), True)
    assert foreign.kept(home) == []
    assert list(place(home).iterdir()) == []


def test_a_second_history_of_the_same_log_is_refused(home: Home) -> None:
    rows, forked = log(12), log(20, "other")
    foreign.take(home, said(rows), 0, text(rows), True)
    with pytest.raises(IntegrityError, match="another one than that which is here"):
        foreign.take(home, said(forked, key=OTHER), 0, text(forked), True)
    assert (place(home) / LOG).read_text() == text(rows)


@pytest.mark.parametrize(
    ("at", "temporary", "to_keep", "why"),
    [
        (True, False, True, None),
        (True, False, False, None),
        (True, True, False, None),  # to look costs nothing
        (True, True, True, "would not be kept"),
        (False, False, True, "it has no home"),
        (False, False, False, "it has no home"),
    ],
)
def test_an_audit_is_kept_where_it_stays(
    at: bool, temporary: bool, to_keep: bool, why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server without a volume takes none, rather than to lose it with its pod."""
    for name, value in ((ENV_HOME, str(tmp_path) if at else ""), (ENV_TEMPORARY, "1" if temporary else "")):
        monkeypatch.setenv(name, value)
    if why is None:
        assert exports.home(to_keep=to_keep).root == tmp_path
    else:
        with pytest.raises(Refusal, match=why) as refused:
            exports.home(to_keep=to_keep)
        assert refused.value.code == "WT_SERVER"


@pytest.mark.parametrize("count", [1, 2, 7, 8, 33])
def test_entries_of_one_model_with_their_proofs(home: Home, count: int) -> None:
    rows = log(count)
    assert foreign.take(home, said(rows, ENTRIES), 0, entries(rows, "m0"), True, "m0")
    assert not foreign.take(home, said(rows, ENTRIES), 0, entries(rows, "m0"), True, "m0")
    assert foreign.kept(home) == []
    (kept,) = place(home).glob("*.jsonl")
    assert kept.read_text() == entries(rows, "m0")


def test_entries_that_are_not_in_the_signed_log(home: Home) -> None:
    rows = log(12)
    for changed, why in (
        (entries(log(12, "other"), "m2"), "not in the audit"),
        (entries(rows, "m2").partition("\n")[2], "does not follow"),
        (entries(rows, "m2").replace("ada", "bob", 1), "does not fit"),
        ("{}\n", "is none"),
    ):
        with pytest.raises(IntegrityError, match=why):
            foreign.take(home, said(rows, ENTRIES), 0, changed, True, "m2")


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", ".hidden"])
def test_no_folder_but_those_of_logs(home: Home, name: str) -> None:
    with pytest.raises(IntegrityError):
        foreign.folder(home, name)


def test_a_statement_that_contradicts_itself() -> None:
    rows = log(3)
    for plain in ({}, {**said(rows), "key": OTHER.verifier.text()}, {**said(rows), "what": "../x"}, {"key": 1}):
        with pytest.raises(IntegrityError):
            foreign.said(plain)
