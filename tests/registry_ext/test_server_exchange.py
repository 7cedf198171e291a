"""DEMAND REG-10, REG-12: a registry is exported and imported exactly, a version moves between installations."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from windtunnel import canonical
from windtunnel.cli.app import app
from windtunnel.errors import IntegrityError, NotFoundError, RefusedError, RegistryError, WindtunnelError
from windtunnel.evidence.manifest import Manifest
from windtunnel.registry import auditfiles, exchange, exporting, importing
from windtunnel.safety import signature, statement
from windtunnel.safety.keys import KeyRing
from windtunnel.serving import verification
from windtunnel.stackfile import read_secret

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def others(helpers: Any, registry_server: Any) -> Iterator[tuple[Any, Any]]:
    """Two more installations: one with models, and one that is empty."""
    roots = [Path(tempfile.mkdtemp(prefix="wt-exchange-")) for _ in range(2)]
    made = [helpers.RegistryServer(root) for root in roots]
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda server: server.start(), made))
        yield made[0], made[1]
    finally:
        for server in made:
            server.stop()
        for root in roots:
            shutil.rmtree(root, ignore_errors=True)


def key_of(server: Any) -> str:
    ring = KeyRing.of(server.home)
    keys = ring.keys()
    (current,) = [key for key in keys if key.state == "current"]
    return (ring.public / f"{current.id}.pem").read_text()


@pytest.fixture(scope="module")
def origin(others: tuple[Any, Any], helpers: Any) -> tuple[Any, str, str]:
    """The first of the two, with a model that has a past (a champion, one before, one deleted) and a small one."""
    server, other = others
    with server.rest("admin") as http, server.client() as service, server.client("admin") as admin:
        hands = helpers.Hands(http)
        model, small = hands.model(), hands.model()
        helpers.crown(service, hands, model)
        record = helpers.enter(service, hands, model, params={"depth": 4})
        helpers.judge(service, record, "data-check", "evaluation", "rollout")
        told = admin.explain(model, record.version)
        admin.approve(model, record.version, "good", digest=told.digest, evidence=told.evidence)
        rollout = service.open_rollout(model, record.version, plan={"steps": [5]}, holder="h2", correlation_id="c2")
        service.update_rollout(rollout.id, rollout.token, state="running", step=0, weight=5.0, reason="begun")
        service.promote(rollout.id, rollout.token, "1")
        gone = helpers.enter(service, hands, model, params={"depth": 5})
        hands.call("DELETE", "/model-versions/delete", {"name": model, "version": gone.version})
        run = hands.call("GET", f"/model-versions/get?name={model}&version=1")["model_version"]["run_id"]
        for step, value in enumerate((0.5, 0.25)):
            body = {"run_id": run, "key": "loss", "value": value, "timestamp": 1000 + step, "step": step}
            hands.call("POST", "/runs/log-metric", body)
        hands.call("POST", "/runs/log-parameter", {"run_id": run, "key": "depth", "value": "3"})
        hands.call("POST", "/registered-models/set-tag", {"name": model, "key": "team", "value": "sea"})
        hands.call("POST", "/model-versions/set-tag", {"name": model, "version": "1", "key": "note", "value": "x"})
        hands.call("PATCH", "/registered-models/update", {"name": model, "description": "what it is"})
        hands.call("POST", "/registered-models/alias", {"name": model, "alias": "best", "version": "1"})
        admin.set_policy_document({"production": {"approvals": 1}}, "four eyes", model=model)
        admin.set_policy_document({"archived": {"lineage": ["run"]}}, "house")
        helpers.enter(service, hands, small)
    with other.client("admin") as admin:
        admin.trust_installation("staging", key_of(server))
    return server, model, small


def records_of(folder: Path) -> dict[str, bytes]:
    """All of an export that says nothing of when and by whom it was made."""
    paths = [*folder.glob("records/*.json"), *folder.glob("files/*/*"), folder / "house.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if not path.name.endswith(".sig.json")}


def test_a_registry_is_restored_exactly_and_once(
    others: tuple[Any, Any], origin: tuple[Any, str, str], tmp_path: Path
) -> None:
    """Export, import, export: the same bytes. Again: nothing changes."""
    (server, empty), (_, model, small) = others, origin
    with server.client("admin") as there, empty.client("admin") as here:
        told = exporting.write(there, tmp_path / "one")
        assert set(told.models) == {model, small}
        assert (told.versions, told.files) == (3, 4), "MLmodel is the same file in all three"
        log = (tmp_path / "one" / "audit").glob("*/audit.jsonl")
        foreign = next(log)

        plan = importing.read(here, tmp_path / "one", dry=True)
        assert set(plan.new) == {model, small, "the policy of the house"}
        assert here.models() == []

        done = importing.read(here, tmp_path / "one")
        assert (done.installation, done.audit, set(done.new)) == ("staging", True, set(plan.new))
        before = len(here.audit(limit=10_000))
        again = importing.read(here, tmp_path / "one")
        assert (again.new, again.uploaded, again.audit) == ([], 0, False)
        assert len(here.audit(limit=10_000)) == before

        exporting.write(here, tmp_path / "two")
        assert records_of(tmp_path / "one") == records_of(tmp_path / "two")
        name = foreign.parent.name
        assert (tmp_path / "two" / "audit" / name / "audit.jsonl").read_bytes() == foreign.read_bytes()

        kept = empty.home.audit / "foreign" / name
        place = auditfiles.place(kept)
        points, problems = auditfiles.checkpoints_in(place, auditfiles.keys_in(place))
        report = auditfiles.verify(kept / "audit.jsonl", points, problems, processes=1)
        assert (str(report.outcome), report.vouched) == ("PASS", report.entries)

        for version in ("1", "2"):
            left, right = there.version(model, version), here.version(model, version)
            assert left == right
            assert verification.verify(empty.home, right).whole
        assert there.champion_history(model) == here.champion_history(model)
        assert [one.by for one in here.approvals(model, "2")] == ["admin"]
        assert there.policy_document(model)["policy"] == here.policy_document(model)["policy"]
        strip = [(one.id, one.verdict, one.claimed) for one in there.verdicts(model)]
        assert strip == [(one.id, one.verdict, one.claimed) for one in here.verdicts(model)]
    with empty.rest("admin") as http:
        found = http.get("/api/2.0/mlflow/model-versions/get", params={"name": model, "version": "1"}).json()
        run = http.get("/api/2.0/mlflow/runs/get", params={"run_id": found["model_version"]["run_id"]}).json()["run"]
        assert {one["key"]: one["value"] for one in run["data"]["metrics"]} == {"loss": 0.25}
        assert {one["key"]: one["value"] for one in run["data"]["params"]} == {"depth": "3"}
        told = http.get("/api/2.0/mlflow/registered-models/get", params={"name": model}).json()["registered_model"]
        assert told["description"] == "what it is"
        assert {one["alias"] for one in told["aliases"]} == {"champion", "best"}


def test_after_that_the_restored_registry_goes_on(
    others: tuple[Any, Any], origin: tuple[Any, str, str], helpers: Any, tmp_path: Path
) -> None:
    """Numbers go on after the deleted one; what has changed is not overwritten, and the list says what differs."""
    (server, empty), (_, model, small) = others, origin
    with server.client("admin") as there, empty.client("admin") as here, empty.rest("admin") as http:
        exporting.write(there, tmp_path / "all")
        importing.read(here, tmp_path / "all")
        exporting.write(there, tmp_path / "export", models=[model, small])
        with empty.client() as service:
            assert helpers.enter(service, helpers.Hands(http), model, params={"depth": 6}).version == "4"
        with pytest.raises(RefusedError) as told:
            importing.read(here, tmp_path / "export")
        assert told.value.code == "WT_DIFFERENT"
        assert any(line.startswith(f"{model}: versions: 4 here, 3 in the export") for line in told.value.missing)
        assert importing.read(here, tmp_path / "export", models=[small]).same == [small]
        # The registry itself refuses as well, and its audit says so.
        path = tmp_path / "export" / exchange.record_path(model)
        signed = json.loads((tmp_path / "export" / exchange.signature_path(exchange.record_path(model))).read_text())
        with pytest.raises(RefusedError) as direct:
            here.import_record(path.read_text(), signed)
        assert direct.value.code == "WT_DIFFERENT"
        assert here.audit(model, action="import", outcome="refused")


@pytest.fixture(scope="module")
def exported(origin: tuple[Any, str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One version of the first installation."""
    server, model, _ = origin
    where = tmp_path_factory.mktemp("moved") / "version"
    with server.client("admin") as there:
        exporting.write(there, where, models=[model], version="2")
    return where


