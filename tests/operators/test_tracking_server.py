"""The MLflow hook and operators: what goes over the wire, what is tried again, how an answer is judged.

The wire is played by httpx's own mock transport; real servers are in tests/registry_ext/test_server_airflow.py.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from windtunnel.errors import DescriptionError, NotFoundError, RefusedError, RegistryError, UnavailableError
from windtunnel_airflow.hook import WindtunnelHook
from windtunnel_airflow.tracking_server import deployments, environments, models, predicting, runs, versions
from windtunnel_airflow.tracking_server.conditions import judge, question
from windtunnel_airflow.tracking_server.hook import MlflowHook
from windtunnel_airflow.tracking_server.rest import Address, MlflowRest
from windtunnel_airflow.tracking_server.watching import KINDS, EventStream, registry_changes


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., MlflowHook]:
    def make(**fields: Any) -> MlflowHook:
        monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", **fields}))
        return MlflowHook()

    return make


def wire(*answers: httpx.Response | Exception, **more: Any) -> tuple[MlflowRest, list[httpx.Request]]:
    """A client whose server gives these answers in turn, and what it was asked."""
    asked: list[httpx.Request] = []
    left = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    address = Address("http://there", attempts=3, **more)
    return MlflowRest(address, transport=httpx.MockTransport(answer), pause=0), asked


def ok(**body: Any) -> httpx.Response:
    return httpx.Response(200, json=body)


def no(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"error_code": code, "message": "because"})


# -- the connection


@pytest.mark.parametrize(
    ("fields", "url", "headers"),
    [
        ({"host": "there", "port": 5000}, "http://there:5000", {}),
        ({"host": "there", "schema": "https"}, "https://there", {}),
        ({"host": "https://there/", "extra": {"token": "t"}}, "https://there", {"authorization": "Bearer t"}),
        ({"host": "https://there", "login": "token", "password": "t"}, "https://there", {"authorization": "Bearer t"}),
        ({"host": "http://there", "login": "a", "password": "b"}, "http://there", {"authorization": "Basic YTpi"}),
        ({"host": "http://there", "extra": {"headers": {"X-Team": "sea"}}}, "http://there", {"x-team": "sea"}),
    ],
)
def test_the_connection_says_who_we_are(
    connect: Callable[..., MlflowHook], fields: dict[str, Any], url: str, headers: dict[str, str]
) -> None:
    address = connect(**fields).address
    seen: list[httpx.Request] = []
    transport = httpx.MockTransport(lambda request: seen.append(request) or ok())  # type: ignore[func-returns-value]
    MlflowRest(address, transport=transport).get("/x")
    assert address.url == url
    assert {name: seen[0].headers.get(name) for name in headers} == headers
    assert "t" not in repr(address).split("url=")[0]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"host": "sqlite:///x.db"}, "no http or https URL"),
        ({"host": "https://there", "extra": {"ca": "/nowhere.pem"}}, "nowhere.pem"),
        ({"host": "https://there", "extra": {"verify": "perhaps"}}, "expected true or false"),
        ({"host": "https://there", "extra": {"headers": "X: y"}}, "expected an object"),
    ],
)
def test_a_connection_that_cannot_be_used_is_told(connect: Any, fields: dict[str, Any], words: str) -> None:
    hook = connect(**fields)
    with pytest.raises(DescriptionError, match=words):
        _ = hook.rest
    good, told = hook.test_connection()
    assert not good and words in told


def test_mlflows_own_client_gets_this_server_and_no_other(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "of another server")
    hook = connect(host="https://there", extra={"token": "t", "verify": False})
    with hook.mlflow_environment():
        assert "MLFLOW_TRACKING_USERNAME" not in os.environ
        assert (os.environ["MLFLOW_TRACKING_TOKEN"], os.environ["MLFLOW_TRACKING_INSECURE_TLS"]) == ("t", "true")
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "of another server"
    assert "MLFLOW_TRACKING_TOKEN" not in os.environ
    assert hook.version_url("a b/c", "1") == "https://there/#/models/a%20b%2Fc/versions/1"


def test_an_address_set_in_this_process_comes_back(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    hook = connect(host="https://there")
    try:
        for before in ("http://mine:1", None):
            mlflow.set_tracking_uri(before)
            untouched = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
            with hook.mlflow() as client:
                assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == ("https://there", "https://there")
                assert client.tracking_uri == "https://there"
            assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == untouched
    finally:
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def with_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """Port of a server whose certificate only its own authority vouches for, and that authority's file."""
    folder = tmp_path_factory.mktemp("tls")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority = folder / "ca.pem"
    authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"frozen": False, "authorization": self.headers["Authorization"]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    secured = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secured.load_cert_chain(authority, folder / "key.pem")
    server.socket = secured.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, str(authority)
    server.shutdown()
    server.server_close()


