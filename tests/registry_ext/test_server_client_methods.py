"""Every public method of ``mlflow.MlflowClient`` that touches the registry, with what is expected of it.

The methods are found by reading MLflow's own source, so that a method of a newer MLflow fails here until somebody has
looked at it. Each is called against the real server. MLflow's registry of MCP servers is another one: it is part of
its tracking store, and no model can be reached through it.
"""

from __future__ import annotations

import inspect
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from windtunnel.registry.client import RegistryClient
from windtunnel.stackfile import read_secret

pytestmark = pytest.mark.real

PUBLIC = {
    name: inspect.getsource(inspect.unwrap(method))
    for name, method in inspect.getmembers(MlflowClient, inspect.isfunction)
}


def touching() -> set[str]:
    """Methods that reach the registry's client, themselves or through another method; and those of workspaces."""
    found = {name for name, source in PUBLIC.items() if "_get_registry_client" in source or "workspace" in name}
    while True:
        calls = {name: set(re.findall(r"self\.(\w+)\(", source)) for name, source in PUBLIC.items()}
        more = {name for name in PUBLIC if name not in found and calls[name] & found}
        if not more:
            return {name for name in found if not name.startswith("_")}
        found |= more


@dataclass
class Ground:
    """A model with champion 1 and candidate 2, a prompt, a place for webhooks; ``admin`` is MLflow's administrator."""

    client: MlflowClient
    admin: MlflowClient
    service: RegistryClient
    hands: Any
    model: str
    prompt: str
    hook: str

    def fresh(self) -> str:
        """A model without versions."""
        return str(self.hands.model())

    def version(self, tags: dict[str, str] | None = None) -> Any:
        """A sealed version 1 of a fresh model, made by MLflow's client."""
        run = self.hands.run()
        made = self.client.create_model_version(self.fresh(), f"runs:/{run}/model", run, tags=tags)
        return self.sealed(made.name)

    def sealed(self, model: str) -> Any:
        """Version 1, once its files are read."""
        deadline = time.monotonic() + 120
        while (found := self.client.get_model_version(model, "1")).status == "PENDING_REGISTRATION":
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found

    def webhook(self, **more: Any) -> Any:
        return self.admin.create_webhook("w", self.hook, ["registered_model.created"], **more)


