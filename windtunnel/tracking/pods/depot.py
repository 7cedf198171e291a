"""What a run keeps in the object store, where its worker and its pods meet.

    runs/RUN/spec.json              what to do; the pod is told its digest
    runs/RUN/inputs/NAME            parcels; inputs from the pipeline lie at the step that wrote them (PIP-2):
    pipelines/DAG/runs/.../NAME
    runs/RUN/checkpoints/AAAA-NNNNNN   parcels: the training's checkpoint folder, and its metrics so far
    runs/RUN/trained                a parcel: a model that is stored is never trained again
    runs/RUN/result                 a parcel: what the run made
    runs/RUN/attempts/N/exit.json   how an attempt ended: written last
    runs/RUN/attempts/N/log.txt
    runs/RUN/attempts/N/cancel.json a person ended it: written before its pod is told to stop

Everything is checked against its SHA-256 where it arrives.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from windtunnel import canonical, files
from windtunnel.data import handover, parcels, steps
from windtunnel.data.objects import Objects
from windtunnel.errors import DataError, IntegrityError
from windtunnel.home import Home
from windtunnel.tracking.contract import RunResult, RunSpec, RunStatus, check_run_id, run_dir
from windtunnel.tracking.pods import outputs

#: Older checkpoints than this many are removed: one may turn out to be bad.
KEEP = 2
#: Of a run's folder, what the next attempt goes on from beside the checkpoint: the metrics and what is delivered.
WORDS = ("metrics.jsonl", "metrics.sent", "facts.json", "facts.sent")
_MADE = ("result.json", "environment.json")


class Depot:
    """One run's part of an object store."""

    def __init__(self, objects: Objects, run_id: str) -> None:
        self.objects = objects
        self.run_id = check_run_id(run_id)
        self.key = f"runs/{run_id}"

    # -- the worker, before
    def deposit(self, home: Home, spec: RunSpec) -> str:
        """Store a run's inputs, verified, and what is to be done with them; the digest that the pod is told.

        Raises:
            DataError: an input is missing or changed, or the store refuses.
            UnavailableError: the store does not answer.
        """
        inputs: dict[str, Any] = {}
        for name, given in spec.inputs.items():
            key = self._input_key(home, name, given.path)
            # What another worker wrote need not come here to go to the pod, which checks every byte.
            there = None if given.path.exists() else handover.known(self.objects, key, given)
            folder = handover.is_folder(there or self._send(name, key, given), given)
            inputs[name] = {**given.to_dict(), "path": key, "folder": folder, "file": given.path.name}
        # Folders and interpreter of this machine mean nothing in the pod: its image holds the code.
        plain = {**replace(spec, inputs={}, python=None, python_path=[], code=None).to_dict(), "inputs": inputs}
        self.objects.put_bytes(f"{self.key}/spec.json", canonical.dumps(plain))
        return canonical.digest(plain)

    def _input_key(self, home: Home, name: str, path: Path) -> str:
        return handover.key_of(home, path) or f"{self.key}/inputs/{name}"

    def _send(self, name: str, key: str, given: steps.Output) -> parcels.Parcel:
        steps.verify_input(given)
        sent = parcels.send(self.objects, key, parcels.contents(given.path), {"digest": given.digest})
        if sum(size for _, size in sent.files.values()) != given.size:
            raise DataError(f"input {name!r} of run {self.run_id} changed while it was sent", hint="run its step again")
        return sent

    # -- the pod, before
    def fetch(self, digest: str, folder: Path) -> RunSpec:
        """What is to be done, with its inputs in ``folder`` of this machine, each verified.

        Raises:
            DataError: something is missing, or the store refuses.
            IntegrityError: it is not what the worker sent.
            UnavailableError: the store does not answer.
        """
        raw = self.objects.get_bytes(f"{self.key}/spec.json")
        if raw is None:
            raise DataError(f"{self.objects.url}/{self.key}/spec.json is missing", hint="clear the training task")
        plain = canonical.loads(raw)
        if canonical.digest(plain) != digest:
            raise IntegrityError(
                f"{self.objects.url}/{self.key}/spec.json is not what this pod was made for",
                hint="clear the training task",
            )
        inputs = {}
        for name, given in plain["inputs"].items():
            if parcels.receive(self.objects, given["path"], folder / name) is None:
                raise DataError(
                    f"input {name!r} is missing: nothing at {self.objects.url}/{given['path']}",
                    hint="run the step that writes it again",
                )
            where = folder / name if given["folder"] else folder / name / given["file"]
            inputs[name] = steps.Output(name, where, given["digest"], given["size"])
            steps.verify_input(inputs[name])
        return replace(RunSpec.from_dict({**plain, "inputs": {}}), inputs=inputs)

    def restore(self, folder: Path, say: Callable[[str], object] = print) -> str | None:
        """Bring back what earlier attempts left: a trained model, else the newest good checkpoint; what was found."""
        staging = folder.with_name(f".{folder.name}.restored")
        try:
            for key in (f"{self.key}/trained", *reversed(self.checkpoints())):
                try:
                    found = parcels.receive(self.objects, key, staging)
                except IntegrityError as error:
                    say(f"not used: {error.message}")
                    continue
                if found is None:
                    continue
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                for part in staging.iterdir():
                    target = folder / part.name
                    if target.is_dir():
                        shutil.rmtree(target)
                    part.replace(target)
                return key.rpartition("/")[2]
            return None
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    # -- the pod, meanwhile
    def checkpoints(self) -> list[str]:
        """Keys of the finished checkpoints, oldest first."""
        found = self.objects.sizes(f"{self.key}/checkpoints/")
        return sorted(key.removesuffix(parcels.SIDECAR) for key in found if key.endswith(parcels.SIDECAR))

    def save_checkpoint(
        self, folder: Path, name: str, go_on: Callable[[], None] | None = None
    ) -> parcels.Parcel | None:
        """Store the checkpoint folder of a run as it is now; None when it is empty.

        Args:
            name: sorts behind the names of earlier ones.
            go_on: called again and again meanwhile; what it raises ends it, and the one before stays the newest.

        Raises:
            IntegrityError: the training was writing to it just now; the one before stays the newest.
            DataError, UnavailableError: as the store's.
        """
        inner = parcels.contents(folder / "checkpoint")
        if not inner:
            return None
        given = {f"checkpoint/{path}": file for path, file in inner.items()}
        with tempfile.TemporaryDirectory() as words:
            for word in reversed(WORDS):  # what was sent before what there is: sent twice is kept once, unsent is lost
                if (folder / word).exists():
                    given[word] = Path(shutil.copyfile(folder / word, Path(words, word)))
            saved = parcels.send(self.objects, f"{self.key}/checkpoints/{name}", given, go_on=go_on)
        for key in self.checkpoints()[:-KEEP]:
            parcels.remove(self.objects, key)
        return saved

    def wish(self, attempt: int) -> str | None:
        """Why a person wants this attempt ended; None where nobody does."""
        raw = self.objects.get_bytes(f"{self.key}/attempts/{attempt}/cancel.json")
        return str(canonical.loads(raw).get("reason") or "cancelled") if raw is not None else None

    def ask_to_end(self, attempt: int, reason: str) -> None:
        """Leave word for an attempt's pod, which looks for it when it is told to stop."""
        self.objects.put_bytes(f"{self.key}/attempts/{attempt}/cancel.json", canonical.dumps({"reason": reason}))

    # -- the pod, after
    def leave(self, folder: Path, attempt: int, status: RunStatus) -> None:
        """Store what an ended attempt made, its log, and, last, how it ended."""
        if (folder / "trained.json").exists():
            given = {"trained.json": folder / "trained.json"}
            given |= {f"model/{path}": file for path, file in parcels.contents(folder / "model").items()}
            given |= {name: folder / name for name in WORDS if (folder / name).exists()}
            parcels.send(self.objects, f"{self.key}/trained", given)
        if status.state == "succeeded":
            made = files.read_json(folder / "result.json") or {}
            if made.get("kind") == "step":
                outputs.leave(self.objects, self.key, Home(folder.parent.parent), made.get("outputs") or {})
            parcels.send(self.objects, f"{self.key}/result", {n: folder / n for n in _MADE if (folder / n).exists()})
        if (folder / "log.txt").exists():
            self.objects.put(f"{self.key}/attempts/{attempt}/log.txt", folder / "log.txt")
        self.objects.put_bytes(f"{self.key}/attempts/{attempt}/exit.json", canonical.dumps(status.to_dict()))

    # -- the worker, after
    def outcome(self, attempt: int) -> RunStatus | None:
        """How an attempt ended by its own word; None while it has not said."""
        raw = self.objects.get_bytes(f"{self.key}/attempts/{attempt}/exit.json")
        return RunStatus.from_dict(canonical.loads(raw)) if raw is not None else None

    def collect(self, home: Home) -> RunResult:
        """Fetch what a succeeded run made into ``HOME/runs/RUN``, and a step's outputs, where the steps after it look.

        Raises:
            DataError: it is not there.
            IntegrityError: it is not what the run made.
            UnavailableError: the store does not answer.
        """
        folder = run_dir(home, self.run_id)
        folder.parent.mkdir(parents=True, exist_ok=True)
        made, model = folder.with_name(f".{self.run_id}.made"), folder.with_name(f".{self.run_id}.trained")
        try:
            self._fetch("result", made)
            plain = files.read_json(made / "result.json") or {}
            folder.mkdir(exist_ok=True, mode=0o700)
            if plain.get("kind") == "step":
                there = {} if plain.get("skipped") else outputs.collect(self.objects, self.key, home)
                files.write_json(folder / "result.json", {**plain, "outputs": there})
                return RunResult.from_dict({**plain, "outputs": there})
            self._fetch("trained", model)
            shutil.rmtree(folder / "model", ignore_errors=True)
            (model / "model").rename(folder / "model")
            result = RunResult.from_dict({**plain, "model_path": str(folder / "model")})
            _check_model(result)
            files.write_json(folder / "result.json", result.to_dict())
            return result
        finally:
            shutil.rmtree(made, ignore_errors=True)
            shutil.rmtree(model, ignore_errors=True)

    def _fetch(self, what: str, target: Path) -> None:
        if parcels.receive(self.objects, f"{self.key}/{what}", target) is None:
            raise DataError(f"run {self.run_id} left no {what} in {self.objects.url}/{self.key}")


def _check_model(result: RunResult) -> None:
    """The files here are those the run says it made, by the same digest that the registry's sealer finds."""
    from windtunnel.evidence import manifest

    if result.manifest is None or result.model_path is None:
        raise DataError(f"run {result.run_id} made no model")
    manifest.verify(Path(result.model_path), manifest.Manifest.from_dict(result.manifest))
