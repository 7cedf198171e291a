"""The governed registry answers like MLflow's own, but for a listed table of differences, each with its reason.

The same random program of registry calls runs over HTTP against a plain ``mlflow server`` and against ours, both with
MLflow's own auth. Every answer is compared. Where ours is to differ, ``EXCEPTIONS`` says when and why, and that it
does is asserted.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from windtunnel.stackfile import read_secret

pytestmark = pytest.mark.real

API = "/api/2.0/mlflow"
MODELS, RUNS, ALIASES = 2, 3, ("champion", "challenger", "blue")
STAGES = ("None", "Staging", "Production", "Archived")
#: Tags that only the registry sets.
OURS = "windtunnel."
#: Fields that no two servers share.
VOLATILE = {
    "creation_timestamp",
    "last_updated_timestamp",
    "user_id",
    "run_link",
    "metrics",
    "params",
    "model_params",
    "model_metrics",
}
_count = itertools.count()


@pytest.fixture(scope="module")
def plain(helpers: Any, registry_server: Any) -> Iterator[Any]:
    """MLflow's own server with its own auth app and a database of its own: a copy of one in which nothing was done."""
    server = helpers.RegistryServer(Path(tempfile.mkdtemp(prefix="wt-plain-")))
    server.home.mlflow.mkdir(parents=True, mode=0o700)
    shutil.copy(helpers.MIGRATED / "mlflow.db", server.home.mlflow)
    database = f"sqlite:///{server.home.mlflow / 'mlflow.db'}"
    argv = (
        sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--serve-artifacts",
        "--host", "127.0.0.1",
        "--port", str(server.port), "--workers", "1", "--registry-store-uri", database,
    )  # fmt: skip
    secrets = {
        "MLFLOW_AUTH_ADMIN_PASSWORD": read_secret(server.home, "mlflow-admin"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": read_secret(server.home, "mlflow-flask-key"),
    }
    former = {name: os.environ.get(name) for name in secrets}
    try:
        os.environ.update(secrets)
        try:
            server.start(argv)
        finally:
            for name, value in former.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.home.root, ignore_errors=True)


class Answer(NamedTuple):
    """One server's answer: HTTP status, MLflow's error code, and the body without what no two servers share."""

    status: int
    code: str
    body: Any


