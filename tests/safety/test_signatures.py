"""DEMAND REG-3: what is signed is exactly these files, by a key we trust; whatever is done to them is found."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windtunnel.errors import IntegrityError, NotFoundError, StackError
from windtunnel.evidence import manifest
from windtunnel.evidence.manifest import Manifest
from windtunnel.safety import signature
from windtunnel.safety.keys import KeyRing
from windtunnel_mlflow.versions.signing import sign


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    home = tmp_path_factory.mktemp("home")
    made = KeyRing(home / "secrets/model-signing.pem", home / "keys")
    assert made.ensure() and not made.ensure()
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("signed") / "model"
    (root / "code").mkdir(parents=True)
    (root / "MLmodel").write_bytes(b"flavors: {}\nrun_id: a\n")
    (root / "weights.bin").write_bytes(bytes(range(256)) * 8)
    (root / "code/x.py").write_text("x = 1\n")
    return root


@pytest.fixture(scope="module")
def sealed(model: Path, ring: KeyRing) -> Manifest:
    found = manifest.build(model)
    return replace(found, signature=sign(found, "visits", ring))


def check(root: Path, sealed: Manifest, ring: KeyRing) -> None:
    signature.verify(sealed, ring, model="visits")
    manifest.verify(root, sealed)


def test_it_survives_the_registry_and_is_about_this_model(sealed: Manifest, ring: KeyRing, model: Path) -> None:
    again = Manifest.from_dict(json.loads(json.dumps(sealed.to_dict())))
    assert signature.verify(again, ring, model="visits") == ring.keys()[0].id
    check(model, again, ring)
    with pytest.raises(IntegrityError, match="visits"):
        signature.verify(again, ring, model="sales")
    with pytest.raises(IntegrityError, match="no signature"):
        signature.verify(replace(again, signature=None), ring)
    assert (ring.private.stat().st_mode & 0o777) == 0o600


def test_the_package_verifies_ours(sealed: Manifest, ring: KeyRing, model: Path, tmp_path: Path) -> None:
    from model_signing import verifying

    written = tmp_path / "model.sig"
    written.write_text(json.dumps(sealed.signature))
    public = ring.public / f"{ring.keys()[0].id}.pem"
    config = verifying.Config().use_elliptic_key_verifier(public_key=public)
    config.verify(model, written)
    changed = tmp_path / "changed"
    shutil.copytree(model, changed)
    (changed / "weights.bin").write_bytes(b"other")
    with pytest.raises(ValueError):
        config.verify(changed, written)


FILES = ("MLmodel", "weights.bin", "code/x.py")


def flip(root: Path, name: str, at: int) -> None:
    data = bytearray((root / name).read_bytes())
    data[at % len(data)] ^= 1 << (at % 8)
    (root / name).write_bytes(bytes(data))


def hard_link(root: Path, name: str, at: int) -> None:
    os.link(root / name, root.parent / f"other-{at}")


def symbolic_link(root: Path, name: str, at: int) -> None:
    (root / name).rename(root.parent / f"moved-{at}")
    (root / name).symlink_to(root.parent / f"moved-{at}")


DAMAGE: list[Callable[[Path, str, int], object]] = [
    flip,
    lambda root, name, at: (root / name).unlink(),
    lambda root, name, at: (root / f"{name}-{at}").write_bytes(b""),
    lambda root, name, at: (root / name).rename(root / f"{name}-{at}"),
    lambda root, name, at: (root / name).write_bytes((root / name).read_bytes()[: at % 5]),
    hard_link,
    symbolic_link,
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(what=st.sampled_from(DAMAGE), name=st.sampled_from(FILES), at=st.integers(0, 10_000))
def test_any_damage_to_any_file_is_found(
    sealed: Manifest, ring: KeyRing, model: Path, tmp_path: Path, what: Any, name: str, at: int
) -> None:
    root = tmp_path / "copy"
    for left in tmp_path.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    shutil.copytree(model, root)
    check(root, sealed, ring)
    what(root, name, at)
    with pytest.raises(IntegrityError):
        check(root, sealed, ring)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every text in the bundle, as a path to it."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in paths(inner, (*at, key))]
    if isinstance(value, list):
        return [found for key, inner in enumerate(value) for found in paths(inner, (*at, key))]
    return [at] if isinstance(value, str) else []


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_change_of_the_signature_is_found(sealed: Manifest, ring: KeyRing, data: Any) -> None:
    bundle = copy.deepcopy(sealed.signature)
    assert bundle is not None
    where = data.draw(st.sampled_from([path for path in paths(bundle) if path[-1] != "keyid"]))
    holder: Any = bundle
    for step in where[:-1]:
        holder = holder[step]
    text = holder[where[-1]]
    spot = data.draw(st.integers(0, max(0, len(text) - 1)))
    put = data.draw(st.sampled_from("AbZ09+/x").filter(lambda letter: letter != text[spot : spot + 1]))
    # The last letter before padding may hold bits that base64 does not use.
    if text[spot + 1 : spot + 2] in ("=", ""):
        return
    holder[where[-1]] = text[:spot] + put + text[spot + 1 :]
    with pytest.raises(IntegrityError):
        signature.verify(replace(sealed, signature=bundle), ring, model="visits")


def test_a_signature_of_other_files_does_not_fit(sealed: Manifest, ring: KeyRing) -> None:
    other = replace(sealed, files={**sealed.files, "weights.bin": ("0" * 64, 5)})
    with pytest.raises(IntegrityError, match="other files"):
        signature.verify(other, ring)
    with pytest.raises(IntegrityError, match="content digest"):
        signature.verify(replace(sealed, content="sha256:" + "0" * 64), ring)


def test_rotation_keeps_old_signatures_and_revocation_ends_them(tmp_path: Path, model: Path) -> None:
    ring = KeyRing(tmp_path / "secrets/k.pem", tmp_path / "keys")
    ring.ensure()
    found = manifest.build(model)
    old = replace(found, signature=sign(found, "visits", ring))
    first = ring.keys()[0].id
    second = ring.rotate().id
    new = replace(found, signature=sign(found, "visits", ring))
    assert [key.state for key in ring.keys()]  # noqa: SIM118 == ["former", "current"]
    assert (signature.verify(old, ring), signature.verify(new, ring)) == (first, second)
    with pytest.raises(StackError, match="signs at present"):
        ring.revoke(second, "lost")
    with pytest.raises(NotFoundError):
        ring.revoke("ffffffff0", "lost")
    ring.revoke(first[:12], "the laptop was stolen")
    with pytest.raises(IntegrityError, match="the laptop was stolen"):
        signature.verify(old, ring)
    assert signature.verify(new, ring) == second


def test_a_foreign_key_and_a_lost_or_open_one_are_said(tmp_path: Path, sealed: Manifest) -> None:
    ring = KeyRing(tmp_path / "secrets/k.pem", tmp_path / "keys")
    ring.ensure()
    with pytest.raises(IntegrityError, match="does not know"):
        signature.verify(sealed, ring)
    ring.private.chmod(0o644)
    with pytest.raises(StackError, match="read by others"):
        ring.ensure()
    ring.private.unlink()
    with pytest.raises(StackError, match="gone"):
        ring.ensure()
