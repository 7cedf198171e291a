"""Signed checkpoints: C2SP's forms, and what is not believed (DEMAND REG-7)."""

from __future__ import annotations

import base64

import pytest

from windtunnel.errors import IntegrityError
from windtunnel.evidence import checkpoint
from windtunnel.evidence.checkpoint import Checkpoint, SigningKey, VerifierKey

KEY = SigningKey("windtunnel-audit/1", bytes(range(32)))
OTHER = SigningKey("windtunnel-audit/1", bytes(32))
POINT = Checkpoint("windtunnel-audit/1", 12, bytes(range(32)), 1_763_735_456)


def test_a_key_has_the_id_that_signed_note_gives_it() -> None:
    """A key published with the format's first implementation."""
    text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    assert VerifierKey.parse(text).text() == text


def test_keys_survive_as_text() -> None:
    assert SigningKey.parse(KEY.text() + "\n") == KEY
    assert VerifierKey.parse(KEY.verifier.text()) == KEY.verifier
    assert base64.b64encode(KEY.seed).decode() not in KEY.verifier.text()


@pytest.mark.parametrize(
    "text", ["", "a+b", "a+00000000+AAAA", KEY.verifier.text()[:-4] + "AAA=", KEY.verifier.text().replace("/1", "/2")]
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(IntegrityError, match="not a verification key"):
        VerifierKey.parse(text)
    with pytest.raises(IntegrityError, match="not a signing key"):
        SigningKey.parse(text)


def test_the_note_is_text_with_a_signature() -> None:
    note = checkpoint.sign(POINT, KEY)
    lines = note.split("\n")
    assert lines[:2] == ["windtunnel-audit/1", "12"]
    assert base64.b64decode(lines[2]) == POINT.root
    assert lines[3:5] == ["time 1763735456", ""]
    assert lines[5].startswith("— windtunnel-audit/1 ")
    assert checkpoint.open_note(note, [OTHER.verifier, KEY.verifier]) == POINT
    assert checkpoint.read(note) == POINT


def test_signatures_of_others_do_no_harm() -> None:
    """A witness may sign the same note."""
    note = checkpoint.sign(POINT, OTHER) + checkpoint.sign(POINT, KEY).split("\n")[-2] + "\n"
    assert checkpoint.open_note(note, [KEY.verifier]) == POINT


def test_a_changed_note_is_not_believed() -> None:
    note = checkpoint.sign(POINT, KEY)
    for place in range(len(note)):
        changed = note[:place] + ("x" if note[place] != "x" else "y") + note[place + 1 :]
        try:
            found = checkpoint.open_note(changed, [KEY.verifier])
        except IntegrityError:
            continue
        # Only bits beyond the signature's last byte, which base64 does not use, may differ.
        assert found == POINT and changed.split("\n")[:5] == note.split("\n")[:5]


def test_a_key_speaks_for_its_own_log_only() -> None:
    foreign = SigningKey("windtunnel-audit/2", KEY.seed)
    note = checkpoint.sign(Checkpoint("windtunnel-audit/2", 12, POINT.root), foreign)
    with pytest.raises(IntegrityError, match="by no key that is trusted"):
        checkpoint.open_note(note, [KEY.verifier])
    with pytest.raises(ValueError, match="signs no checkpoint"):
        checkpoint.sign(POINT, foreign)


@pytest.mark.parametrize(
    "text", ["", "x\n", "x\n1\n", "x\n01\nAAAA\n", "x\n-1\n" + "A" * 43 + "=\n", "\n1\n" + "A" * 43 + "=\n"]
)
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(IntegrityError):
        Checkpoint.parse(text)
    with pytest.raises(IntegrityError):
        checkpoint.read(text + "\n— a AAAAAAAA\n")
