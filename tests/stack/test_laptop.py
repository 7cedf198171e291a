"""``windtunnel cluster``: which commands it runs, and what it leaves when one fails.

kind, minikube, Docker, kubectl and Helm are scripts that write down how they were called; no real one is at hand. The
plan is held against the chart, the recipes and the pages.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakelaptop import ROOT, Bench
from typer.testing import CliRunner

from windtunnel.cli.app import app
from windtunnel.errors import StackError
from windtunnel.stack.laptop import Laptop, dags, plan, secrets
from windtunnel.stack.laptop.parts import Step


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


IN = "--namespace windtunnel"
K, H = "kubectl --context kind-windtunnel", "helm --kube-context kind-windtunnel"
SERVERS = "release=airflow,component in (api-server,scheduler,dag-processor,triggerer)"


def test_the_commands_in_their_order(bench: Bench) -> None:
    done = bench.up()
    assert done.exit_code == 0, done.exception
    python, airflow = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    assert bench.asked() == [
        "docker buildx imagetools inspect docker.io/library/python:3.12-slim-bookworm --format {{.Manifest.Digest}}",
        f"docker build --file docker/registry/Dockerfile --build-arg PYTHON_DIGEST={python}"
        " --tag windtunnel/registry:0.1.0 .",
        "docker buildx imagetools inspect docker.io/apache/airflow:slim-3.3.2-python3.12 --format {{.Manifest.Digest}}",
        f"docker build --file docker/airflow/Dockerfile --build-arg PYTHON_DIGEST={python}"
        f" --build-arg AIRFLOW_DIGEST={airflow} --tag windtunnel/airflow:0.1.0 .",
        "kind get clusters",
        "kind create cluster --name windtunnel --wait 5m",
        "kind load docker-image windtunnel/registry:0.1.0 windtunnel/airflow:0.1.0 --name windtunnel",
        f"{K} get namespace windtunnel",
        f"{K} create namespace windtunnel",
        f"{K} get secret windtunnel windtunnel-airflow windtunnel-airflow-database {IN}",
        f"{K} create {IN} --filename -",
        f"{H} upgrade --install windtunnel helm/windtunnel {IN}"
        " --values helm/windtunnel/values-small.yaml --wait --timeout 15m",
        f"{H} upgrade --install airflow airflow --repo https://airflow.apache.org --version 1.22.0 {IN}"
        " --values helm/windtunnel/values-airflow-small.yaml --timeout 15m",
        f"{K} wait --for=condition=Ready pod {IN} --selector {SERVERS} --timeout=15m",
        f"{H} test windtunnel {IN} --logs",
    ]
    assert "$ kind create cluster --name windtunnel" in done.stderr, "every command is printed"
    assert "said by helm" in done.stderr, "and what it says"


def test_no_secret_stands_in_a_command_or_is_printed(bench: Bench) -> None:
    done = bench.up()
    (given,) = [one["stdin"] for one in bench.calls() if one["stdin"]]
    values = [value for item in json.loads(given)["items"] for value in item["stringData"].values()]
    assert len(values) == 10 and not any(value in done.stderr + done.stdout for value in values)


def test_a_second_time_keeps_the_cluster_and_its_secrets(bench: Bench) -> None:
    bench.up()
    bench.calls()
    done = bench.up("--no-build")
    asked = bench.asked()
    assert done.exit_code == 0 and "brought up to date" in done.stderr
    assert "DAGs:         none yet" in done.stderr, "what is not there is said"
    assert not [one for one in asked if one.startswith("docker ") or " create " in one]
    assert [one for one in asked if " upgrade --install " in one]


@pytest.mark.parametrize(
    ("fail", "named"),
    [
        ("imagetools inspect docker.io/library", "cannot look up the digest of docker.io/library/python:3.12"),
        ("docker build --file docker/airflow", "cannot build the image airflow"),
        ("create cluster", "cannot make the cluster"),
        ("load docker-image", "cannot load the images"),
        ("create namespace", "cannot make the namespace"),
        ("--filename -", "cannot make the secrets"),
        ("install windtunnel", "cannot install the registry"),
        ("install airflow", "cannot install Airflow"),
        ("wait --for", "cannot wait for Airflow"),
        ("test windtunnel", "cannot check the registry"),
    ],
)
def test_a_failure_is_named_and_leaves_nothing(bench: Bench, fail: str, named: str) -> None:
    done = bench.up(fail=fail)
    assert isinstance(done.exception, StackError)
    assert named in done.exception.message and done.exception.hint
    begun = "docker" not in fail or "load" in fail
    if "imagetools" not in fail:
        assert f"it went wrong: {fail}" in done.exception.message
    asked = bench.asked()
    deleted = [one for one in asked if one == "kind delete cluster --name windtunnel"]
    assert len(deleted) == (1 if begun and "imagetools" not in fail else 0)
    assert asked.index(deleted[0]) == len(asked) - 1 if deleted else True
    assert bench.run("status").stdout.startswith("there is no kind cluster")


def test_a_cluster_that_was_there_is_not_deleted_by_a_failure(bench: Bench) -> None:
    bench.up()
    bench.calls()
    assert isinstance(bench.up(fail="install airflow").exception, StackError)
    assert not [one for one in bench.asked() if "delete" in one]


def test_what_cannot_be_taken_away_is_told(bench: Bench) -> None:
    bench.install("kind")
    done = bench.up(fail="cluster --name")  # neither made nor deleted
    assert isinstance(done.exception, StackError) and "cannot make the cluster" in done.exception.message
    assert "delete it yourself" in done.stderr


def test_down(bench: Bench) -> None:
    assert "there is no kind cluster windtunnel" in bench.run("down", "--yes").stderr
    bench.up()
    bench.calls()
    refused = CliRunner().invoke(app, ["cluster", "down"], input="n\n")
    assert refused.exit_code == 1 and bench.asked() == []
    assert "deleted: windtunnel" in bench.run("down", "--yes").stderr
    assert bench.asked() == ["kind get clusters", "kind delete cluster --name windtunnel"]


def pod(name: str, phase: str, ready: str, waits: str | None = None) -> dict[str, Any]:
    state = {"waiting": {"reason": waits}} if waits else {"running": {}}
    status = {
        "phase": phase,
        "conditions": [{"type": "Ready", "status": ready}],
        "containerStatuses": [{"state": state}],
    }
    return {"metadata": {"name": name}, "status": status}


def test_status(bench: Bench) -> None:
    bench.up()
    pods = [pod("registry-0", "Running", "True"), pod("migrate", "Succeeded", "False")]
    (bench.root / "pods").write_text(json.dumps({"items": pods}))
    assert bench.run("status").exit_code == 0
    pods.append(pod("airflow", "Pending", "False", "ImagePullBackOff"))
    (bench.root / "pods").write_text(json.dumps({"items": pods}))
    done = bench.run("status", "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 1 and told["schema"] == "windtunnel.cluster/1" and not told["ok"]
    assert told["pods"][2] == {"name": "airflow", "ready": False, "says": "ImagePullBackOff"}
    failed = bench.run("status", fail="get pods")
    assert isinstance(failed.exception, StackError) and "does not answer" in failed.exception.message


def test_minikube(bench: Bench) -> None:
    bench.remove("kind")
    bench.install("minikube")
    assert bench.up().exit_code == 0
    asked = bench.asked()
    assert "minikube start --profile windtunnel --memory 8g --cpus 4" in asked
    assert "minikube image load windtunnel/airflow:0.1.0 --profile windtunnel" in asked
    assert [one for one in asked if one.startswith("kubectl")] and all(
        "--context windtunnel" in one for one in asked if one.startswith("kubectl")
    )
    assert bench.run("down", "--yes").exit_code == 0
    assert bench.asked()[-1] == "minikube delete --profile windtunnel"


@pytest.mark.parametrize(
    ("missing", "message", "hint"),
    [
        (["kind"], "neither kind nor minikube", "https://kind.sigs.k8s.io"),
        (["helm"], "not found on the PATH: helm", "https://helm.sh"),
        (["docker", "kubectl"], "not found on the PATH: docker, kubectl", "https://docs.docker.com"),
    ],
)
def test_what_is_not_installed_is_named_before_anything_runs(
    bench: Bench, missing: list[str], message: str, hint: str
) -> None:
    bench.remove(*missing)
    done = bench.up()
    assert isinstance(done.exception, StackError)
    assert message in done.exception.message and hint in str(done.exception.hint)
    assert bench.asked() == []


def test_bad_input(bench: Bench, tmp_path: Path) -> None:
    done = bench.run("up", "--checkout", str(tmp_path))
    assert isinstance(done.exception, StackError) and "--checkout" in str(done.exception.hint)
    done = bench.up("--name", "Wind Tunnel")
    assert isinstance(done.exception, StackError) and "cannot name a cluster" in done.exception.message
    assert bench.asked() == []


def test_a_dry_run_prints_the_plan_and_does_nothing(bench: Bench) -> None:
    done = bench.up("--dry-run")
    assert done.exit_code == 0 and bench.asked() == []
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert len(lines) == 12 and lines[4].startswith("kind create cluster")


def test_dags_of_ones_own_are_a_layer_on_airflows_image(bench: Bench, tmp_path: Path) -> None:
    """Read before there is a cluster; named by what is in them, so that a changed file starts the pods anew."""
    folder = tmp_path / "ours"
    (folder / "lib").mkdir(parents=True)
    (folder / "sea.py").write_text("one")
    (folder / "lib" / "sea.yaml").write_text("name: sea")
    done = bench.up("--dags", str(folder))
    assert done.exit_code == 0, done.exception
    calls = bench.calls()
    asked = [" ".join(one["argv"]) for one in calls]
    image = dags.image(folder)
    build = f"docker build --file - --build-arg AIRFLOW=windtunnel/airflow:0.1.0 --tag {image} {folder}"
    look = f"docker run --rm --entrypoint python {image} -m windtunnel_airflow.parsing /opt/airflow/dags"
    assert asked.index(build) + 1 == asked.index(look) < asked.index("kind get clusters")
    assert calls[asked.index(build)]["stdin"] == dags.RECIPE and f" {dags.FOLDER}/\n" in dags.RECIPE
    assert [one for one in asked if one.startswith("kind load docker-image") and f" {image} " in one]
    (airflow,) = [one for one in asked if " --install airflow " in one]
    name, _, tag = image.rpartition(":")
    assert f"--set-string defaultAirflowRepository={name} --set-string defaultAirflowTag={tag} " in airflow
    assert f"those of {folder}" in done.stderr and "none yet" not in done.stderr
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("x")
    assert dags.image(folder) == image
    seen = {image}
    for change in (
        lambda: (folder / "sea.py").write_text("two"),
        lambda: (folder / "lib" / "sea.yaml").rename(folder / "sea.yaml"),
        lambda: (folder / "link").symlink_to("nowhere"),
    ):
        change()
        seen.add(dags.image(folder))
    assert len(seen) == 4
    bench.remove("kind", "docker")
    bench.install("minikube")
    refused = bench.up("--no-build", "--dags", str(folder))
    assert isinstance(refused.exception, StackError) and "not found on the PATH: docker" in refused.exception.message
    bench.install("docker")
    assert bench.up("--no-build", "--dags", str(folder)).exit_code == 0
    built = [one for one in bench.asked() if "docker" in one or "image load" in one]
    assert [one.split()[:2] for one in built[:2]] == [["docker", "build"], ["docker", "run"]]
    assert f"minikube image load {dags.image(folder)} --profile windtunnel" in built


def test_a_folder_without_dags_is_refused_before_anything_runs(bench: Bench, tmp_path: Path) -> None:
    for folder, said in ((tmp_path / "absent", "is not a folder"), (tmp_path, "holds no Python file")):
        (tmp_path / "__pycache__").mkdir(exist_ok=True)
        (tmp_path / "__pycache__" / "old.py").touch()
        for more in ((), ("--dry-run",)):
            done = bench.up("--dags", str(folder), *more)
            assert isinstance(done.exception, StackError) and said in done.exception.message
    assert bench.asked() == []


def test_the_plan_is_what_the_pages_and_the_chart_say() -> None:
    notes = (ROOT / "helm" / "windtunnel" / "templates" / "NOTES.txt").read_text(encoding="utf-8")
    assert f"--version {plan.AIRFLOW_CHART}" in notes and plan.AIRFLOW_REPOSITORY in notes
    page = (ROOT / "docs" / "how-to" / "install-on-kubernetes.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<<END\n(.*?)^END", page, re.M | re.S)
    by_hand = {
        (one["metadata"]["name"], key)
        for one in yaml.safe_load_all(re.sub(r"\$\([^)]*\)|\$[A-Z]+", "x", block))
        for key in one["stringData"]
    }
    made = json.loads(secrets.manifests("windtunnel"))["items"]
    assert {one["metadata"]["name"] for one in made} == set(plan.SECRETS)
    assert {(one["metadata"]["name"], key) for one in made for key in one["stringData"]} == by_hand
    for path in re.findall(r"(?:helm|docker)/[\w./-]+", " ".join(" ".join(s.argv) for s in plan.whole(LAPTOP))):
        assert (ROOT / path).exists(), path


LAPTOP = Laptop("kind", "windtunnel", ROOT)


def test_secrets_fit_each_other_and_are_new_each_time() -> None:
    first, second = (
        {one["metadata"]["name"]: one["stringData"] for one in json.loads(secrets.manifests("windtunnel"))["items"]}
        for _ in range(2)
    )
    assert not set(first["windtunnel"].values()) & set(second["windtunnel"].values())
    assert len(base64.urlsafe_b64decode(first["windtunnel-airflow"]["fernet-key"])) == 32
    assert json.loads(first["windtunnel-airflow"]["connection"])["password"] == first["windtunnel"]["mlflow-service"]
    password = first["windtunnel"]["postgres-password"]
    assert f":{password}@" in first["windtunnel"]["database-url"]
    assert f":{password}@" in first["windtunnel-airflow-database"]["connection"]


def test_ctrl_c_takes_away_what_was_begun(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from windtunnel.stack.laptop import Machine, doing

    machine, did = Machine(lambda line: None, str(ROOT)), []
    real = machine.do

    def do(step: Step, *more: Any) -> None:
        did.append(step.title)
        if step.title == "install Airflow":
            raise KeyboardInterrupt
        real(step, *more)

    monkeypatch.setattr(machine, "do", do)
    with pytest.raises(KeyboardInterrupt):
        doing.up(LAPTOP, machine)
    assert did[-2:] == ["install Airflow", "delete the cluster"]