def no(code: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """It is refused with this code (of ours, or of MLflow's)."""
    with pytest.raises(MlflowException) as refused:
        call(*args, **kwargs)
    found = f"{refused.value.error_code} {refused.value.message}"
    assert (f"[{code}]" if code.startswith("WT_") else code) in found, found


class Row(NamedTuple):
    """``works``: as in MLflow. ``guarded``: refused where the law says so. ``refused``: always."""

    expectation: Literal["works", "guarded", "refused"]
    why: str
    check: Callable[[Ground], Any]


TAG, OWN = ("team", "blue"), "windtunnel.digest"
TABLE: dict[str, Row] = {}


def row(expectation: Literal["works", "guarded", "refused"], why: str) -> Callable[[Callable[[Ground], Any]], Any]:
    def add(check: Callable[[Ground], Any]) -> Any:
        TABLE[check.__name__] = Row(expectation, why, check)
        return check

    return add


# -- models and versions


@row("guarded", "tags windtunnel.* are the registry's own")
def create_registered_model(g: Ground) -> None:
    assert g.client.create_registered_model(f"{g.model}-new", {TAG[0]: TAG[1]}, "said").tags == dict([TAG])
    no("WT_TAG", g.client.create_registered_model, f"{g.model}-other", {OWN: "x"})


@row("guarded", "a version's files must be the run's own, and are sealed")
def create_model_version(g: Ground) -> None:
    found = g.version(dict([TAG]))
    assert (found.version, found.status, found.tags) == ("1", "READY", dict([TAG]))
    run = g.hands.run()
    no("WT_TAG", g.client.create_model_version, g.fresh(), f"runs:/{run}/model", run, {OWN: "x"})
    foreign = f"mlflow-artifacts:/0/{run}/artifacts/model"
    no("INVALID_PARAMETER_VALUE", g.client.create_model_version, g.fresh(), foreign, g.hands.run())


@row("works", "the copy is a version of its own over the same sealed files")
def copy_model_version(g: Ground) -> None:
    target = g.fresh()
    copied = g.client.copy_model_version(f"models:/{g.model}/1", target)
    assert (copied.name, copied.version, copied.source) == (target, "1", f"models:/{g.model}/1")
    assert g.sealed(target).status == "READY"
    assert g.service.version(target, 1).digest == g.service.version(g.model, 1).digest


@row("works", "")
def get_registered_model(g: Ground) -> None:
    assert g.client.get_registered_model(g.model).aliases["champion"] == "1"


@row("works", "")
def search_registered_models(g: Ground) -> None:
    assert [m.name for m in g.client.search_registered_models(f"name = '{g.model}'")] == [g.model]


@row("works", "")
def update_registered_model(g: Ground) -> None:
    assert g.client.update_registered_model(g.model, "said").description == "said"


@row("guarded", "a governed model's history hangs on its name")
def rename_registered_model(g: Ground) -> None:
    name = g.fresh()
    g.client.rename_registered_model(name, f"{name}-b")
    assert g.client.get_registered_model(f"{name}-b").name == f"{name}-b"
    no("WT_RENAME", g.client.rename_registered_model, g.model, f"{g.model}-b")


@row("guarded", "not while it has a champion")
def delete_registered_model(g: Ground) -> None:
    name = g.fresh()
    g.client.delete_registered_model(name)
    no("RESOURCE_DOES_NOT_EXIST", g.client.get_registered_model, name)
    no("WT_CHAMPION", g.client.delete_registered_model, g.model)


@row("guarded", "tags windtunnel.* are the registry's own")
def set_registered_model_tag(g: Ground) -> None:
    g.client.set_registered_model_tag(g.model, *TAG)
    assert g.client.get_registered_model(g.model).tags[TAG[0]] == TAG[1]
    no("WT_TAG", g.client.set_registered_model_tag, g.model, OWN, "x")


@row("guarded", "tags windtunnel.* are the registry's own")
def delete_registered_model_tag(g: Ground) -> None:
    g.client.set_registered_model_tag(g.model, "gone", "x")
    g.client.delete_registered_model_tag(g.model, "gone")
    assert "gone" not in g.client.get_registered_model(g.model).tags
    no("WT_TAG", g.client.delete_registered_model_tag, g.model, OWN)


@row("guarded", "champion takes evidence, whoever asks")
def set_registered_model_alias(g: Ground) -> None:
    g.client.set_registered_model_alias(g.model, "blue", "2")
    assert g.client.get_model_version_by_alias(g.model, "blue").version == "2"
    no("WT_POLICY", g.client.set_registered_model_alias, g.model, "champion", "2")


@row("guarded", "the champion goes by a release or a withdrawal")
def delete_registered_model_alias(g: Ground) -> None:
    g.client.set_registered_model_alias(g.model, "green", "2")
    g.client.delete_registered_model_alias(g.model, "green")
    no("INVALID_PARAMETER_VALUE", g.client.get_model_version_by_alias, g.model, "green")
    no("WT_CHAMPION", g.client.delete_registered_model_alias, g.model, "champion")


@row("works", "")
def get_model_version_by_alias(g: Ground) -> None:
    assert g.client.get_model_version_by_alias(g.model, "champion").version == "1"


@row("works", "")
def get_model_version(g: Ground) -> None:
    assert g.client.get_model_version(g.model, "2").status == "READY"


@row("works", "")
def get_latest_versions(g: Ground) -> None:
    assert [v.version for v in g.client.get_latest_versions(g.model, ["Production"])] == ["1"]


@row("works", "")
def get_model_version_download_uri(g: Ground) -> None:
    assert g.client.get_model_version_download_uri(g.model, "1") == g.client.get_model_version(g.model, "1").source


@row("works", "")
def search_model_versions(g: Ground) -> None:
    assert {v.version for v in g.client.search_model_versions(f"name = '{g.model}'")} == {"1", "2"}


@row("works", "")
def update_model_version(g: Ground) -> None:
    assert g.client.update_model_version(g.model, "1", "said").description == "said"


@row("guarded", "tags windtunnel.* are the registry's own")
def set_model_version_tag(g: Ground) -> None:
    g.client.set_model_version_tag(g.model, "1", *TAG)
    assert g.client.get_model_version(g.model, "1").tags[TAG[0]] == TAG[1]
    no("WT_TAG", g.client.set_model_version_tag, g.model, "1", OWN, "x")


@row("guarded", "tags windtunnel.* are the registry's own")
def delete_model_version_tag(g: Ground) -> None:
    g.client.set_model_version_tag(g.model, "2", "gone", "x")
    g.client.delete_model_version_tag(g.model, "2", "gone")
    assert "gone" not in g.client.get_model_version(g.model, "2").tags
    no("WT_TAG", g.client.delete_model_version_tag, g.model, "2", OWN)


@row("guarded", "not the champion, and none that a release needs")
def delete_model_version(g: Ground) -> None:
    made = g.version()
    g.client.delete_model_version(made.name, "1")
    no("RESOURCE_DOES_NOT_EXIST", g.client.get_model_version, made.name, "1")
    no("WT_CHAMPION", g.client.delete_model_version, g.model, "1")


@row("guarded", "Production is the champion's")
def transition_model_version_stage(g: Ground) -> None:
    made = g.version()
    assert g.client.transition_model_version_stage(made.name, "1", "Staging").current_stage == "Staging"
    no("WT_POLICY", g.client.transition_model_version_stage, g.model, "2", "Production")
    no("WT_CHAMPION", g.client.transition_model_version_stage, g.model, "1", "Archived")


# -- prompts, which MLflow keeps as models


@row("works", "a prompt holds no model")
def register_prompt(g: Ground) -> None:
    assert g.client.register_prompt(f"{g.prompt}-r", "Say {{x}}").version == 1


@row("guarded", "a governed model cannot become a prompt")
def create_prompt(g: Ground) -> None:
    assert g.client.create_prompt(f"{g.prompt}-c").name == f"{g.prompt}-c"
    no("RESOURCE_ALREADY_EXISTS", g.client.create_prompt, g.model)


@row("guarded", "a governed model takes no prompt version")
def create_prompt_version(g: Ground) -> None:
    assert g.client.create_prompt_version(g.prompt, "Say more").version == 2
    no("WT_PROMPT", g.client.create_prompt_version, g.model, "x")


@row("works", "")
def get_prompt(g: Ground) -> None:
    assert g.client.get_prompt(g.prompt).name == g.prompt


@row("works", "")
def get_prompt_version(g: Ground) -> None:
    assert g.client.get_prompt_version(g.prompt, 1).template == "Say {{x}}"


@row("works", "")
def load_prompt(g: Ground) -> None:
    assert g.client.load_prompt(g.prompt, version=1).template == "Say {{x}}"


@row("works", "")
def parse_prompt_uri(g: Ground) -> None:
    assert g.client.parse_prompt_uri(f"prompts:/{g.prompt}/1") == (g.prompt, "1")


@row("works", "")
def search_prompts(g: Ground) -> None:
    assert [p.name for p in g.client.search_prompts(f"name = '{g.prompt}'")] == [g.prompt]


@row("works", "")
def search_prompt_versions(g: Ground) -> None:
    assert g.prompt in str([version.name for version in g.client.search_prompt_versions(g.prompt)])


@row("guarded", "a governed model is no prompt")
def set_prompt_alias(g: Ground) -> None:
    g.client.set_prompt_alias(g.prompt, "champion", 1)
    no("RESOURCE_DOES_NOT_EXIST", g.client.set_prompt_alias, g.model, "champion", 2)


@row("works", "")
def get_prompt_version_by_alias(g: Ground) -> None:
    g.client.set_prompt_alias(g.prompt, "read", 1)
    assert g.client.get_prompt_version_by_alias(g.prompt, "read").version == 1


@row("guarded", "the alias champion of a governed model is the champion's")
def delete_prompt_alias(g: Ground) -> None:
    g.client.set_prompt_alias(g.prompt, "gone", 1)
    g.client.delete_prompt_alias(g.prompt, "gone")
    no("WT_CHAMPION", g.client.delete_prompt_alias, g.model, "champion")


@row("guarded", "tags windtunnel.* are the registry's own")
def set_prompt_tag(g: Ground) -> None:
    g.client.set_prompt_tag(g.prompt, *TAG)
    no("WT_TAG", g.client.set_prompt_tag, g.model, OWN, "x")


@row("guarded", "tags windtunnel.* are the registry's own")
def delete_prompt_tag(g: Ground) -> None:
    g.client.set_prompt_tag(g.prompt, "gone", "x")
    g.client.delete_prompt_tag(g.prompt, "gone")
    no("WT_TAG", g.client.delete_prompt_tag, g.model, OWN)


@row("guarded", "tags windtunnel.* are the registry's own")
def set_prompt_version_tag(g: Ground) -> None:
    g.client.set_prompt_version_tag(g.prompt, 1, *TAG)
    no("WT_TAG", g.client.set_prompt_version_tag, g.model, 1, OWN, "x")


@row("guarded", "tags windtunnel.* are the registry's own")
def delete_prompt_version_tag(g: Ground) -> None:
    g.client.set_prompt_version_tag(g.prompt, 1, "gone", "x")
    g.client.delete_prompt_version_tag(g.prompt, 1, "gone")
    no("WT_TAG", g.client.delete_prompt_version_tag, g.model, 1, OWN)


@row("works", "")
def link_prompt_version_to_run(g: Ground) -> None:
    g.client.link_prompt_version_to_run(g.hands.run(), f"prompts:/{g.prompt}/1")


@row("works", "")
def list_logged_prompts(g: Ground) -> None:
    assert g.client.list_logged_prompts(g.hands.run()) == []


@row("works", "")
def detach_prompt_from_run(g: Ground) -> None:
    no("INVALID_PARAMETER_VALUE", g.client.detach_prompt_from_run, g.hands.run(), f"prompts:/{g.prompt}/1")


@row("works", "")
def link_prompt_version_to_model(g: Ground) -> None:
    logged = g.client.create_logged_model("0")
    g.client.link_prompt_version_to_model(g.prompt, "1", logged.model_id)
    assert g.prompt in str(g.client.get_logged_model(logged.model_id).tags)


@row("works", "")
def link_prompt_versions_to_trace(g: Ground) -> None:
    span = g.client.start_trace("t", experiment_id="0")
    g.client.end_trace(span.trace_id)
    g.client.link_prompt_versions_to_trace([g.client.get_prompt_version(g.prompt, 1)], span.trace_id)


@row("guarded", "a governed model is no prompt, and its champion stays")
def delete_prompt_version(g: Ground) -> None:
    name = f"{g.prompt}-v"
    g.client.register_prompt(name, "x")
    g.client.delete_prompt_version(name, "1")
    no("WT_CHAMPION", g.client.delete_prompt_version, g.model, "1")


@row("guarded", "a governed model is no prompt, and its champion stays")
def delete_prompt(g: Ground) -> None:
    name = f"{g.prompt}-d"
    g.client.create_prompt(name)
    g.client.delete_prompt(name)
    assert g.client.get_prompt(name) is None
    no("WT_CHAMPION", g.client.delete_prompt, g.model)


# -- webhooks: an administrator's, in MLflow as well


@row("guarded", "an administrator's; a secret needs a key that outlives the server")
def create_webhook(g: Ground) -> None:
    made = g.webhook()
    g.admin.delete_webhook(made.webhook_id)
    no("PERMISSION_DENIED", g.client.create_webhook, "w", g.hook, ["registered_model.created"])
    no("WT_WEBHOOK", g.webhook, secret="whsec_x")


@row("guarded", "an administrator's")
def get_webhook(g: Ground) -> None:
    made = g.webhook()
    assert g.admin.get_webhook(made.webhook_id).url == g.hook
    no("PERMISSION_DENIED", g.client.get_webhook, made.webhook_id)
    g.admin.delete_webhook(made.webhook_id)


@row("guarded", "an administrator's")
def list_webhooks(g: Ground) -> None:
    made = g.webhook()
    assert made.webhook_id in {hook.webhook_id for hook in g.admin.list_webhooks()}
    no("PERMISSION_DENIED", g.client.list_webhooks)
    g.admin.delete_webhook(made.webhook_id)


@row("guarded", "an administrator's; a secret needs a key that outlives the server")
def update_webhook(g: Ground) -> None:
    made = g.webhook()
    assert g.admin.update_webhook(made.webhook_id, description="said").description == "said"
    no("PERMISSION_DENIED", g.client.update_webhook, made.webhook_id, description="mine")
    no("WT_WEBHOOK", g.admin.update_webhook, made.webhook_id, secret="whsec_x")
    g.admin.delete_webhook(made.webhook_id)


@row("guarded", "an administrator's")
def delete_webhook(g: Ground) -> None:
    made = g.webhook()
    no("PERMISSION_DENIED", g.client.delete_webhook, made.webhook_id)
    g.admin.delete_webhook(made.webhook_id)
    no("RESOURCE_DOES_NOT_EXIST", g.admin.get_webhook, made.webhook_id)


@row("guarded", "an administrator's")
def test_webhook(g: Ground) -> None:
    made = g.webhook()
    assert g.admin.test_webhook(made.webhook_id).success
    no("PERMISSION_DENIED", g.client.test_webhook, made.webhook_id)
    g.admin.delete_webhook(made.webhook_id)


# Not a test of this file, though pytest would take it for one by its name.
del test_webhook

# -- workspaces: the governed store does not know them, and does not start with them


def _refused_workspaces() -> None:
    calls: dict[str, Callable[[Ground], Any]] = {
        "create_workspace": lambda g: g.admin.create_workspace("team-a"),
        "delete_workspace": lambda g: g.admin.delete_workspace("team-a"),
        "get_workspace": lambda g: g.admin.get_workspace("default"),
        "list_workspaces": lambda g: g.admin.list_workspaces(),
        "update_workspace": lambda g: g.admin.update_workspace("default", "said"),
    }
    for name, call in calls.items():
        TABLE[name] = Row("refused", "one installation, one workspace", lambda g, c=call: no("503", c, g))


_refused_workspaces()


@row("works", "MLflow's client only says which address it was made with")
def get_workspace_store_uri(g: Ground) -> None:
    assert g.client.get_workspace_store_uri() == g.client.tracking_uri


@pytest.fixture(scope="module")
def ground(registry_server: Any, helpers: Any) -> Iterator[Ground]:
    class Sink(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    sink = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    patch = pytest.MonkeyPatch()
    # MLflow answers 503 where workspaces are off, which its client would ask again for minutes.
    patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    # Links of prompts go to the process's own tracking store, whatever the client was made with.
    patch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", registry_server.url)

    def client(role: str) -> MlflowClient:
        return As(registry_server.url, role, read_secret(registry_server.home, f"mlflow-{role}"), patch)

    try:
        with registry_server.client() as service, registry_server.rest() as http:
            hands = helpers.Hands(http)
            model = hands.model()
            helpers.crown(service, hands, model)
            helpers.enter(service, hands, model, data="sha256:d2")
            mine = client("service")
            mine.register_prompt(f"prompt-{model}", "Say {{x}}")
            hook = f"http://127.0.0.1:{sink.server_port}/hook"
            yield Ground(mine, client("admin"), service, hands, model, f"prompt-{model}", hook)
    finally:
        patch.undo()
        sink.shutdown()
        sink.server_close()


class As(MlflowClient):  # type: ignore[misc]
    """MLflow's client as one user: its credential comes from the environment, which is set before every call."""

    def __init__(self, url: str, user: str, password: str, patch: pytest.MonkeyPatch) -> None:
        super().__init__(tracking_uri=url, registry_uri=url)
        self._as = (user, password, patch)

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            user, password, patch = object.__getattribute__(self, "_as")
            patch.setenv("MLFLOW_TRACKING_USERNAME", user)
            patch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        return super().__getattribute__(name)


def test_every_method_of_mlflows_client_is_in_the_table() -> None:
    assert touching() - set(TABLE) == set(), "new in this MLflow: decide what is expected of them"
    assert set(TABLE) - touching() == set(), "gone from this MLflow"


@pytest.mark.parametrize("method", sorted(TABLE))
def test_method(ground: Ground, method: str) -> None:
    """As the table says, against the real server."""
    expected = TABLE[method]
    assert expected.why or expected.expectation == "works"
    expected.check(ground)