def test_a_version_moves_with_its_evidence_and_is_signed_here(
    origin: tuple[Any, str, str], exported: Path, admin: Any, service: Any, registry_server: Any, hands: Any
) -> None:
    server, model, _ = origin
    with pytest.raises(RefusedError, match="does not know") as told:
        importing.read(admin, exported)
    assert told.value.code == "WT_EXPORT"
    admin.trust_installation("upstream", key_of(server))
    try:
        dry = importing.read(admin, exported, dry=True)
        assert (dry.new, dry.installation) == ([model], "upstream")
        done = importing.read(admin, exported)
        assert (done.new, done.audit) == ([f"{model}@1"], True)
        assert importing.read(admin, exported).same == [f"{model}@1"]

        record = service.version(model, "1")
        assert record.ready
        with server.client() as there:
            source = there.version(model, "2")
        assert record.digest == source.digest
        assert record.manifest["files"] == source.manifest["files"]
        ours = KeyRing.of(registry_server.home)
        assert ours.installation(signature.verify(Manifest.from_dict(record.manifest), ours, model=model)) is None
        assert verification.verify(registry_server.home, record).whole

        came = {(str(one.verdict.kind), one.claimed): one.verdict.actor for one in service.verdicts(model)}
        assert came["evaluation", False] == "upstream:service"
        assert came["rollout", True] == "upstream:service"
        assert ("rollout", False) not in came
        (origin_of,) = [one["facts"]["moved"] for one in versions(service, model)]
        assert (origin_of["installation"], origin_of["version"]) == ("upstream", "2")
        assert (origin_of["rollout"], origin_of["semver"]) == ("PASS", source.semver)
        assert [one["by"] for one in origin_of["approvals"]] == ["admin"]
        assert Manifest.from_dict({**record.manifest, "signature": origin_of["signature"]}).signature
        statement.verify(origin_of["statement"], ours, "record")

        needs = {"evidence": ["evaluation"], "lineage": ["run", "data", "code"], "moved_from": ["upstream"]}
        admin.set_policy_document({"first": needs}, "what is released comes from there", model=model)
        assert service.explain(model, "1").allowed
        run_id = hands.run()
        service.register(
            model, source=f"runs:/{run_id}/model", run_id=run_id, recipe={}, correlation_id="c", cause="test"
        )
        (missing,) = [line for line in service.explain(model, "2").missing if "moved" in line]
        assert "registered here" in missing
    finally:
        admin.distrust_installation("upstream", "the end of the test")
    assert any("not trusted any more" in line for line in service.explain(model, "1").missing)
    with pytest.raises(RefusedError, match="revoked"):
        importing.read(admin, exported)


