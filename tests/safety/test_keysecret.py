"""Keys as a cluster's secret: made, brought away from a home, changed, and given to a server (DEMAND OPS-10)."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from windtunnel.cli.registry_keys import app
from windtunnel.errors import StackError
from windtunnel.evidence.checkpoint import SigningKey
from windtunnel.home import Home
from windtunnel.safety import keysecret
from windtunnel.safety.keys import CURRENT, FORMER, REVOKED, TRUSTED, KeyRing


def cli(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, list(words), input=stdin)


def mount(secret: str, folder: Path) -> Path:
    """As the kubelet does."""
    folder.mkdir()
    for name, value in json.loads(secret)["data"].items():
        (folder / name).write_bytes(base64.b64decode(value))
        (folder / name).chmod(0o440)
    return folder


def given(secret: str, root: Path) -> KeyRing:
    """The ring of a server that starts with the secret."""
    root.mkdir(exist_ok=True)
    ring = KeyRing(root / "secrets" / keysecret.PRIVATE, root / "keys")
    folder = mount(secret, root / f"mounted{len(list(root.iterdir()))}")
    keysecret.install(folder, ring, root / "secrets" / keysecret.AUDIT)
    return ring


def states(ring: KeyRing) -> list[str]:
    found = ring.keys()
    return [key.state for key in found]


def test_a_secret_is_made_rotated_and_mounted_by_the_commands_of_the_how_to(tmp_path: Path) -> None:
    made = cli("secret", "windtunnel-keys", "--new")
    assert made.exit_code == 0, made.output
    plain = json.loads(made.stdout)
    assert (plain["kind"], plain["metadata"]) == ("Secret", {"name": "windtunnel-keys"})
    first = given(made.stdout, tmp_path / "a")
    assert states(first) == [CURRENT]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "a" / "secrets").iterdir()} == {0o600}
    # As kubectl prints it, with what the cluster added.
    plain["metadata"] |= {"namespace": "ml", "resourceVersion": "7", "uid": "u"}
    rotated = cli("rotate", "--secret", stdin=json.dumps(plain))
    assert rotated.exit_code == 0, rotated.output
    assert json.loads(rotated.stdout)["metadata"] == {"name": "windtunnel-keys", "namespace": "ml"}
    second = given(rotated.stdout, tmp_path / "b")
    assert states(second) == [FORMER, CURRENT]
    old = first.keys()[0].id
    assert second.trusted(old)  # what it signed stays verifiable
    revoked = cli("revoke", old[:12], "--reason", "leaked", "--secret", stdin=rotated.stdout)
    third = given(revoked.stdout, tmp_path / "c")
    assert states(third) == [REVOKED, CURRENT]
    friend = next((tmp_path / "a" / "keys").glob("*.pem"))
    other = cli("secret", "other", "--new").stdout
    trusting = cli("trust", str(friend), "--name", "staging", stdin=other)
    assert states(given(trusting.stdout, tmp_path / "d")) == [CURRENT, TRUSTED]
    audit = SigningKey.parse((tmp_path / "c" / "secrets" / keysecret.AUDIT).read_text())
    anew = cli("rotate", "--secret", "--audit", stdin=revoked.stdout)
    assert states(given(anew.stdout, tmp_path / "e")) == [REVOKED, CURRENT]
    after = SigningKey.parse((tmp_path / "e" / "secrets" / keysecret.AUDIT).read_text())
    assert (after.name, after.seed == audit.seed) == (audit.name, False)


def test_the_keys_of_a_volume_are_brought_away_as_they_are(tmp_path: Path) -> None:
    """An installation that gives up its volume goes on as the same."""
    home = Home(tmp_path / "home")
    assert "there are no keys to bring away" in str(cli("secret", "k", "--home", str(home.root)).exception)
    ring = KeyRing(home.secrets / "model-signing.pem", home.root / "keys")
    ring.ensure()
    ring.rotate()
    (home.secrets / "audit-key").write_text(SigningKey("windtunnel-audit/x", bytes(32)).text())
    there = given(cli("secret", "k", "--home", str(home.root)).stdout, tmp_path / "pod")
    assert there.keys() == ring.keys()
    assert there.private.read_bytes() == ring.private.read_bytes()


def test_public_keys_are_a_config_map_for_pods_that_load(tmp_path: Path) -> None:
    """Of a registry with a volume, and of one whose keys were given: former keys too, no private one."""
    empty = cli("public", "windtunnel-keys", "--home", str(tmp_path / "none"))
    assert isinstance(empty.exception, StackError) and "there are no keys in" in str(empty.exception)
    home = Home(tmp_path / "home")
    rotated = cli("rotate", "--secret", stdin=cli("secret", "windtunnel-keys", "--new").stdout)
    keysecret.install(mount(rotated.stdout, tmp_path / "mounted"), KeyRing.of(home), home.secrets / keysecret.AUDIT)
    plain = json.loads(cli("public", "windtunnel-keys", "--home", str(home.root)).stdout)
    assert (plain["apiVersion"], plain["kind"], plain["metadata"]) == ("v1", "ConfigMap", {"name": "windtunnel-keys"})
    assert "PRIVATE" not in json.dumps(plain)
    there = tmp_path / "pod"
    there.mkdir()
    for file, text in plain["data"].items():
        (there / file).write_text(text)
    ring = KeyRing(tmp_path / "no-private", there)
    found = ring.keys()
    assert [key.state for key in found] == [FORMER, CURRENT]
    assert found == KeyRing.of(home).keys()
    assert all(ring.trusted(key.id) for key in found)
    assert set(plain["data"]) == {"keys.json", *(f"{key.id}.pem" for key in found)}


def test_given_keys_are_not_changed_where_the_server_runs(tmp_path: Path) -> None:
    """It would be forgotten with the pod."""
    folder = tmp_path / "new"
    folder.mkdir()
    keysecret.fresh(folder)
    ring = given(json.dumps(keysecret.manifest("k", folder)), tmp_path / "pod")
    before = ring.keys()
    other = tmp_path / "other"
    other.mkdir()
    keysecret.fresh(other)
    pem = next(path for path in other.glob("*.pem") if path.name != keysecret.PRIVATE).read_bytes()
    for change in (
        lambda: ring.rotate(),
        lambda: ring.revoke("12345678", "x"),
        lambda: ring.adopt(pem, "o"),
        lambda: ring.disown("o", "x"),
    ):
        with pytest.raises(StackError, match="come from a secret of its cluster"):
            change()
    assert ring.keys() == before
    assert not ring.ensure()
    # A restarted container has the same folder again, and takes what the secret says then.
    keysecret.install(folder, ring, tmp_path / "pod" / "secrets" / keysecret.AUDIT)
    after = ring.keys()
    assert [key.id for key in after] == [key.id for key in before]


@pytest.mark.parametrize(
    ("break_", "told"),
    [
        (lambda at: (at / keysecret.AUDIT).unlink(), "cannot be read: No such file"),
        (lambda at: (at / keysecret.PRIVATE).unlink(), "windtunnel registry keys secret NAME --new"),
        (lambda at: (at / keysecret.AUDIT).write_text("x"), "audit-key in the secret is none"),
        (lambda at: (at / keysecret.PRIVATE).write_text("x"), "model-signing.pem in the secret is no key"),
    ],
)
def test_a_secret_that_lacks_something_is_refused(break_: Any, told: str, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    keysecret.fresh(folder)
    break_(folder)
    with pytest.raises(StackError) as refused:
        keysecret.install(folder, KeyRing(tmp_path / "p" / "k.pem", tmp_path / "q"), tmp_path / "p" / "a")
    assert told in f"{refused.value.message} {refused.value.hint}"


def test_halves_of_two_keys_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        keysecret.fresh(tmp_path / name)
    (tmp_path / "a" / keysecret.PRIVATE).write_bytes((tmp_path / "b" / keysecret.PRIVATE).read_bytes())
    with pytest.raises(StackError, match=r"model-signing.pem in the secret is the key .*, keys.json says"):
        keysecret.install(tmp_path / "a", KeyRing(tmp_path / "k.pem", tmp_path / "q"), tmp_path / "x")


@pytest.mark.parametrize(
    "stdin",
    ["", "[]", '{"kind": "ConfigMap"}', '{"kind": "Secret", "metadata": {}, "data": {"a": "eA=="}}',
     '{"kind": "Secret", "metadata": {}, "data": {"model-signing.pem": "?", "audit-key": "x"}}'],
)  # fmt: skip
def test_what_is_no_secret_with_keys_is_refused(stdin: str) -> None:
    with pytest.raises(StackError, match="no secret with a registry's keys"):
        keysecret.changed(stdin, lambda folder: None)
