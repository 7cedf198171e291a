"""The MLServer runtime of one version; runs in the model servers' environment.

Load: verify the private copy against its digest, load it, predict the warm-up rows through the same path a
request takes. Only then is the model ready (SRV-2). It needs neither MLflow's server nor Airflow (SRV-10).

Predict: decode and check (SRV-5), run the model in a thread so that the event loop stays free, check the
output, log the prediction. Work whose client has already been answered 504 is dropped, not done; a call that
never returns ends the process, which the supervisor starts again.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

from mlserver import MLModel
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput

from windtunnel.errors import IntegrityError
from windtunnel.serving import artifacts
from windtunnel.serving.collector import sending
from windtunnel.serving.modelserver import launch, signature
from windtunnel.serving.modelserver.batching import Batcher, Result
from windtunnel.serving.predictions import PredictionWriter, new_prediction_ids
from windtunnel.serving.routing import AUDIENCE, AUDIENCE_HEADER, PROBE_HEADER, SEGMENT_HEADER, SHADOW_HEADER

#: Exit code of a server whose model call hangs; the supervisor starts it again.
HUNG = 70


class Refused(MLServerError):  # type: ignore[misc]
    """An answer with a status of our choice; MLServer turns it into ``{"error": ...}``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message, status_code=status)


class WindtunnelRuntime(MLModel):  # type: ignore[misc]
    """One version of one model; all it needs is in its folder (``artifacts.Folder``)."""

    async def load(self) -> bool:
        folder = artifacts.Folder(Path(self.settings.parameters.uri))
        self._config = folder.read_server()
        loop = asyncio.get_running_loop()
        # One thread per CPU of the description: a model that is not thread-safe runs alone by default.
        self._pool = ThreadPoolExecutor(max_workers=max(1, int(self._config["cpu"])), thread_name_prefix="predict")
        self._running: dict[int, float] = {}
        self._timeout = float(self._config["timeout_s"])
        batch = self._config.get("batch")
        self._batcher = Batcher(self._shared, batch["size"], batch["delay_s"]) if batch else None
        try:
            await loop.run_in_executor(None, self._load, folder)
        except IntegrityError as error:
            launch.give_up(f"integrity: {error.message}")
        except Exception as error:
            # Who waits for this server reads the note; MLServer then ends the process, which is started again.
            folder.note("failed", {"message": f"{type(error).__name__}: {str(error)[:1000]}"})
            raise
        self._writer = PredictionWriter(
            Path(self._config["predictions"]),
            self._config["model"],
            self._config["version"],
            self._config["instance"],
            flush_s=self._config["flush_s"],
            sample=self._config["sample"],
            features=self._contract.names,
            kinds={field.name: field.kind for field in self._contract.fields},
        )
        # In a pod: whoever collects its rows. The writer is closed first, so that its last ones go along.
        self._sender = sending.of(Path(self._config["predictions"]), os.environ)
        self._copies = os.environ.get(sending.SHADOW) == "1"
        folder.clear_note("failed")
        threading.Thread(target=self._watch, name="hang-watch", daemon=True).start()
        return True

    async def unload(self) -> bool:
        self._writer.close()
        if self._sender is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._sender.close)
        return True

    def _load(self, folder: artifacts.Folder) -> None:
        artifacts.verify(folder)
        import mlflow.pyfunc

        started = time.monotonic()
        self._model = mlflow.pyfunc.load_model(str(folder.model))
        self._contract = signature.contract(signature.read_signature(folder.model), self._config["features"])
        self._dtypes = {field.name: field.dtype for field in self._contract.fields if field.to_model}
        for row in self._config["warmup"]:
            self._predict_columns({name: [value] for name, value in row.items() if name in self._dtypes}, 1)
        folder.note("loaded", {"seconds": round(time.monotonic() - started, 3), "warmed": len(self._config["warmup"])})

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        arrived, clock = time.time(), time.monotonic()
        headers = _headers(payload)
        request_id = headers.get("x-request-id") or str(uuid4())
        try:
            tensors = [
                signature.Tensor(item.name, item.shape, _datatype(item.datatype), item.data.root)
                for item in payload.inputs
            ]
            columns, rows = self._contract.decode(tensors)
        except signature.BadRequest as error:
            raise Refused(400, error.message) from None
        ids = new_prediction_ids(rows)
        ticket = self._writer.started(arrived)
        status, problem = 200, None
        outputs: list[Any] = []
        more: dict[str, Any] = {}
        waited = 0.0
        try:
            call = self._shared if self._batcher is None else self._batcher.ask
            waited, outputs, more = await call(columns, rows, clock)
        except Refused as error:
            status, problem = error.status_code, str(error)
        except Exception as error:  # the user's model may raise anything; that is a failed request, not a failed server
            status, problem = 500, f"the model raised {type(error).__name__}: {str(error)[:500]}"
        latency = (time.monotonic() - clock) * 1000
        if PROBE_HEADER not in headers:  # the backend's own probes are nobody's prediction
            self._log(request_id, arrived, ids, columns, outputs, latency, status, problem, headers, waited, more)
        self._writer.finished(ticket)
        if problem is not None:
            raise Refused(status, problem)
        return self._response(ids, outputs, more)

    # -- the model's thread

    async def _shared(self, columns: dict[str, list[Any]], rows: int, arrived: float) -> Result:
        """One call, for one request or for several; ``arrived`` is the first one's."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._call, columns, rows, arrived)

    def _call(
        self, columns: dict[str, list[Any]], rows: int, arrived: float
    ) -> tuple[float, list[Any], dict[str, Any]]:
        started = time.monotonic()
        waited = started - arrived
        if waited > self._timeout:
            raise Refused(503, f"the request waited {waited:.1f} s for the model, longer than the time-out")
        me = threading.get_ident()
        self._running[me] = started
        try:
            outputs, more = self._predict_columns(columns, rows)
        finally:
            self._running.pop(me, None)
        return waited * 1000, outputs, more

    def _predict_columns(self, columns: dict[str, list[Any]], rows: int) -> tuple[list[Any], dict[str, Any]]:
        """Predictions, one per row, and further outputs by name."""
        import numpy as np
        import pandas as pd

        frame = pd.DataFrame(
            {
                name: np.asarray(columns[name], dtype=dtype) if dtype else np.asarray(columns[name], dtype=object)
                for name, dtype in self._dtypes.items()
                if name in columns
            },
            copy=False,
        )
        result = self._model.predict(frame)
        outputs, more = _outputs(result)
        try:
            signature.check_output(outputs, rows)
        except signature.BadOutput as error:
            raise Refused(500, str(error)) from None
        return outputs, more

    def _watch(self) -> None:
        """End the process when a call has run for much longer than any client waits."""
        patience = max(3 * self._timeout, 30.0)
        while True:
            time.sleep(1.0)
            oldest = min(list(self._running.values()), default=None)
            if oldest is not None and time.monotonic() - oldest > patience:
                print(
                    json.dumps({"level": "error", "message": f"a prediction has run for {patience:g} s: restarting"}),
                    flush=True,
                )
                os._exit(HUNG)

    # -- answers and log

    def _response(self, ids: list[str], outputs: list[Any], more: dict[str, Any]) -> InferenceResponse:
        return InferenceResponse(
            model_name=self._config["model"],
            model_version=self._config["version"],
            outputs=[_encode("predictions", outputs), *(_encode(name, values) for name, values in more.items())],
            parameters=Parameters(prediction_ids=ids),
        )

    def _log(
        self,
        request_id: str,
        arrived: float,
        ids: list[str],
        columns: dict[str, list[Any]],
        outputs: list[Any],
        latency: float,
        status: int,
        problem: str | None,
        headers: dict[str, str],
        waited: float,
        more: dict[str, Any],
    ) -> None:
        self._writer.write(
            request_id,
            arrived,
            ids,
            columns,
            outputs if problem is None else [None] * len(ids),
            latency,
            status,
            error=problem,
            arm=AUDIENCE if headers.get(AUDIENCE_HEADER) == "true" else None,
            correlation_id=headers.get("x-correlation-id"),
            client=headers.get("x-windtunnel-client"),
            segment=headers.get(SEGMENT_HEADER),
            shadow=self._copies or headers.get(SHADOW_HEADER) == "true",
            queue_ms=waited,
            confidence=more.get("confidence"),
        )


def _headers(payload: InferenceRequest) -> dict[str, str]:
    found = payload.parameters.headers if payload.parameters else None
    return found or {}


def _datatype(value: Any) -> str:
    return str(getattr(value, "value", value))


def _outputs(result: Any) -> tuple[list[Any], dict[str, Any]]:
    """A model's answer as plain lists: an array, a series, a list, or a frame (its first column is the prediction)."""
    if hasattr(result, "columns"):
        names = [str(name) for name in result.columns]
        if len(names) == 1:
            return result.iloc[:, 0].tolist(), {}
        first = "prediction" if "prediction" in names else names[0]
        rest = {name: result[name].tolist() for name in names if name != first}
        return result[first].tolist(), rest
    values = result.tolist() if hasattr(result, "tolist") else list(result)
    if values and isinstance(values[0], list) and all(isinstance(v, list) and len(v) == 1 for v in values):
        values = [value[0] for value in values]
    return values, {}


def _encode(name: str, values: list[Any]) -> ResponseOutput:
    flat = values
    shape = [len(values)]
    if values and isinstance(values[0], list):
        shape = [len(values), len(values[0])]
        flat = [item for value in values for item in value]
    first = next((item for item in flat if item is not None), None)
    datatype = "FP64"
    if isinstance(first, bool):
        datatype = "BOOL"
    elif isinstance(first, int):
        datatype = "INT64"
    elif isinstance(first, str):
        datatype = "BYTES"
    return ResponseOutput(name=name, shape=shape, datatype=datatype, data=flat)