def versions(client: Any, model: str) -> list[dict[str, Any]]:
    return list(client._call("GET", f"/models/{model}/versions")["versions"])


def blob(folder: Path) -> Path:
    return next(folder.glob("files/*/*"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def forge_verdict(folder: Path) -> None:
    """A FAIL turned to PASS, with the list of the export made to fit."""
    (path,) = [one for one in folder.glob("records/*.json") if not one.name.endswith(".sig.json")]
    path.write_text(path.read_text().replace('"outcome":"PASS"', '"outcome":"FAIL"'))
    relist(folder, path)


def cut_audit(folder: Path) -> None:
    (path,) = folder.glob("audit/*/*.entries.jsonl")
    path.write_bytes(path.read_bytes().rpartition(b"\n{")[0] + b"\n")


def edit_audit(folder: Path) -> None:
    (path,) = folder.glob("audit/*/*.entries.jsonl")
    path.write_bytes(path.read_bytes().replace(b"register", b"registre", 1))


def relist(folder: Path, path: Path) -> None:
    """What somebody without the key can do: change the signed statement's payload to name the changed file."""
    import base64

    told = json.loads((folder / "export.json").read_text())
    plain = canonical.loads(base64.b64decode(told["signature"]["payload"]))
    data = path.read_bytes()
    plain["files"][str(path.relative_to(folder))] = [exchange.digest(data), len(data)]
    told["signature"]["payload"] = base64.b64encode(canonical.dumps(plain)).decode()
    (folder / "export.json").write_text(json.dumps(told))


TAMPERING: dict[str, tuple[Any, str]] = {
    "changed byte": (lambda folder: flip(blob(folder)), "was changed"),
    "missing file": (lambda folder: blob(folder).unlink(), "is missing"),
    "forged verdict": (forge_verdict, "does not fit the key"),
    "cut audit": (cut_audit, "entries.jsonl is not what was exported"),
    "edited audit": (edit_audit, "entries.jsonl is not what was exported"),
    "changed record": (lambda folder: flip(next(folder.glob("records/*.sig.json"))), "sig.json is not what"),
    "no list": (lambda folder: (folder / "export.json").unlink(), "there is no export.json"),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_what_was_changed_on_the_way_is_refused_and_named(
    what: str, others: tuple[Any, Any], exported: Path, tmp_path: Path
) -> None:
    change, expected = TAMPERING[what]
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    change(copy)
    with others[1].client("admin") as here:
        before = [one.name for one in here.models()]
        with pytest.raises((IntegrityError, RefusedError, NotFoundError), match=expected):
            importing.read(here, copy)
        assert [one.name for one in here.models()] == before


def test_the_registry_itself_believes_no_client(
    others: tuple[Any, Any], origin: tuple[Any, str, str], exported: Path, tmp_path: Path
) -> None:
    """Whoever talks to the API past our client: records and audits are held to signatures on the server as well."""
    (_, empty), (server, model, small) = others, origin
    path = exchange.record_path(model)
    text = (exported / path).read_text()
    signed = json.loads((exported / exchange.signature_path(path)).read_text())
    with empty.client("admin") as here, empty.client() as service, server.client("admin") as there:
        for call in (here.import_plan, here.import_record, here.import_version):
            with pytest.raises(RefusedError, match="not the one that was signed"):
                call(text.replace("PASS", "FAIL", 1), signed)
        fresh = there.export_record(small)
        with pytest.raises(RefusedError, match=r"not about one sealed version"):
            here.import_version(fresh["record"], fresh["signature"])
        about = next(exported.glob("audit/*/log.sig.json"))
        entries = next(exported.glob("audit/*/*.entries.jsonl")).read_text()
        told = json.loads(about.read_text())
        for broken, why in (
            (entries.replace("register", "registre", 1), "does not fit its content"),
            ("\n".join(entries.splitlines()[1:]) + "\n", "does not follow"),
            (entries.replace('"index": ', '"index": 1', 1), "not in the audit"),
        ):
            with pytest.raises(RefusedError, match=why):
                here.import_audit(told, 0, broken, True, model)
        assert here.import_plan(fresh["record"], fresh["signature"])["state"] in ("new", "same")
        # An administrator's work: the stack's own user, which every worker holds, may not.
        for refused in (
            lambda: service.export_names(),
            lambda: service.export_record(model),
            lambda: service.export_seal({"models": []}),
            lambda: service.import_version(text, signed),
            lambda: service.trust_installation("mine", key_of(server)),
            lambda: service.distrust_installation("staging", "because"),
        ):
            with pytest.raises(RefusedError) as told_role:
                refused()
            assert told_role.value.code == "WT_ROLE"


def test_an_import_that_was_broken_off_is_completed(
    others: tuple[Any, Any],
    origin: tuple[Any, str, str],
    exported: Path,
    helpers: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed after some of the files, and after the record: run again, it is done, once."""
    _, empty = others
    _, model, _ = origin
    with empty.client("admin") as here:
        calls = 0
        upload = here.upload

        def dying(path: str, file: Path) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise KeyboardInterrupt
            upload(path, file)

        monkeypatch.setattr(here, "upload", dying)
        before = {one.version for one in here.versions(model)} if model in {m.name for m in here.models()} else set()
        with pytest.raises(KeyboardInterrupt):
            importing.read(here, exported)
        assert before == ({one.version for one in here.versions(model)} if before else set())
        monkeypatch.undo()
        monkeypatch.setattr(here, "import_audit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            importing.read(here, exported)
        monkeypatch.undo()
        done = importing.read(here, exported)
        assert done.new == []
        assert len(done.same) == 1
        (came,) = {one.version for one in here.versions(model)} - before
        # Deleted, it may come again, as another version; its files stayed sealed.
        with empty.rest("admin") as http:
            helpers.Hands(http).call("DELETE", "/model-versions/delete", {"name": model, "version": came})
        assert importing.read(here, exported).new == [f"{model}@{int(came) + 1}"]


def test_an_export_is_whole_or_absent(origin: tuple[Any, str, str], tmp_path: Path) -> None:
    server, model, _ = origin
    with server.client("admin") as there:
        damaged = next((server.artifacts / there.version(model, "1").location).rglob("weights"))
        good = damaged.read_bytes()
        try:
            flip(damaged)
            with pytest.raises(IntegrityError, match="not what was sealed"):
                exporting.write(there, tmp_path / "broken", models=[model])
        finally:
            damaged.write_bytes(good)
        assert list(tmp_path.iterdir()) == []
        told = exporting.write(there, tmp_path / "bare", models=[model], files=False)
        assert (told.files, told.versions) == (0, 2)
        assert not (tmp_path / "bare" / "files").exists()
        with pytest.raises(WindtunnelError, match="there already"):
            exporting.write(there, tmp_path / "bare", models=[model])
        with pytest.raises(NotFoundError):
            exporting.write(there, tmp_path / "none", models=["no-such-model"])


def test_names_of_installations(origin: tuple[Any, str, str], admin: Any) -> None:
    server, _, _ = origin
    for name, key in (("Not A Name", key_of(server)), ("fine", "no key"), ("fine", "")):
        with pytest.raises(RegistryError):
            admin.trust_installation(name, key)
    with pytest.raises(NotFoundError):
        admin.distrust_installation("nobody", "because of that")


def test_by_command(
    others: tuple[Any, Any], origin: tuple[Any, str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every command, against real servers, as a person would."""
    (server, empty), (_, _, small) = others, origin
    where = str(tmp_path / "out")

    def run(at: Any, *words: str) -> Any:
        monkeypatch.setenv("WINDTUNNEL_REGISTRY_URL", at.url)
        monkeypatch.setenv("WINDTUNNEL_USERNAME", "admin")
        monkeypatch.setenv("WINDTUNNEL_PASSWORD", read_secret(at.home, "mlflow-admin"))
        return CliRunner().invoke(app, ["registry", *words])

    told = run(server, "export", where, "--model", small, "--json")
    assert (told.exit_code, json.loads(told.stdout)["models"]) == (0, [small])
    dry = run(empty, "import", where, "--dry-run")
    assert dry.exit_code == 0
    assert f"would come  {small}" in dry.stdout or f"here already  {small}" in dry.stdout
    assert run(empty, "import", where).exit_code == 0
    assert f"here already  {small}" in run(empty, "import", where).stdout
    keyfile = tmp_path / "key.pem"
    keyfile.write_text(key_of(empty))
    assert run(server, "trust-installation", str(keyfile), "--name", "production").exit_code == 0
    found = json.loads(run(server, "installations", "--json").stdout)["installations"]
    assert [(one["installation"], one["state"]) for one in found] == [("production", "trusted")]
    assert run(server, "distrust-installation", "production", "--reason", "the end").exit_code == 0
    assert "revoked" in run(server, "installations").stdout
    lost = run(empty, "import", str(tmp_path / "nothing"))
    assert lost.exit_code == 1
    assert not (tmp_path / "nothing").exists()


@pytest.mark.long
def test_a_registry_on_sqlite_is_restored_on_postgresql(
    origin: tuple[Any, str, str], helpers: Any, postgres: str, tmp_path: Path
) -> None:
    """The same bytes again, whatever the database."""
    server, model, _ = origin
    other = helpers.RegistryServer(tmp_path / "home", postgres)
    try:
        other.start()
        with server.client("admin") as there, other.client("admin") as here:
            exporting.write(there, tmp_path / "one")
            here.trust_installation("old", key_of(server))
            importing.read(here, tmp_path / "one")
            assert importing.read(here, tmp_path / "one").new == []
            exporting.write(here, tmp_path / "two")
            assert records_of(tmp_path / "one") == records_of(tmp_path / "two")
            with other.rest() as http, other.client() as service:
                assert helpers.enter(service, helpers.Hands(http), model, params={"depth": 7}).version == "4"
    finally:
        other.stop()
