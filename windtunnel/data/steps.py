"""Data that goes from one step of a pipeline to the next (PIP-2).

    pipelines/{dag}/runs/{run}/steps/{task}/outputs/{name}

Each output has a sidecar ``{name}.windtunnel.json`` with its digest and size, written after it: an output without
its sidecar was not finished. A step sees only the inputs wired to it, as ``WINDTUNNEL_INPUT_{NAME}_PATH``, and an
input is verified before any work starts.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from windtunnel import files
from windtunnel.errors import DataError
from windtunnel.evidence import manifest
from windtunnel.home import Home

if TYPE_CHECKING:
    from windtunnel.data.objects import Objects

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,79}")
SIDECAR = ".windtunnel.json"


@dataclass(frozen=True, slots=True)
class Output:
    """One step's output: a file, or a folder of plain files.

    Attributes:
        name: what later steps call it.
        path: where it lies.
        digest: ``sha256:...`` of the file, or of the folder's manifest.
        size: bytes.
    """

    name: str
    path: Path
    digest: str
    size: int

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Output:
        return cls(str(plain["name"]), Path(plain["path"]), str(plain["digest"]), int(plain["size"]))


def _segment(text: str) -> str:
    """One folder name for any DAG id, run id or task id; run ids hold colons and plus signs."""
    plain = quote(text, safe="@:+,=")
    if not text or plain in {".", ".."}:
        raise ValueError(f"{text!r} cannot name a folder")
    return plain


def step_folder(home: Home, dag: str, run: str, task: str) -> Path:
    """``pipelines/{dag}/runs/{run}/steps/{task}``."""
    return home.pipelines / _segment(dag) / "runs" / _segment(run) / "steps" / _segment(task)


def output_path(home: Home, dag: str, run: str, task: str, name: str) -> Path:
    """Where the output ``name`` of a step lies.

    Raises:
        ValueError: ``name`` is no plain name, or ends like a sidecar.
    """
    if not _NAME.fullmatch(name) or name.endswith(SIDECAR):
        raise ValueError(f"{name!r} cannot name an output: use letters, digits, '_', '-', '.', starting with a letter")
    return step_folder(home, dag, run, task) / "outputs" / name


def _measure(path: Path) -> tuple[str, int]:
    if path.is_dir():
        found = manifest.build(path)
        return found.content, found.size
    return f"sha256:{manifest.sha256_file(path)}", path.stat().st_size


def describe(name: str, path: Path) -> Output:
    """Measure what lies at ``path``.

    Raises:
        DataError: nothing lies there.
    """
    if not path.exists():
        raise DataError(f"output {name!r} is missing: nothing at {path}", hint="the step must write it before it ends")
    digest, size = _measure(path)
    return Output(name, path, digest, size)


def write_output(
    home: Home, dag: str, run: str, task: str, name: str, source: Path | bytes, *, move: bool = False
) -> Output:
    """Publish an output; its sidecar comes last. Doing it again replaces it.

    Args:
        source: its bytes, or a file or folder to copy.
        move: rename ``source`` instead of copying it (same file system).

    Raises:
        DataError: ``source`` does not exist.
    """
    target = output_path(home, dag, run, task, name)
    sidecar = target.with_name(target.name + SIDECAR)
    if isinstance(source, Path) and not source.exists():
        raise DataError(f"output {name!r} of {task} is missing: nothing at {source}", hint="the step must write it")
    sidecar.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    if isinstance(source, bytes):
        files.write_bytes(target, source)
    elif move:
        shutil.move(source, target)
    elif source.is_dir():
        shutil.copytree(source, target)
    else:
        origin = source
        files.write_with(target, lambda temporary: shutil.copyfile(origin, temporary))
    done = describe(name, target)
    files.write_json(sidecar, done.to_dict())
    return done


def read_output(home: Home, dag: str, run: str, task: str, name: str) -> Output:
    """What the sidecar says of a published output; the bytes are not read.

    Raises:
        DataError: the step has not published it.
    """
    target = output_path(home, dag, run, task, name)
    plain = files.read_json(target.with_name(target.name + SIDECAR))
    if plain is None:
        raise DataError(
            f"step {task} of {dag}, run {run}, has no finished output {name!r}",
            hint=f"expected {target}; run the step again",
        )
    return Output(name, target, str(plain["digest"]), int(plain["size"]))


def verify_input(given: Output) -> Path:
    """Check that an input is there, whole and unchanged, before work starts.

    Raises:
        DataError: it is missing, cut short, or changed; says which.
    """
    if not given.path.exists():
        raise DataError(
            f"input {given.name!r} is missing: nothing at {given.path}", hint="run the step that writes it again"
        )
    if given.path.is_file() and given.path.stat().st_size != given.size:
        raise DataError(
            f"input {given.name!r} at {given.path} has {given.path.stat().st_size} bytes, expected {given.size}",
            hint="it was cut short or changed after its step ended: run that step again",
        )
    digest, _ = _measure(given.path)
    if digest != given.digest:
        raise DataError(
            f"input {given.name!r} at {given.path} is corrupt: {digest[:19]}..., expected {given.digest[:19]}...",
            hint="it was changed after its step ended: run that step again",
        )
    return given.path


def keep_pages(store: Objects, home: Home, folder: Path, name: str, pages: Sequence[Path]) -> list[str]:
    """Pages of a step for the eyes, put into the object store beside its outputs, where they stay as long as these.

    Args:
        folder: the step's (``step_folder``).
        name: what they are called together: ``.../outputs/NAME/PAGE``.

    Returns:
        Their URLs, in the same order.

    Raises:
        UnavailableError, DataError: the store does not answer, or refuses.
    """
    where = f"{folder.relative_to(home.root).as_posix()}/outputs/{name}"
    for page in pages:
        store.put(f"{where}/{page.name}", page)
    return [f"{store.url}/{where}/{page.name}" for page in pages]


def variable(name: str) -> str:
    """``WINDTUNNEL_INPUT_{NAME}_PATH``."""
    return f"WINDTUNNEL_INPUT_{re.sub(r'[^A-Za-z0-9]', '_', name).upper()}_PATH"


def input_environment(inputs: Mapping[str, Output]) -> dict[str, str]:
    """The variables through which a step finds its inputs."""
    return {variable(name): str(given.path) for name, given in inputs.items()}
