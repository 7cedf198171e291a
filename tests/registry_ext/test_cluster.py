"""The registry's server as its image runs it: the same commands, as processes, on PostgreSQL and with TLS."""

from __future__ import annotations

import asyncio
import datetime
import os
import secrets
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import podlike
import pytest
import roles
import waiting
from mlflow import environment_variables
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from windtunnel import tls
from windtunnel.errors import DescriptionError, StackError, UnavailableError, WindtunnelError
from windtunnel.home import Home
from windtunnel.loopback import any_free
from windtunnel.registry import launch
from windtunnel.registry.client import RegistryClient
from windtunnel.safety import keysecret
from windtunnel.safety.keys import KeyRing
from windtunnel_mlflow import migrate
from windtunnel_mlflow.api import metrics
from windtunnel_mlflow.cluster import doors, election, mounted, schema


def certificate(folder: Path, name: str = "localhost") -> int:
    """A pair as cert-manager leaves it, with its authority (itself); the serial number."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(exist_ok=True)
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, content in ((tls.CERTIFICATE, pem), ("ca.crt", pem), (tls.KEY, private)):
        fresh = folder / f".{file}"
        fresh.write_bytes(content)
        fresh.replace(folder / file)
    return made.serial_number


@dataclass
class Pod:
    """What a pod of the chart gives to its container."""

    root: Path
    database: str
    port: int = field(default_factory=any_free)
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.secrets, self.tls, self.home = self.root / "secrets", self.root / "tls", Home(self.root / "home")
        self.tmp, self.log = self.root / "tmp", self.root / "server.log"
        for folder in (self.secrets, self.home.root, self.tmp):
            folder.mkdir()
        for name in launch.SECRETS:
            (self.secrets / name).write_text(secrets.token_urlsafe(18))
        (self.secrets / mounted.DATABASE_URL).write_text(self.database)
        certificate(self.tls)
        for path in (*self.secrets.iterdir(), *self.tls.iterdir()):
            path.chmod(0o440)  # as the kubelet mounts it
        self.url = f"https://localhost:{self.port}"

    def start(self, *words: str, log: Path | None = None, **more: str) -> subprocess.Popen[str]:
        env = {
            "WINDTUNNEL_HOME": str(self.home.root),
            "WINDTUNNEL_SECRETS": str(self.secrets),
            "WINDTUNNEL_AUDIT_EVERY_S": "5",
            "MLFLOW_SERVER_ALLOWED_HOSTS": "localhost:*",  # a twin of it has another port
            "HOME": str(self.tmp),
            "TMPDIR": str(self.tmp),
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            **podlike.volumes(self.home.root, self.tmp),
            **more,
        }
        argv = podlike.command([sys.executable, "-m", "windtunnel_mlflow.cluster", *words])
        out: IO[str] | int = subprocess.PIPE if log is None else log.open("a")
        try:
            return subprocess.Popen(argv, env=env, cwd=self.home.root, stdout=out, stderr=subprocess.STDOUT, text=True)
        finally:
            if not isinstance(out, int):
                out.close()

    def run(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        out, _ = process.communicate(timeout=240)
        return process.returncode, out

    def http(self, *, auth: tuple[str, str] | None = None) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, auth=auth, timeout=30, trust_env=False,
            verify=ssl.create_default_context(cafile=str(self.tls / "ca.crt")),
        )  # fmt: skip

    def client(self, role: str = "service") -> RegistryClient:
        verify = ssl.create_default_context(cafile=str(self.tls / "ca.crt"))
        transport = httpx.HTTPTransport(verify=verify)
        return RegistryClient(self.url, role, self.secret(f"mlflow-{role}"), timeout=30, transport=transport)

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text()


@dataclass(frozen=True)
class Databases:
    """Two roles, as the production preset has them; URLs as a person writes them, without a driver."""

    owner: str
    server: str


@pytest.fixture(scope="module")
def database(postgres: str) -> Databases:
    with create_engine(postgres, isolation_level="AUTOCOMMIT").connect() as connection:
        for statement in ("ROLE pod_owner LOGIN", "ROLE pod_server LOGIN", "DATABASE pod OWNER pod_owner"):
            connection.execute(text(f"CREATE {statement}"))
    place = postgres.rpartition("@")[2].rpartition("/")[0]
    return Databases(f"postgresql://pod_owner@{place}/pod", f"postgresql://pod_server@{place}/pod")


@pytest.fixture(scope="module")
def migration(database: Databases, tmp_path_factory: pytest.TempPathFactory) -> Pod:
    """The job's pod: it has the owner's URL."""
    return Pod(tmp_path_factory.mktemp("migration"), database.owner)


@dataclass(frozen=True)
class Store:
    """A bucket where the server is let in by its pod's role (IRSA), and has no key."""

    cloud: roles.Cloud
    role: str
    variables: dict[str, str]

    def names(self) -> list[str]:
        found = self.cloud.admin("s3").list_objects_v2(Bucket=self.cloud.bucket)
        return [one["Key"] for one in found.get("Contents", [])]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with roles.cloud() as made:
        role = made.role("windtunnel-registry", "registry", "audit")
        yield Store(made, role, made.service_account(tmp_path_factory.mktemp("token"), role))


