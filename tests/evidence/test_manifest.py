"""DEMAND REG-3: whatever happens to one file of a model is found, and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from windtunnel.errors import IntegrityError
from windtunnel.evidence import manifest

MLMODEL = (
    b"artifact_path: model\nflavors:\n  python_function: {}\nmodel_uuid: %s\nrun_id: %s\nutc_time_created: '2026'\n"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    (root / "code").mkdir(parents=True)
    (root / "MLmodel").write_bytes(MLMODEL % (b"aa", b"bb"))
    (root / "model.skops").write_bytes(bytes(range(256)) * 20)
    (root / "code" / "x.py").write_text("x = 1\n")
    return root


def flip(root: Path) -> None:
    data = bytearray((root / "model.skops").read_bytes())
    data[100] ^= 1
    (root / "model.skops").write_bytes(bytes(data))


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    ("a flipped bit", flip, "model.skops"),
    ("a file added", lambda r: (r / "code" / "evil.py").write_text("import os"), "code/evil.py"),
    ("a file removed", lambda r: (r / "code" / "x.py").unlink(), "code/x.py"),
    ("a file renamed", lambda r: (r / "code" / "x.py").rename(r / "code" / "y.py"), "code/"),
    ("a file linked", lambda r: (r / "link").symlink_to("/etc/passwd"), "link"),
    ("a byte appended", lambda r: (r / "MLmodel").write_bytes((r / "MLmodel").read_bytes() + b"\n"), "MLmodel"),
    ("emptied", lambda r: (r / "model.skops").write_bytes(b""), "model.skops"),
]


@pytest.mark.parametrize(("what", "damage", "named"), DAMAGE, ids=[row[0] for row in DAMAGE])
def test_damage_is_found_and_named(model: Path, what: str, damage: Callable[[Path], object], named: str) -> None:
    sealed = manifest.build(model)
    manifest.verify(model, sealed)
    damage(model)
    with pytest.raises(IntegrityError, match=named):
        manifest.verify(model, sealed)


def test_logging_the_same_model_again_gives_the_same_content(model: Path) -> None:
    first = manifest.build(model)
    (model / "MLmodel").write_bytes(MLMODEL % (b"cc", b"dd"))
    second = manifest.build(model)
    assert first.content == second.content
    assert first.files["MLmodel"] != second.files["MLmodel"]


def test_content_follows_the_names_too(model: Path) -> None:
    first = manifest.build(model).content
    (model / "code" / "x.py").rename(model / "code" / "z.py")
    assert manifest.build(model).content != first


def test_round_trip(model: Path) -> None:
    sealed = manifest.build(model)
    assert manifest.Manifest.from_dict(sealed.to_dict()) == sealed
    assert sealed.size == sum(p.stat().st_size for p in model.rglob("*") if p.is_file())


@pytest.mark.parametrize("missing", ["nowhere", "empty"])
def test_nothing_to_seal(tmp_path: Path, missing: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(IntegrityError):
        manifest.build(tmp_path / missing)