def test_the_registry_is_believed_by_the_connections_authority(
    with_tls: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND OPS-10."""
    port, authority = with_tls

    def asked(**extra: Any) -> Any:
        fields = {"conn_type": "windtunnel", "host": "https://localhost", "port": port, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(fields))
        with WindtunnelHook().registry as registry:
            return registry._call("GET", "/freeze")

    assert asked(ca=authority, token="t")["authorization"] == "Bearer t"
    assert asked(verify=False, token="t")["authorization"] == "Bearer t"
    with pytest.raises(UnavailableError, match=r"(?i)certificate"):
        asked(token="t")


# -- the wire


def test_what_is_not_now_is_asked_again() -> None:
    rest, asked = wire(httpx.ConnectError("no"), no(503, "TEMPORARILY_UNAVAILABLE"), ok(run={}))
    assert rest.get("/runs/get", run_id="r") == {"run": {}}
    assert len(asked) == 3
    rest, asked = wire(*[no(503, "X")] * 3)
    with pytest.raises(UnavailableError, match=r"runs/get \(run_id='r'\).*because"):
        rest.get("/runs/get", run_id="r")
    assert len(asked) == 3


def test_a_file_of_the_artifact_store_comes_with_the_connections_credentials() -> None:
    rest, asked = wire(httpx.Response(200, content=b"flavors: {}"), token="t")
    assert rest.file("1/run 7/MLmodel") == b"flavors: {}"
    assert asked[0].url.raw_path == b"/api/2.0/mlflow-artifacts/artifacts/1/run%207/MLmodel"
    assert asked[0].headers["authorization"] == "Bearer t"
    with pytest.raises(NotFoundError):
        wire(no(404, "RESOURCE_DOES_NOT_EXIST"))[0].file("nothing")


def test_a_request_that_may_have_been_done_is_not_repeated_unless_it_may() -> None:
    rest, asked = wire(httpx.ReadTimeout("lost"), ok())
    with pytest.raises(UnavailableError, match="1 attempts"):
        rest.send("POST", "/runs/create", repeat=False, experiment_id="0")
    assert len(asked) == 1
    rest, asked = wire(httpx.ReadTimeout("lost"), ok())
    rest.send("POST", "/registered-models/alias", name="m", alias="a", version="1")
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (no(404, "RESOURCE_DOES_NOT_EXIST"), NotFoundError),
        (httpx.Response(401, text="who?"), RefusedError),
        (no(403, "WT_POLICY"), RefusedError),
        (no(400, "INVALID_PARAMETER_VALUE"), RegistryError),
        (httpx.Response(200, text="<html>"), UnavailableError),
    ],
)
def test_errors_name_what_was_asked(answer: httpx.Response, error: type[Exception]) -> None:
    rest, _ = wire(answer)
    with pytest.raises(error, match=r"GET /api/2\.0/mlflow/registered-models/get"):
        rest.get("/registered-models/get", name="sea")


MODEL = {"name": "sea", "aliases": [{"alias": "blue", "version": "2"}]}
VERSION = {"name": "sea", "version": "3", "status": "READY", "current_stage": "None"}


@pytest.mark.parametrize(
    ("operator", "answers", "requests"),
    [
        (
            models.SetModelAliasOperator(task_id="t", name="sea", alias="blue", version=3),
            [ok(registered_model=MODEL), ok()],
            ["GET registered-models/get?name=sea", {"name": "sea", "alias": "blue", "version": "3"}],
        ),
        (
            models.SetModelAliasOperator(task_id="t", name="sea", alias="blue", version="2"),
            [ok(registered_model=MODEL)],
            ["GET registered-models/get?name=sea"],
        ),
        (
            versions.TransitionModelVersionStageOperator(task_id="t", name="sea", version=3, stage="Staging"),
            [ok(model_version=VERSION)],
            [{"name": "sea", "version": "3", "stage": "Staging", "archive_existing_versions": False}],
        ),
        (
            versions.CreateModelVersionOperator(task_id="t", name="sea", source="s3://b/m", key="k"),
            [ok(), ok(), ok(model_version=VERSION), ok(model_version=VERSION)],
            [
                {"name": "sea"},
                "GET model-versions/search?filter=name = 'sea' AND tag.airflow_request = 'k'&max_results=1",
                {"name": "sea", "source": "s3://b/m", "tags": [{"key": "airflow_request", "value": "k"}]},
                "GET model-versions/get?name=sea&version=3",
            ],
        ),
        (
            runs.LogToRunOperator(task_id="t", run_id="r", metrics={"x": float("nan")}, step=2),
            [ok(), ok(run={"info": {"run_id": "r", "experiment_id": "0", "status": "RUNNING"}})],
            [
                {
                    "run_id": "r", "params": [], "tags": [],
                    "metrics": [{"key": "x", "value": "NaN", "timestamp": 1000, "step": 2}],
                },
                "GET runs/get?run_id=r",
            ],
        ),
    ],
)  # fmt: skip
def test_what_goes_over_the_wire(connect: Any, operator: Any, answers: list[Any], requests: list[Any]) -> None:
    connect(host="http://there")
    rest, asked = wire(*answers)
    operator.hook._rest = rest
    start = SimpleNamespace(timestamp=lambda: 1.0)
    operator.execute(
        {"ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t"), "dag_run": SimpleNamespace(start_date=start)}
    )
    told = []
    for request in asked:
        path = request.url.path.removeprefix("/api/2.0/mlflow/")
        query = "&".join(f"{key}={value}" for key, value in request.url.params.items())
        told.append(json.loads(request.content) if request.content else f"{request.method} {path}?{query}")
    assert told == requests


@pytest.mark.parametrize("name", ["", None, "None"])
def test_a_template_that_came_out_empty_is_told(connect: Any, name: Any) -> None:
    connect(host="http://there")
    with pytest.raises(DescriptionError, match="task 'get': name"):
        models.GetRegisteredModelOperator(task_id="get", name=name).execute({})


# -- conditions


@pytest.mark.parametrize(
    ("condition", "answer", "state"),
    [
        ({"kind": "version", "name": "m", "version": "1"}, None, "wait"),
        ({"kind": "version", "name": "m", "version": "1"}, {"status": "PENDING_REGISTRATION"}, "wait"),
        ({"kind": "version", "name": "m", "version": "1"}, {"status": "READY"}, "met"),
        ({"kind": "version", "name": "m", "version": "1"}, {"status": "FAILED_REGISTRATION"}, "failed"),
        ({"kind": "stage", "name": "m", "stage": "production", "version": "1"}, {"stage": "Production"}, "met"),
        ({"kind": "stage", "name": "m", "stage": "Production", "version": "1"}, {"stage": "Staging"}, "wait"),
        ({"kind": "stage", "name": "m", "stage": "Production"}, {"latest": {"Production": "4"}}, "met"),
        ({"kind": "stage", "name": "m", "stage": "Production"}, {"latest": {"None": "4"}}, "wait"),
        ({"kind": "alias", "name": "m", "alias": "a"}, {"aliases": {}}, "wait"),
        ({"kind": "alias", "name": "m", "alias": "a"}, {"aliases": {"a": "1"}}, "met"),
        ({"kind": "alias", "name": "m", "alias": "a", "version": "2"}, {"aliases": {"a": "1"}}, "wait"),
        ({"kind": "alias", "name": "m", "alias": "a", "changed_from": "1"}, {"aliases": {"a": "1"}}, "wait"),
        ({"kind": "alias", "name": "m", "alias": "a", "changed_from": "1"}, {"aliases": {"a": "2"}}, "met"),
        ({"kind": "run", "run_id": "r", "statuses": ["FINISHED"]}, {"status": "RUNNING"}, "wait"),
        ({"kind": "run", "run_id": "r", "statuses": ["FINISHED"]}, {"status": "KILLED"}, "failed"),
        ({"kind": "run", "run_id": "r", "statuses": ["FINISHED", "KILLED"]}, {"status": "KILLED"}, "met"),
        ({"kind": "run", "run_id": "r", "statuses": ["FINISHED"]}, None, "failed"),
    ],
)  # fmt: skip
def test_answers_are_judged(condition: dict[str, Any], answer: Any, state: str) -> None:
    assert judge(condition, answer).state == state
    assert question(condition)[0] in ("version", "model", "run")


# -- the registry's events


def raw(**more: Any) -> dict[str, Any]:
    given = {"seq": 7, "id": "i", "kind": "alias", "model": "sea", "version": "2", "digest": None, "alias": "Blue"}
    return {**given, "stage": None, "actor": "a", "cause": "c", "correlation_id": "s", **more}


def test_a_watcher_takes_what_it_watches_for() -> None:
    trigger: Any = registry_changes("sea", "alias", alias="blue").watchers[0].trigger
    told = trigger.payload(raw())
    assert {key: told[key] for key in ("v", "model", "version", "digest", "correlation_id", "cause")} == {
        "v": 1, "model": "sea", "version": "2", "digest": None, "correlation_id": "s", "cause": "c",
    }  # fmt: skip
    assert [
        trigger.payload(raw(**other)) for other in ({"alias": "x"}, {"model": "m"}, {"kind": "stage", "stage": "x"})
    ] == [None] * 3
    lost = trigger.payload({"lost": "gone", "seq": 3})
    assert (lost["kind"], lost["cause"], lost["model"]) == ("lost", "gone", "sea")
    assert registry_changes("sea", "stage", stage="Production").uri == "windtunnel://sea/registry/stage/production"


@pytest.mark.parametrize(
    "given", [{"kind": "weather"}, {"alias": "blue"}, {"kind": "alias", "stage": "x"}, {"poll": 0}]
)
def test_a_watcher_that_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(DescriptionError):
        registry_changes("sea", **given)


def test_kinds_are_the_registrys() -> None:
    from windtunnel_mlflow.ledger import outbox

    assert {*KINDS} <= {*outbox.KINDS}


def test_an_event_airflow_did_not_keep_comes_again() -> None:
    import asyncio

    from airflow.triggers.shared_stream import AdvanceItem, AdvanceOutcome

    stream = EventStream("a", "c", 1.0, store=SimpleNamespace())
    with pytest.raises(RuntimeError, match="sent again"):
        asyncio.run(stream.advance([AdvanceItem(3, AdvanceOutcome(acked=0, failed=1))]))


# -- deployments: MLflow's own client and plugin registry, a target that keeps deployments in memory


@pytest.fixture
def target(connect: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    from mlflow.deployments import BaseDeploymentClient
    from mlflow.deployments.interface import plugin_store

    connect(host="http://there")
    kept: dict[str, Any] = {}

    class Client(BaseDeploymentClient):  # type: ignore[misc]
        def create_deployment(self, name, model_uri, flavor=None, config=None, endpoint=None):  # type: ignore[no-untyped-def]
            kept[name] = {"name": name, "model_uri": model_uri, "config": config}
            return {"name": name, "flavor": flavor}

        def update_deployment(self, name, model_uri=None, flavor=None, config=None, endpoint=None):  # type: ignore[no-untyped-def]
            return self.create_deployment(name, model_uri, flavor, config)

        def delete_deployment(self, name, config=None, endpoint=None):  # type: ignore[no-untyped-def]
            del kept[name]

        def list_deployments(self, endpoint=None):  # type: ignore[no-untyped-def]
            return list(kept.values())

        def get_deployment(self, name, endpoint=None):  # type: ignore[no-untyped-def]
            return kept[name]

        def predict(self, deployment_name=None, inputs=None, endpoint=None):  # type: ignore[no-untyped-def]
            import os

            assert os.environ["WT_TARGET_KEY"] == "k"
            return inputs["a"].to_numpy() * 2

    module = ModuleType("wt_memory_target")
    module.__dict__.update(Client=Client, run_local=lambda *a, **k: None, target_help=lambda: "")
    monkeypatch.setitem(plugin_store.registry, "wtmemory", module)
    return kept


def test_deployments(target: dict[str, Any], tmp_path: Path) -> None:
    import os

    to = {"task_id": "t", "target_uri": "wtmemory", "target_env": {"WT_TARGET_KEY": "k"}}
    new = [
        deployments.CreateDeploymentOperator(name="sea", model_uri=f"models:/sea/{n}", **to).execute({})["new"]
        for n in (1, 2)
    ]
    assert new == [True, False]
    assert deployments.GetDeploymentOperator(name="sea", **to).execute({})["model_uri"] == "models:/sea/2"
    assert [one["name"] for one in deployments.ListDeploymentsOperator(**to).execute({})] == ["sea"]
    rows = [{"a": 1.0}, {"a": 2.0}]
    assert deployments.PredictDeploymentOperator(name="sea", inputs=rows, **to).execute({}) == [2.0, 4.0]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    paths = {"inputs_path": str(tmp_path / "rows.json"), "output_path": str(tmp_path / "out.json")}
    assert deployments.PredictDeploymentOperator(name="sea", **paths, **to).execute({})["rows"] == 2
    assert json.loads((tmp_path / "out.json").read_text()) == [2.0, 4.0]
    assert "WT_TARGET_KEY" not in os.environ
    ends = [deployments.DeleteDeploymentOperator(name="sea", **to).execute({})["deleted"] for _ in range(2)]
    assert ends == [True, False] and target == {}
    with pytest.raises(DescriptionError, match="knows no deployment target"):
        deployments.ListDeploymentsOperator(**{**to, "target_uri": "nowhere"}).execute({})


# -- predicting


def test_the_programs_imports_are_its_own() -> None:
    """It runs in a model's environment, where there is neither Windtunnel nor Airflow."""
    text = Path(predicting.__file__).read_text(encoding="utf-8")
    assert "import windtunnel" not in text and "from windtunnel" not in text and "import airflow" not in text


def test_a_models_process_gets_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_PASSWORD", "AIRFLOW_CONN_X", "AIRFLOW__CORE__FERNET_KEY", "OURS"):
        monkeypatch.setenv(name, "x")
    found = environments.child_environment()
    assert "OURS" in found and not [
        name for name in found if name.startswith(("MLFLOW_TRACKING", "AIRFLOW__", "AIRFLOW_CONN"))
    ]
