"""An export and an import of 1 GiB of files between two real servers, beside ``cp`` of the same in the same run."""

from __future__ import annotations

import os
import secrets
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench import rig
from bench.table import Table
from windtunnel.home import Home
from windtunnel.loopback import any_free
from windtunnel.registry import exporting, importing, launch
from windtunnel.registry.client import RegistryClient
from windtunnel.safety.keys import KeyRing
from windtunnel.stackfile import read_secret

#: Files of one version, and bytes of each.
FILES, SIZE = 8, 128 << 20
ROUNDS = 3
_START_S = 240.0
MLMODEL = "artifact_path: model\nflavors:\n  python_function:\n    loader_module: mlflow.sklearn\n"


@contextmanager
def server(home: Home) -> Iterator[str]:
    """A governed MLflow server of this home; its URL."""
    home.secrets.mkdir(parents=True, mode=0o700)
    for name in launch.SECRETS:
        path = home.secrets / name
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24), encoding="utf-8")
    port = any_free()
    plan = launch.prepare(home, port)
    for folder in plan.folders:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for file in plan.files:
        file.path.write_text(file.content, encoding="utf-8")
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return httpx.get(url + plan.health, timeout=2, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    with (
        (home.root / "server.log").open("wb") as log,
        rig.process(list(plan.argv), env={**os.environ, **plan.env}, stdout=log, stderr=log),
    ):
        rig.wait_until(ready, _START_S, "the registry")
        yield url


def client(home: Home, url: str) -> RegistryClient:
    """An administrator's."""
    return RegistryClient(url, "admin", read_secret(home, "mlflow-admin"))


def register(home: Home, url: str, model: str, files: Path) -> Path:
    """A version of a model with these files; the folder where they are."""
    auth = ("admin", read_secret(home, "mlflow-admin"))
    with httpx.Client(base_url=url, auth=auth, timeout=60, trust_env=False) as http:
        made = http.post("/api/2.0/mlflow/runs/create", json={"experiment_id": "0"}).raise_for_status().json()
    run_id = made["run"]["info"]["run_id"]
    place = home.mlflow / "artifacts" / "0" / run_id / "artifacts" / "model"
    shutil.copytree(files, place)
    with client(home, url) as registry:
        registry.register(
            model, source=f"runs:/{run_id}/model", run_id=run_id, recipe={}, correlation_id=None, cause="bench"
        )
    return place


def seconds(action: Callable[[], Any]) -> float:
    """Wall time."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def copy(source: Path, target: Path) -> None:
    """``cp`` to the disk, not only to memory: an export is flushed as well."""
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    subprocess.run(["sync", *map(str, target.iterdir())], check=True)


def run() -> Table:
    size = FILES * SIZE
    table = Table("Moving versions", ("1 GiB in 8 files", "MB/s", "seconds x cp", "range"))
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="windtunnel-bench-")))
        files = scratch / "files"
        files.mkdir()
        (files / "MLmodel").write_text(MLMODEL, encoding="utf-8")
        block = os.urandom(1 << 20)
        for number in range(FILES):
            with (files / f"weights{number}.bin").open("wb") as stream:
                for piece in range(SIZE >> 20):
                    stream.write(piece.to_bytes(4) + bytes([number]) + block[5:])
        homes = [Home(scratch / name) for name in ("one", "two")]
        urls = [stack.enter_context(server(home)) for home in homes]
        there, here = (
            stack.enter_context(client(home, url)) for home, url in zip(homes, urls, strict=True)
        )  # fmt: skip
        ring = KeyRing.of(homes[0])
        current = next(key for key in ring.keys() if key.state == "current")  # noqa: SIM118
        here.trust_installation("one", (ring.public / f"{current.id}.pem").read_text(encoding="ascii"))
        found: dict[str, list[float]] = {"cp": [], "export": [], "import": []}
        for number in range(ROUNDS):
            model = f"model-{number}"
            place = register(homes[0], urls[0], model, files)
            folder, plain = scratch / f"export-{number}", scratch / f"copy-{number}"
            found["cp"].append(seconds(lambda place=place, plain=plain: copy(place, plain)))  # type: ignore[misc]
            found["export"].append(
                seconds(lambda folder=folder, model=model: exporting.write(there, folder, models=[model]))  # type: ignore[misc]
            )
            found["import"].append(seconds(lambda folder=folder: importing.read(here, folder)))  # type: ignore[misc]
            shutil.rmtree(folder)
            shutil.rmtree(plain)
        for name, took in found.items():
            ratios = [one / other for one, other in zip(took, found["cp"], strict=True)]
            table.add(
                name,
                f"{size / statistics.median(took) / 1e6:.0f}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
            )
    table.note = (
        f"Medians of {ROUNDS} rounds, in turn; files in the page cache at the start, written through to the disk. "
        "An export reads each file once from the server by HTTP, digests and writes it. An import digests the folder, "
        "sends each file by HTTP, and the server reads what it wrote against the manifest before the version is there. "
        "No number is demanded."
    )
    return table