@pytest.fixture(scope="module")
def pod(database: Databases, migration: Pod, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    # Two at once, as a job that is tried again while the first is not quite dead.
    job = migration.start("migrate", "--role=pod_server")
    schema.upgrade(database.owner.replace("postgresql:", "postgresql+psycopg2:"), auth=False)
    told, _ = job.communicate(timeout=240)
    assert (job.returncode, told.strip().splitlines()[-1]) == (0, "the schema was brought up to date"), told
    made = Pod(tmp_path_factory.mktemp("pod"), database.server)
    # Nobody else serves: a shorter wait for whoever might.
    serve(made, store, "--lease=5")
    server = made.process
    try:
        yield made
    finally:
        server.terminate()
        server.wait(30)


def serve(pod: Pod, store: Store, *words: str, **more: str) -> None:
    pod.process = pod.start("serve", "--host=127.0.0.1", f"--port={pod.port}", f"--tls={pod.tls}", *words, log=pod.log,
        MLFLOW_ARTIFACTS_DESTINATION=f"s3://{store.cloud.bucket}/registry", MLFLOW_S3_ENDPOINT_URL=store.cloud.url,
        WINDTUNNEL_SERVER_NAME="localhost", **store.variables, **more,
    )  # fmt: skip


@pytest.mark.real
def test_the_check_of_helm_test_passes(pod: Pod, store: Store) -> None:
    """DEMAND OPS-2, OPS-10: over TLS, with the mounted secrets and nothing else, artifacts in an object store."""
    code, told = pod.run("check", f"--url={pod.url}", f"--ca={pod.tls / 'ca.crt'}", "--wait=200")
    assert code == 0, told + pod.log.read_text()[-3000:]
    assert told.count("ok  ") == 5
    assert store.names() == []
    # Nobody but the server's user may read what it copied out of the mounted secret.
    found = [path.stat() for path in pod.home.secrets.iterdir()]
    assert {one.st_mode & 0o777 for one in found} == {0o600}
    assert {one.st_uid for one in found} == {podlike.USER if podlike.possible() else os.getuid()}


@pytest.mark.real
def test_the_check_fails_where_something_is_wrong(pod: Pod, store: Store, tmp_path: Path) -> None:
    _ready(pod)
    for lacking, said in (
        ("s3:PutObject", f"asked by role {store.role}"),
        ("s3:DeleteObject", "keeps what was removed"),
    ):
        store.cloud.allow(store.role, "registry", "audit", without=lacking)
        code, told = pod.run("check", f"--url={pod.url}", f"--ca={pod.tls / 'ca.crt'}")
        assert (code, said in told, lacking in told) == (1, True, True), told
    store.cloud.allow(store.role, "registry", "audit")
    other = Pod(tmp_path, "unused", pod.port)
    code, told = other.run("check", f"--url={pod.url}", f"--ca={pod.tls / 'ca.crt'}")
    assert (code, "answered 401, expected 200" in told) == (1, True), told
    code, told = pod.run("check", f"--url={pod.url}", f"--ca={other.tls / 'ca.crt'}")
    assert (code, "no answer from" in told) == (1, True), told


@pytest.mark.real
def test_a_version_in_an_object_store_is_sealed_and_signed(pod: Pod, store: Store, helpers: Any) -> None:
    """DEMAND OPS-13"""
    _ready(pod)
    with pod.http(auth=("service", pod.secret("mlflow-service"))) as http, pod.client() as client:
        record = helpers.enter(client, helpers.Hands(http), "sea")
        assert (record.status, record.digest[:7]) == ("READY", "sha256:")
        # The proxy writes below a sealed path no more.
        name = next(name for name in store.names() if name.endswith("/MLmodel")).removeprefix("registry/")
        answer = http.put(f"/api/2.0/mlflow-artifacts/artifacts/{name}", content=b"x")
        assert answer.status_code in (403, 409), answer.text
    assert not list(pod.tmp.glob("windtunnel-seal-*"))
    assert {path.name for path in pod.home.secrets.iterdir()} >= {"model-signing.pem", "audit-key"}


@pytest.mark.real
def test_a_strange_host_name_is_not_answered(pod: Pod) -> None:
    _ready(pod)
    with pod.http(auth=("service", pod.secret("mlflow-service"))) as http:
        path = "/api/windtunnel/v1/health"
        assert http.get(path).status_code == 200
        # A kubelet asks by address, for the health alone.
        assert http.get("/health", headers={"Host": "10.1.2.3:5000"}).status_code == 200
        assert http.get("/api/2.0/mlflow/experiments/search", headers={"Host": "evil.example"}).status_code == 403
        # Prometheus asks by the pod's own address, for the metrics.
        metered = "/api/windtunnel/v1/metrics"
        assert http.get(metered, headers={"Host": f"127.0.0.1:{pod.port}"}).status_code == 200
        assert http.get(metered, headers={"Host": f"127.0.0.2:{pod.port}"}).status_code == 403


@pytest.mark.real
def test_metrics_are_for_whoever_has_a_credential(pod: Pod, helpers: Any) -> None:
    _ready(pod)
    path = "/api/windtunnel/v1/metrics"
    with pod.http() as http:
        assert http.get(path).status_code == 401
    with pod.http(auth=("service", pod.secret("mlflow-service"))) as http, pod.client() as client:

        def asked() -> dict[str, float]:
            answer = http.get(path)
            assert answer.headers["content-type"] == metrics.CONTENT_TYPE
            lines = [line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#")]
            return {name.removeprefix("windtunnel_registry_"): float(value) for name, value in lines}

        before = asked()
        record = helpers.crown(client, helpers.Hands(http), "lake")
        second = helpers.enter(client, helpers.Hands(http), "lake")
        client.open_rollout("lake", second.version, plan={}, holder="h", correlation_id="c1")
        http.post("/api/windtunnel/v1/audit/checkpoint").raise_for_status()
        after = asked()
    assert (record.status, second.status) == ("READY", "READY")
    names = {f"windtunnel_registry_{name.split('{')[0]}" for name in after}
    assert names == {name for name, _, _ in metrics.METRICS}
    # At the first look there may be no checkpoint yet.
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown['versions{status="READY"}'] == 2
    assert (grown["models"], grown["champions"], grown["rollouts_open"]) == (1, 1, 1)
    assert grown["audit_entries"] > 5
    assert grown["audit_signed_entries"] > 5
    assert (after["audit_problem"], after["pending_seconds"]) == (0, 0)
    assert 0 < after["rollout_quiet_seconds"] < 600


def test_a_renewed_certificate_is_taken_up_without_a_restart(tmp_path: Path) -> None:
    first = certificate(tmp_path)
    context = tls.followed(tmp_path, every_s=0.05)
    assert _serial(context) == first
    wanted = certificate(tmp_path)
    until = time.monotonic() + 60
    while _serial(context) != wanted:
        assert time.monotonic() < until
        time.sleep(0.02)
    (tmp_path / tls.KEY).write_text("half written")
    time.sleep(0.2)
    assert _serial(context) == wanted  # the old pair goes on
    last = certificate(tmp_path)
    while _serial(context) != last:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_certificate_whose_key_is_not_there_yet_refuses_nobody(tmp_path: Path) -> None:
    """The secret is exchanged between two reads: the new certificate beside the old key. It was once loaded so."""
    first, key = certificate(tmp_path), (tmp_path / tls.KEY).read_bytes()
    context = tls.followed(tmp_path, every_s=0.01)
    wanted = certificate(tmp_path)
    renewed = (tmp_path / tls.KEY).read_bytes()
    for _ in range(20):
        (tmp_path / tls.KEY).write_bytes(key)
        time.sleep(0.02)
        assert _serial(context) in (first, wanted)
    (tmp_path / tls.KEY).write_bytes(renewed)
    waiting.until(lambda: _serial(context) == wanted, every_s=0.02)


def test_a_renewed_authority_of_senders_is_believed(tmp_path: Path) -> None:
    """DEMAND OPS-6: and the one before it no longer."""
    certificate(tmp_path / "server"), certificate(tmp_path / "old"), certificate(tmp_path / "new")
    trusted = tmp_path / "senders.crt"
    trusted.write_bytes((tmp_path / "old" / "ca.crt").read_bytes())
    context = tls.followed(tmp_path / "server", trusted, every_s=0.01)

    def comes_in(who: str) -> bool:
        try:
            return bool(_serial(context, tmp_path / who))
        except ssl.SSLError:
            return False

    assert (comes_in("old"), comes_in("new")) == (True, False)
    trusted.write_bytes((tmp_path / "new" / "ca.crt").read_bytes())
    waiting.until(lambda: comes_in("new"), every_s=0.02)
    assert not comes_in("old")


@pytest.mark.real
def test_our_own_client_takes_a_private_authority_by_the_environment(pod: Pod) -> None:
    """As values-airflow-production.yaml sets it for every task."""
    _ready(pod)
    code = (
        "import sys; from windtunnel.registry.client import RegistryClient\n"
        "print(RegistryClient(sys.argv[1], 'service', open(sys.argv[2]).read()).health()['user'])"
    )
    argv = [sys.executable, "-c", code, pod.url, str(pod.secrets / "mlflow-service")]
    env = {**os.environ, "SSL_CERT_FILE": str(pod.tls / "ca.crt")}
    assert subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout.strip() == "service"
    # Without it the certificate is nobody's.
    env.pop("SSL_CERT_FILE")
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr


@pytest.mark.real
def test_the_schema_does_not_go_back_under_a_server(pod: Pod, migration: Pod, database: Databases) -> None:
    """But never under a server."""
    _ready(pod)
    owner, server = (url.replace("postgresql:", "postgresql+psycopg2:") for url in (database.owner, database.server))
    with create_engine(owner, isolation_level="AUTOCOMMIT").connect() as connection:
        head = migrate.current(connection)
        assert head == migrate.head()
        with pytest.raises(StackError, match=f"schema is at {head}, and '9999' is not before it"):
            schema.downgrade(owner, "9999")
        older = f"{int(str(head)) - 1:04}"
        # Never under a server: it would go on without its tables, or bring them up again.
        code, said = migration.run("downgrade", older, "--wait=0")
        assert (code, "a server of this registry serves" in said, "--replicas=0" in said) == (1, True, True), said
        assert migrate.current(connection) == head
        assert not schema.upgrade(server, auth=False)  # nothing to do, so the server's role does


def test_tables_go_back_where_no_server_serves(postgres: str) -> None:
    with create_engine(postgres, isolation_level="AUTOCOMMIT").connect() as connection:
        for statement in ("ROLE back_owner LOGIN", "ROLE back_server LOGIN", "DATABASE back OWNER back_owner"):
            connection.execute(text(f"CREATE {statement}"))
    place = postgres.rpartition("@")[2].rpartition("/")[0]
    owner, server = (f"postgresql+psycopg2://back_{role}@{place}/back" for role in ("owner", "server"))
    engine = create_engine(owner)
    migrate.upgrade(engine)
    older = f"{int(migrate.head()) - 1:04}"
    with engine.connect() as connection:  # as whoever has just begun to serve
        lock = dict(zip("ab", election.LOCK, strict=True))
        connection.execute(text("SELECT pg_advisory_lock(:a, :b)"), lock)
        with pytest.raises(UnavailableError, match="a server of this registry serves"):
            schema.downgrade(owner, older, wait=0)
        connection.execute(text("SELECT pg_advisory_unlock(:a, :b)"), lock)
        with pytest.raises(DBAPIError, match=r"must be owner of|permission denied"):
            schema.downgrade(server, older, wait=0)
        assert migrate.current(connection) == migrate.head()
    schema.downgrade(owner, older, wait=0)
    with engine.connect() as connection:
        assert migrate.current(connection) == older
    engine.dispose()


class Twin(Pod):
    """Another server of the same registry: the same secrets and certificate, no volume, keys from a secret."""

    def __init__(self, root: Path, first: Pod, store: Store) -> None:
        super().__init__(root, first.database)
        for name in ("secrets", "tls"):
            for path in (getattr(self, name)).iterdir():
                path.unlink()
                path.write_bytes((getattr(first, name) / path.name).read_bytes())
                path.chmod(0o440)
        keys = root / "keys"
        keys.mkdir()
        # As its administrator brings them away from the volume.
        keysecret.collect(KeyRing.of(first.home), first.home.secrets / keysecret.AUDIT, keys)
        for path in keys.iterdir():
            path.chmod(0o440)
        serve(
            self, store, WINDTUNNEL_KEYS_SECRET=str(keys), WINDTUNNEL_HOME_TEMPORARY="1",
            WINDTUNNEL_AUDIT_PUBLISH=f"s3://{store.cloud.bucket}/audit",
        )  # fmt: skip


def _serves(pod: Pod) -> bool:
    with pod.http() as http:
        return http.get("/leader").status_code == 200


@pytest.mark.long
@pytest.mark.real
def test_another_server_takes_over_with_everything_but_what_was_half_written(
    pod: Pod, store: Store, helpers: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """DEMAND OPS-9: killed with an upload under way that a seal waits for. Last of this file: the first is gone."""
    _ready(pod)
    twin = Twin(tmp_path_factory.mktemp("twin"), pod, store)
    third: Twin | None = None
    fourth: Twin | None = None
    try:
        _ready(twin)
        assert not _serves(twin)
        with twin.http(auth=("service", twin.secret("mlflow-service"))) as http, twin.client() as client:
            hands = helpers.Hands(http)
            # Everything works by the one that stands by.
            assert helpers.enter(client, hands, "sky").status == "READY"
            with twin.http(auth=("admin", twin.secret("mlflow-admin"))) as admin:
                user = {"username": "eve", "password": "first-word-of-eve"}
                assert admin.post("/api/2.0/mlflow/users/create", json=user).status_code == 200
                assert _asks(twin, "eve", "first-word-of-eve") == 200
                changed = {"username": "eve", "password": "second-word-of-eve"}
                assert admin.patch("/api/2.0/mlflow/users/update-password", json=changed).status_code == 200
            run = hands.run()
            began, cut = threading.Event(), []

            def half() -> Iterator[bytes]:
                yield b"x" * 1024
                began.set()
                yield from _slowly()

            def upload() -> None:
                path = f"/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/model/late"
                try:
                    with pod.http(auth=("service", pod.secret("mlflow-service"))) as to_first:
                        cut.append(to_first.put(path, content=half()).status_code)
                except httpx.TransportError as error:
                    cut.append(type(error).__name__)

            uploading = threading.Thread(target=upload)
            uploading.start()
            assert began.wait(60)
            time.sleep(1)  # the server has begun to take it in
            model = hands.model()
            hands.plain_version(model, run)
            assert client.version(model, "1").status == "PENDING_REGISTRATION"
            pod.process.kill()
            killed = time.monotonic()
            waiting.until(lambda: _serves(twin), every_s=0.1)
            print(f"took over {time.monotonic() - killed:.1f} s after a kill")
            uploading.join(60)
            assert cut and cut[0] != 200
            record = waiting.until(lambda: (one := client.version(model, "1")).status == "READY" and one, every_s=0.2)
            assert not [name for name in store.names() if name.endswith("/late")]
            assert record.digest
            assert (_asks(twin, "eve", "first-word-of-eve"), _asks(twin, "eve", "second-word-of-eve")) == (401, 200)
            # What the first signed is believed, and the audit goes on.
            assert client.version("sky", "1").status == "READY"
            assert helpers.enter(client, hands, "sky").status == "READY"
            other = tmp_path_factory.mktemp("other")
            keysecret.fresh(other)
            pem = next(path for path in other.glob("*.pem") if path.name != keysecret.PRIVATE).read_text()
            with (
                twin.client("admin") as administrator,
                pytest.raises(WindtunnelError, match="come from a secret of its cluster"),
            ):
                administrator.trust_installation("friend", pem)
            with twin.client("admin") as administrator:
                (own,) = administrator.export_audits()["logs"]
                with pytest.raises(WindtunnelError, match="the audit of another installation would not be kept"):
                    administrator.import_audit(own, 0, "", True)
                assert administrator.audit("", action="import-audit", outcome="refused")
        assert twin.run("check", f"--url={twin.url}", f"--ca={twin.tls / 'ca.crt'}")[0] == 0
        assert [name for name in store.names() if name.startswith("audit/") and name.endswith(".checkpoint")]
        third = Twin(tmp_path_factory.mktemp("third"), pod, store)
        _ready(third)
        twin.process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        waiting.until(lambda: _serves(third), every_s=0.1)
        print(f"took over {time.monotonic() - stopped:.1f} s after a stop")
        twin.process.send_signal(signal.SIGCONT)
        assert twin.process.wait(60) == 70
        assert third.run("check", f"--url={third.url}", f"--ca={third.tls / 'ca.crt'}")[0] == 0
        fourth = Twin(tmp_path_factory.mktemp("fourth"), pod, store)
        _ready(fourth)
        third.process.terminate()
        told = time.monotonic()
        waiting.until(lambda: _serves(fourth), every_s=0.1)
        print(f"took over {time.monotonic() - told:.1f} s after an orderly end")
        assert third.process.wait(60) == 0
        assert fourth.run("check", f"--url={fourth.url}", f"--ca={fourth.tls / 'ca.crt'}")[0] == 0
    finally:
        for one in (twin, third, fourth):
            if one is not None and one.process.poll() is None:
                one.process.send_signal(signal.SIGCONT)
                one.process.kill()
                one.process.wait(30)


def _slowly() -> Iterator[bytes]:
    for _ in range(600):
        time.sleep(0.2)
        yield b"y"


def _asks(pod: Pod, *auth: str) -> int:
    with pod.http(auth=(auth[0], auth[1])) as http:
        return http.get("/api/2.0/mlflow/experiments/get", params={"experiment_id": "0"}).status_code


def _ready(pod: Pod) -> None:
    until = time.monotonic() + 200
    while True:
        try:
            with pod.http() as http:
                if http.get("/health").status_code == 200:
                    return
        except httpx.TransportError:
            pass
        assert time.monotonic() < until, pod.log.read_text()[-3000:]
        time.sleep(0.2)


def test_requests_are_passed_on_to_a_server_by_a_new_authority(tmp_path: Path) -> None:
    """DEMAND OPS-10: an authority is renewed as certificates are; a server that stands by needs no restart for it."""
    certificate(tmp_path)
    forward = doors.Forward(tmp_path, "localhost")

    async def asked() -> int:
        """The status that another server's answer has, over TLS by the pair of this moment."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            writer.close()

        other = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls.context(tmp_path))
        told: list[Any] = []

        async def send(message: Any) -> None:
            told.append(message)

        async def receive() -> Any:
            return {"type": "http.request"}

        scope = {"type": "http", "method": "GET", "path": "/x", "query_string": b"", "headers": []}
        async with other:
            await forward(f"127.0.0.1:{other.sockets[0].getsockname()[1]}", scope, receive, send)
        return int(told[0]["status"])

    async def twice() -> list[int]:
        first = await asked()
        certificate(tmp_path)
        return [first, await asked()]

    assert asyncio.run(twice()) == [204, 204]


def _serial(context: ssl.SSLContext, sender: Path | None = None) -> int:
    """Serial number of the certificate that a client of this context gets now; it shows that of ``sender``."""
    from cryptography import x509

    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    if sender is not None:
        client.load_cert_chain(sender / tls.CERTIFICATE, sender / tls.KEY)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_end = context.wrap_bio(to_server, to_client, server_side=True)
    client_end = client.wrap_bio(to_client, to_server)
    done: set[str] = set()
    while len(done) < 2:
        for name, end in (("client", client_end), ("server", server_end)):
            try:
                end.do_handshake()
                done.add(name)
            except ssl.SSLWantReadError:
                pass
    return x509.load_der_x509_certificate(client_end.getpeercert(binary_form=True) or b"").serial_number


@pytest.mark.real
def test_without_rights_or_a_database_the_reason_is_told(tmp_path: Path) -> None:
    other = Pod(tmp_path, f"postgresql://wt:hidden@127.0.0.1:{any_free()}/none")
    code, told = other.run("migrate")
    assert code == 1
    assert "the database does not do what is asked" in told
    assert "hidden" not in told
    assert "Traceback" not in told


def test_secrets_are_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(mounted.ENV_SECRETS, raising=False)
    assert mounted.folder() == Path(mounted.FOLDER)
    monkeypatch.setenv(mounted.ENV_SECRETS, str(tmp_path))
    with pytest.raises(StackError, match="the secret 'mlflow-admin' cannot be read"):
        mounted.secret("mlflow-admin")
    (tmp_path / "mlflow-admin").write_text("\n")
    with pytest.raises(StackError, match="the secret 'mlflow-admin' is empty"):
        mounted.secret("mlflow-admin")


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (
            "postgresql://u:p%40@h:5432/d?sslmode=verify-full",
            "postgresql+psycopg2://u:p%40@h:5432/d?sslmode=verify-full",
        ),
        ("postgres://u@h/d", "postgresql+psycopg2://u@h/d"),
        ("postgresql+psycopg2://u@h/d\n", "postgresql+psycopg2://u@h/d"),
    ],
)
def test_the_databases_address(given: str, made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mounted.ENV_SECRETS, str(tmp_path))
    (tmp_path / mounted.DATABASE_URL).write_text(given)
    assert mounted.database_url() == made


@pytest.mark.parametrize(
    "given", ["mysql://u:hidden@h/d", "postgresql://u:hidden@h", "postgresql://[x", "sqlite:///a.db"]
)
def test_another_database_is_refused_without_telling_its_password(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(mounted.ENV_SECRETS, str(tmp_path))
    (tmp_path / mounted.DATABASE_URL).write_text(given)
    with pytest.raises(StackError, match="names no PostgreSQL database") as refused:
        mounted.database_url()
    assert "hidden" not in str(refused.value)


def test_a_replica_is_a_secret_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own variable has a password: in a cluster it comes as a file, as the primary's does."""
    monkeypatch.setattr(os, "environ", {**os.environ, mounted.ENV_SECRETS: str(tmp_path)})
    for name in launch.SECRETS:
        (tmp_path / name).write_text("x")
    (tmp_path / mounted.DATABASE_URL).write_text("postgresql://u:p@primary/d")
    mounted.prepare(Home(tmp_path / "without"), 0)
    assert mounted.ENV_REPLICA not in os.environ
    (tmp_path / mounted.REPLICA_URL).write_text("postgresql://u:hidden@replica")
    with pytest.raises(StackError, match="the secret 'database-replica-url' names no PostgreSQL database"):
        mounted.prepare(Home(tmp_path / "wrong"), 0)
    (tmp_path / mounted.REPLICA_URL).write_text("postgresql://u:p@replica/d\n")
    mounted.prepare(Home(tmp_path / "with"), 0)
    assert os.environ[mounted.ENV_REPLICA] == "postgresql+psycopg2://u:p@replica/d"
    assert environment_variables.MLFLOW_READ_REPLICA_BACKEND_STORE_URI.name == mounted.ENV_REPLICA


def test_what_a_volumes_group_was_let_into_is_closed_again(tmp_path: Path) -> None:
    """With fsGroup, the kubelet gives group rights to every file of the volume."""
    for name in ("audit-key", "model-signing.pem"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o660)
    tmp_path.chmod(0o2770)
    mounted.close(tmp_path)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path, *tmp_path.iterdir())} == {0o700, 0o600}


def test_a_folder_without_a_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match="no usable pair"):
        tls.context(tmp_path)
    certificate(tmp_path)
    tls.context(tmp_path)
    (tmp_path / tls.KEY).write_text("no key")
    with pytest.raises(DescriptionError, match="no usable pair"):
        tls.context(tmp_path)


def test_text_for_prometheus() -> None:
    told = metrics.text(
        [("windtunnel_registry_models", {}, 3), ("windtunnel_registry_info", {"version": 'a"b\\c\nd'}, 1)]
    )
    assert told.splitlines() == [
        "# HELP windtunnel_registry_info 1, with the server's version as a label",
        "# TYPE windtunnel_registry_info gauge",
        'windtunnel_registry_info{version="a\\"b\\\\c\\nd"} 1',
        "# HELP windtunnel_registry_models Models with a governed version that is not deleted",
        "# TYPE windtunnel_registry_models gauge",
        "windtunnel_registry_models 3",
    ]
    with pytest.raises(KeyError):
        metrics.text([("something_else", {}, 1)])