@dataclass
class Side:
    """One server, and how its names and numbers read in the language of the program."""

    http: httpx.Client
    runs: list[str]
    prefix: str = ""
    #: Of each model, this side's numbers of the program's versions, in the order of their creation.
    numbers: dict[int, list[int]] = field(default_factory=dict)

    def name(self, model: int) -> str:
        return f"{self.prefix}-{model}"

    def number(self, model: int, nth: int) -> str:
        known = self.numbers.get(model, [])
        return str(known[nth]) if nth < len(known) else "999"

    def call(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        sent = {"params": body} if method == "GET" else {"json": body}
        response = self.http.request(method, API + path, **sent)  # type: ignore[arg-type]
        found = response.json()
        return Answer(response.status_code, found.get("error_code", ""), found)

    def read(self, answer: Answer) -> Answer:
        """In the language of the program."""
        return Answer(answer.status, answer.code, None if answer.code else self._plain(answer.body))

    def _plain(self, body: Any, model: int | None = None) -> Any:
        if isinstance(body, list):
            # A version shows its origins as tags of the registry's own; a client's are compared.
            kept = (one for one in body if not (isinstance(one, dict) and str(one.get("key")).startswith(OURS)))
            return sorted((self._plain(one, model) for one in kept), key=repr)
        if not isinstance(body, dict):
            return self._text(body)
        found = re.fullmatch(rf"{self.prefix}-(\d)", str(body.get("name", "")))
        model = int(found[1]) if found else model
        told = {}
        for key, value in body.items():
            if key in VOLATILE:
                continue
            if key == "tags" and not self._plain(value, model):
                continue  # MLflow leaves out what is empty
            told[key] = self._nth(model, value) if key == "version" else self._plain(value, model)
        return told

    def _nth(self, model: int | None, number: Any) -> Any:
        known = self.numbers.get(model, []) if model is not None else []
        return f"#{known.index(int(number))}" if int(number) in known else number

    def _text(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        for nth, run in enumerate(self.runs):
            value = value.replace(run, f"RUN{nth}")
        return value.replace(self.prefix, "PREFIX")


Operation = dict[str, Any]

models = st.integers(0, MODELS - 1)
versions = st.integers(0, 2)
words = st.sampled_from(("", "a", "späß 'x'", '% _ " ;--'))
keys = st.sampled_from(("owner", "team.name", "a b/c", "windtunnel.digest"))


def calls(*names: str, **arguments: Any) -> st.SearchStrategy[Operation]:
    """One of these calls with such arguments."""
    of_model = {} if "by" in arguments else {"model": models}
    return st.fixed_dictionaries({"do": st.sampled_from(names), **of_model, **arguments})


OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    calls("create_model", "describe_model", text=words),
    calls("create_version", run=st.integers(0, RUNS - 1), text=words),
    calls("create_version", run=st.integers(0, RUNS - 1), text=words),
    calls("get_model", "delete_model", "latest"),
    calls("rename_model", to=models),
    calls("tag_model", key=keys, text=words),
    calls("untag_model", key=keys),
    calls("get_version", "delete_version", "download_uri", version=versions),
    calls("describe_version", version=versions, text=words),
    calls("tag_version", version=versions, key=keys, text=words),
    calls("untag_version", version=versions, key=keys),
    calls("set_alias", version=versions, alias=st.sampled_from(ALIASES)),
    calls("get_alias", "delete_alias", alias=st.sampled_from(ALIASES)),
    calls("transition", version=versions, stage=st.sampled_from(STAGES), archive=st.booleans()),
    calls("search_models", "search_versions", by=st.integers(0, 4)),
)


def request(side: Side, op: Operation) -> tuple[str, str, dict[str, Any]]:
    """The HTTP call of an operation on this side."""
    model = op.get("model", 0)
    name = side.name(model)
    version = side.number(model, op["version"]) if "version" in op else ""
    of = {"name": name, "version": version}
    tag = {"key": op.get("key"), "value": op.get("text")}
    mine = f"name LIKE '{side.prefix}%'"
    filters = (
        mine,
        f"name = '{side.name(0)}'",
        f"name ILIKE '{side.prefix.upper()}-1'",
        f"{mine} AND tags.owner = 'a'",
        f"{mine} AND nonsense = 3",
    )
    table: dict[str, tuple[str, str, dict[str, Any]]] = {
        "create_model": ("POST", "/registered-models/create", {"name": name, "description": op.get("text")}),
        "get_model": ("GET", "/registered-models/get", {"name": name}),
        "delete_model": ("DELETE", "/registered-models/delete", {"name": name}),
        "latest": ("POST", "/registered-models/get-latest-versions", {"name": name}),
        "rename_model": ("POST", "/registered-models/rename", {"name": name, "new_name": side.name(op.get("to", 0))}),
        "describe_model": ("PATCH", "/registered-models/update", {"name": name, "description": op.get("text")}),
        "tag_model": ("POST", "/registered-models/set-tag", {"name": name, **tag}),
        "untag_model": ("DELETE", "/registered-models/delete-tag", {"name": name, "key": op.get("key")}),
        "create_version": ("POST", "/model-versions/create", {
            "name": name, "source": f"runs:/{side.runs[op.get('run', 0)]}/model", "run_id": side.runs[op.get("run", 0)],
            "description": op.get("text"),
        }),
        "get_version": ("GET", "/model-versions/get", of),
        "delete_version": ("DELETE", "/model-versions/delete", of),
        "download_uri": ("GET", "/model-versions/get-download-uri", of),
        "describe_version": ("PATCH", "/model-versions/update", {**of, "description": op.get("text")}),
        "tag_version": ("POST", "/model-versions/set-tag", {**of, **tag}),
        "untag_version": ("DELETE", "/model-versions/delete-tag", {**of, "key": op.get("key")}),
        "set_alias": ("POST", "/registered-models/alias", {**of, "alias": op.get("alias")}),
        "get_alias": ("GET", "/registered-models/alias", {"name": name, "alias": op.get("alias")}),
        "delete_alias": ("DELETE", "/registered-models/alias", {"name": name, "alias": op.get("alias")}),
        "transition": ("POST", "/model-versions/transition-stage", {
            **of, "stage": op.get("stage"), "archive_existing_versions": op.get("archive"),
        }),
        "search_models": ("GET", "/registered-models/search", {"filter": filters[op.get("by", 0)]}),
        "search_versions": ("GET", "/model-versions/search", {"filter": filters[op.get("by", 0)]}),
    }  # fmt: skip
    return table[op["do"]]


class World:
    """Both sides, walked in step."""

    def __init__(self, theirs: Side, ours: Side) -> None:
        prefix = f"d{next(_count)}x{os.getpid()}"
        self.theirs = Side(theirs.http, theirs.runs, prefix)
        self.ours = Side(ours.http, ours.runs, prefix)
        self.highest: dict[int, int] = {}
        self.met: set[str] = set()
        self.story: list[Operation] = []

    def step(self, op: Operation) -> None:
        self.story.append(op)
        if op["do"] == "create_version":
            return self._create_version(op)
        expected = next((rule for rule in EXCEPTIONS if rule.when(self, op)), None)
        ours_raw = self.ours.call(*request(self.ours, op))
        if expected is not None:
            # Theirs is not asked, so both stay in step.
            assert ours_raw.status == 403 and ours_raw.body["message"].startswith(f"[{expected.code}]"), (op, ours_raw)
            self.met.add(expected.code)
            return None
        theirs_raw = self.theirs.call(*request(self.theirs, op))
        if ours_raw.status >= 400 and theirs_raw.status >= 400 and not self._there(op):
            return None  # both say no to what is not there; MLflow may have looked at something else first
        assert self.ours.read(ours_raw) == self.theirs.read(theirs_raw), (self.story[-1], self.story)
        if op["do"] == "delete_model" and theirs_raw.status == 200:
            self.theirs.numbers.pop(op["model"], None)
            self.ours.numbers.pop(op["model"], None)
        if op["do"] == "rename_model" and theirs_raw.status == 200:
            for side in (self.theirs, self.ours):
                side.numbers[op["to"]] = side.numbers.pop(op["model"], [])
        return None

    def _create_version(self, op: Operation) -> None:
        model = op["model"]
        known = list(self.ours.numbers.get(model, []))
        mine = self.ours.call(*request(self.ours, op))
        if mine.status == 200:
            number = int(mine.body["model_version"]["version"])
            if number in known:
                self.met.add("same run, same version")
                return  # MLflow would make a second version of the same files
            # Never reused, also after the model was deleted and made again.
            assert number > self.highest.get(model, 0)
            self.highest[model] = number
        other = self.theirs.call(*request(self.theirs, op))
        for side, answer in ((self.ours, mine), (self.theirs, other)):
            if answer.status == 200:
                side.numbers.setdefault(model, []).append(int(answer.body["model_version"]["version"]))
        if mine.status == 200:
            mine = self._sealed(model)
        if other.status == 200:
            at = {"name": self.theirs.name(model), "version": self.theirs.number(model, len(known))}
            other = self.theirs.call("GET", "/model-versions/get", at)
        assert self.ours.read(mine) == self.theirs.read(other), (self.story[-1], self.story)

    def _sealed(self, model: int) -> Answer:
        """Ours is PENDING_REGISTRATION until its files are read and sealed; MLflow's never was."""
        at = {"name": self.ours.name(model), "version": str(self.ours.numbers[model][-1])}
        deadline = time.monotonic() + 60
        while True:
            answer = self.ours.call("GET", "/model-versions/get", at)
            if answer.status != 200 or answer.body["model_version"]["status"] != "PENDING_REGISTRATION":
                return answer
            assert time.monotonic() < deadline, answer
            time.sleep(0.02)

    def _there(self, op: Operation) -> bool:
        return "model" not in op or self.exists(op["model"], op.get("version"))

    def exists(self, model: int, version: int | None = None) -> bool:
        if version is None:
            return self.theirs.call("GET", "/registered-models/get", {"name": self.theirs.name(model)}).status == 200
        at = {"name": self.theirs.name(model), "version": self.theirs.number(model, version)}
        return self.theirs.call("GET", "/model-versions/get", at).status == 200


class Rule(NamedTuple):
    """Where ours refuses what MLflow does, and why."""

    code: str
    why: str
    when: Callable[[World, Operation], bool]


EXCEPTIONS = (
    Rule(
        "WT_TAG",
        "tags windtunnel.* are the registry's own words; a client cannot say them",
        lambda world, op: str(op.get("key", "")).startswith("windtunnel."),
    ),
    Rule(
        "WT_POLICY",
        "becoming champion takes evidence, whoever asks",
        lambda world, op: (
            op["do"] == "set_alias" and op["alias"] == "champion" and world.exists(op["model"], op["version"])
        ),
    ),
    Rule(
        "WT_POLICY",
        "the stage Production is the champion's",
        lambda world, op: (
            op["do"] == "transition" and op["stage"] == "Production" and world.exists(op["model"], op["version"])
        ),
    ),
    Rule(
        "WT_RENAME",
        "a governed model's history hangs on its name",
        lambda world, op: (
            op["do"] == "rename_model"
            and world.exists(op["model"])
            and any(world.highest.get(which) for which in (op["model"], op["to"]))
        ),
    ),
)


@pytest.fixture(scope="module")
def sides(plain: Any, registry_server: Any, helpers: Any) -> Iterator[tuple[Side, Side]]:
    with plain.rest("admin") as theirs, registry_server.rest("admin") as ours:
        yield tuple(Side(http, [helpers.Hands(http).run() for _ in range(RUNS)]) for http in (theirs, ours))  # type: ignore[misc]


@settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
@given(program=st.lists(OPERATIONS, min_size=5, max_size=25))
def test_every_program_is_answered_alike(sides: tuple[Side, Side], program: list[Operation]) -> None:
    world = World(*sides)
    for op in (
        {"do": "create_model", "model": 0, "text": "a"},
        {"do": "create_version", "model": 0, "run": 0, "text": ""},
        *program,
    ):
        world.step(op)


def test_every_exception_is_met(sides: tuple[Side, Side]) -> None:
    """A difference that no program shows is no longer one."""
    world = World(*sides)
    program: list[Operation] = [
        {"do": "create_model", "model": 0, "text": ""},
        {"do": "create_version", "model": 0, "run": 0, "text": ""},
        {"do": "create_version", "model": 0, "run": 0, "text": ""},
        {"do": "tag_model", "model": 0, "key": "windtunnel.digest", "text": "x"},
        {"do": "untag_version", "model": 0, "version": 0, "key": "windtunnel.digest"},
        {"do": "set_alias", "model": 0, "version": 0, "alias": "champion"},
        {"do": "transition", "model": 0, "version": 0, "stage": "Production", "archive": True},
        {"do": "rename_model", "model": 0, "to": 1},
        {"do": "delete_model", "model": 0},
        {"do": "create_model", "model": 0, "text": ""},
        {"do": "create_version", "model": 0, "run": 0, "text": ""},
    ]
    for op in program:
        world.step(op)
    assert world.met == {rule.code for rule in EXCEPTIONS} | {"same run, same version"}
    # Deleted and made again: MLflow begins at 1 again, ours goes on.
    assert world.theirs.numbers[0] == [1]
    assert world.ours.numbers[0] == [2]
