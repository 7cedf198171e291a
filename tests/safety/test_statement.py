"""DEMAND REG-12: an installation's word, and who is believed."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from windtunnel.errors import IntegrityError, NotFoundError, StackError
from windtunnel.safety import statement
from windtunnel.safety.keys import KeyRing


def ring(root: Path) -> KeyRing:
    made = KeyRing(root / "private.pem", root / "keys")
    made.ensure()
    return made


@pytest.fixture
def ours(tmp_path: Path) -> KeyRing:
    return ring(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> KeyRing:
    return ring(tmp_path / "theirs")


def public(of: KeyRing) -> bytes:
    return (of.public / f"{of.keys()[0].id}.pem").read_bytes()


def test_what_we_say_we_believe(ours: KeyRing) -> None:
    envelope = json.loads(json.dumps(statement.sign({"kind": "record", "n": 1}, ours)))
    assert statement.verify(envelope, ours, "record") == ({"kind": "record", "n": 1}, ours.keys()[0].id)


def test_others_are_believed_while_they_are_trusted(ours: KeyRing, theirs: KeyRing) -> None:
    envelope = statement.sign({"kind": "record"}, theirs)
    with pytest.raises(IntegrityError, match="does not know"):
        statement.verify(envelope, ours, "record")
    made = ours.adopt(public(theirs), "staging")
    assert ours.adopt(public(theirs), "staging") == made
    assert statement.verify(envelope, ours, "record")[1] == made.id
    assert ours.installation(made.id) == "staging"
    assert ours.installation(ours.keys()[0].id) is None
    ours.rotate()
    assert ours.installation(made.id) == "staging", "our own rotation leaves others alone"
    ours.disown("staging", "stolen")
    with pytest.raises(IntegrityError, match="revoked: stolen"):
        statement.verify(envelope, ours, "record")
    assert ours.installation(made.id) is None
    with pytest.raises(StackError, match="revoked"):
        ours.adopt(public(theirs), "staging")
    with pytest.raises(NotFoundError):
        ours.disown("staging", "again")


def test_a_key_has_one_name_and_ours_is_nobody_elses(ours: KeyRing, theirs: KeyRing) -> None:
    ours.adopt(public(theirs), "staging")
    with pytest.raises(StackError, match="trusted as staging"):
        ours.adopt(public(theirs), "development")
    with pytest.raises(StackError, match="current"):
        ours.adopt(public(ours), "me")
    with pytest.raises(IntegrityError, match="no public key"):
        ours.adopt(b"-----BEGIN nothing", "x")


def test_a_changed_word_is_not_believed(ours: KeyRing) -> None:
    envelope = statement.sign({"kind": "record", "sha256": "a"}, ours)
    changed = {**envelope, "payload": base64.b64encode(b'{"kind":"record","sha256":"b"}').decode()}
    with pytest.raises(IntegrityError, match="does not fit"):
        statement.verify(changed, ours, "record")
    with pytest.raises(IntegrityError, match="about a record"):
        statement.verify(envelope, ours, "export")
    for broken in (
        None,
        {},
        {**envelope, "signatures": []},
        {**envelope, "payloadType": "x"},
        {**envelope, "payload": 1},
    ):
        with pytest.raises(IntegrityError):
            statement.verify(broken, ours, "record")
