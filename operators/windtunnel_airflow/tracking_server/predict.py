"""Batch prediction with a version: files in, files out, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from windtunnel.errors import DataError, IntegrityError, ResourceError, TrainingError
from windtunnel_airflow.links import ModelVersionLink, RegisteredModelLink
from windtunnel_airflow.tracking_server import calls, copies, environments, predicting
from windtunnel_airflow.tracking_server.lineage import model_dataset, named_dataset, operator_lineage
from windtunnel_airflow.tracking_server.models import ModelOperator


class BatchPredictOperator(ModelOperator):
    """Predict all rows of Parquet or CSV files with a version of a model, as ``mlflow.pyfunc`` loads it.

    The version's files are copied to a private folder and, on a governed registry, verified byte by byte before
    anything is loaded. A process of its own, without the credentials of Airflow or MLflow, reads ``chunk`` rows at a
    time, so memory is bounded by the chunk. The output takes its name only when it is whole, and a retry replaces it.

    Returns ``{"output", "rows", "chunks", "sha256", "bytes", "name", "version", "digest", "load_s", "predict_s",
    "peak_mb"}``; ``digest`` is None where the server is not governed and nothing could be verified.

    Args:
        name: the registered model.
        version: number of the version, or
        alias: an alias that points to it.
        inputs_path: a ``.parquet`` or ``.csv`` file, or a folder of them.
        output_path: the ``.parquet`` or ``.csv`` file to write.
        columns: columns given to the model; all unless told.
        keep: columns of the input that are written beside the predictions.
        chunk: rows at a time.
        memory: most bytes the process may allocate.
        environment: ``local`` (the Python of this task), ``model`` (made from the model's requirements, and kept),
            or the path of a Python program.
        verified: refuse a server that has nothing to verify the files by.
        time_limit: seconds.
    """

    operator_extra_links: Any = (RegisteredModelLink(), ModelVersionLink())
    template_fields: Sequence[str] = (
        *ModelOperator.template_fields, "version", "alias", "inputs_path", "output_path", "columns", "keep",
        "environment",
    )  # fmt: skip

    def __init__(
        self,
        *,
        inputs_path: str,
        output_path: str,
        version: str | int | None = None,
        alias: str | None = None,
        columns: Sequence[str] | None = None,
        keep: Sequence[str] = (),
        chunk: int = 10_000,
        memory: int | None = None,
        environment: str = "local",
        verified: bool = False,
        time_limit: float = 3600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inputs_path = inputs_path
        self.output_path = output_path
        self.version = version
        self.alias = alias
        self.columns = columns
        self.keep = keep
        self.chunk = chunk
        self.memory = memory
        self.environment = environment
        self.verified = verified
        self.time_limit = time_limit
        self._child: subprocess.Popen[bytes] | None = None
        self._made: dict[str, Any] | None = None

    def execute(self, context: Any) -> dict[str, Any]:
        name = self.begin()
        inputs, output = Path(self.inputs_path), Path(self.output_path)
        if not inputs.exists():
            raise DataError(f"task {self.task_id!r}: there is nothing at {inputs}", hint="expected a file or a folder")
        if output.suffix not in predicting.FORMATS or (inputs.is_file() and inputs.suffix not in predicting.FORMATS):
            raise DataError(f"task {self.task_id!r}: expected .parquet or .csv, found {inputs} and {output}")
        if self.chunk < 1:
            raise DataError(f"task {self.task_id!r}: chunk is {self.chunk}; expected 1 or more rows")
        number = None if self.version is None else str(self.version)
        version = str(calls.find_version(self.rest, name, number, self.alias or None)["version"])
        self.note_version(name, version)
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="windtunnel-predict-") as folder:
            place = Path(folder)
            (place / "copy").mkdir()
            model, digest = copies.fetch(self.hook, name, version, place / "copy")
            if self.verified and digest is None:
                raise IntegrityError(
                    f"{self.hook.url} is not a governed registry: version {version} of {name!r} cannot be verified",
                    hint="leave out verified=True to take it unverified",
                )
            python = environments.interpreter(self.environment, model, self.time_limit)
            report = self._run(python, place, model, inputs, output)
        self._made = {"name": name, "version": version}
        self.log.info("%s rows predicted by version %s of %s", report["rows"], version, name)
        return {"output": str(output), **report, "name": name, "version": version, "digest": digest}

    def _run(self, python: str, place: Path, model: Path, inputs: Path, output: Path) -> dict[str, Any]:
        spec = {
            "model": str(model),
            "inputs": str(inputs.absolute()),
            "output": str(output.absolute()),
            "report": str(place / "report.json"),
            "chunk": self.chunk,
            "columns": None if self.columns is None else list(self.columns),
            "keep": list(self.keep),
            "memory": self.memory,
        }
        # Beside nothing else: a program's folder goes before all others where it looks for modules.
        program = Path(shutil.copy(predicting.__file__, place / "windtunnel_predicting.py"))
        (place / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        errors = place / "stderr"
        with errors.open("wb") as stream:
            self._child = subprocess.Popen(
                [python, str(program), str(place / "spec.json")],
                env=environments.child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=place,
                start_new_session=True,
            )
        try:
            code = self._child.wait(self.time_limit)
        except subprocess.TimeoutExpired as error:
            raise ResourceError(f"predicting did not end within {self.time_limit:g} s") from error
        finally:
            self._stop()
        told = errors.read_text(encoding="utf-8", errors="replace").strip()
        if code:
            raise _failure(code, told[-3000:])
        report = json.loads((place / "report.json").read_text(encoding="utf-8"))
        return dict(report)

    def _stop(self) -> None:
        """End the process and whatever it started."""
        child = self._child
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(10)

    def on_kill(self) -> None:
        self._stop()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Input files and the version as inputs, the output file as output."""
        made = self._made
        if made is None:
            return None
        model = model_dataset(self.hook.url, made["name"], made["version"])
        return operator_lineage([named_dataset(self.inputs_path), model], [named_dataset(self.output_path)])


def _failure(code: int, told: str) -> Exception:
    if "MemoryError" in told or "malloc" in told or code in (-signal.SIGKILL, 137):
        return ResourceError(
            f"predicting ran out of memory (exit code {code}): {told}", hint="lower chunk, raise memory"
        )
    last = told.splitlines()[-1] if told else ""
    if code == 1 and last and "Traceback" not in told:
        return DataError(last)
    return TrainingError(f"predicting failed (exit code {code}): {told}")
