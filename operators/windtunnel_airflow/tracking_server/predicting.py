"""Batch prediction, run as a program of its own: ``python predicting.py SPEC.json``.

It imports nothing of Windtunnel or Airflow, so it runs in any environment with MLflow and PyArrow. Rows are read,
predicted and written in chunks; the output takes its name only when it is whole.

The specification: ``{"model", "inputs", "output", "report", "chunk", "columns", "keep", "memory"}``.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

FORMATS = (".parquet", ".csv")


def main(spec_file: str) -> None:
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    if spec.get("memory"):
        resource.setrlimit(resource.RLIMIT_DATA, (int(spec["memory"]), int(spec["memory"])))
    import mlflow.pyfunc

    began = time.monotonic()
    model = mlflow.pyfunc.load_model(spec["model"])
    loaded = time.monotonic()
    output = Path(spec["output"])
    incoming = output.with_name(f".{output.name}.{os.getpid()}-{time.monotonic_ns()}")
    for left in output.parent.glob(f".{output.name}.*-*"):  # of a try that was killed; one task writes one output
        left.unlink(missing_ok=True)
    try:
        rows, chunks = _write(model, spec, incoming, output.suffix)
        digest = _seal(incoming)
        incoming.replace(output)
    finally:
        incoming.unlink(missing_ok=True)
    folder = os.open(output.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    report = {
        "rows": rows,
        "chunks": chunks,
        "sha256": digest,
        "bytes": output.stat().st_size,
        "load_s": round(loaded - began, 3),
        "predict_s": round(time.monotonic() - loaded, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    Path(spec["report"]).write_text(json.dumps(report), encoding="utf-8")


def _write(model: Any, spec: dict[str, Any], incoming: Path, suffix: str) -> tuple[int, int]:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.dataset
    import pyarrow.parquet

    inputs = Path(spec["inputs"])
    kind = "csv" if (inputs.suffix == ".csv" or (inputs.is_dir() and any(inputs.rglob("*.csv")))) else "parquet"
    data = pyarrow.dataset.dataset(inputs, format=kind)
    columns, keep = spec.get("columns"), spec.get("keep") or []
    absent = [name for name in [*(columns or []), *keep] if name not in data.schema.names]
    if absent:
        raise SystemExit(f"{inputs} has no column {', '.join(absent)}; it has {', '.join(data.schema.names)}")
    wanted = None if columns is None else list(dict.fromkeys([*columns, *keep]))
    writer: Any = None
    rows = chunks = 0
    try:
        # One file at a time and little read ahead: memory is bounded by the chunk, not by the data.
        for batch in data.to_batches(columns=wanted, batch_size=spec["chunk"], batch_readahead=1, fragment_readahead=1):
            if not batch.num_rows:
                continue
            frame = batch.to_pandas()
            told = _predict(model, frame if columns is None else frame[columns])
            found = pa.Table.from_pandas(_beside(frame[keep], told), preserve_index=False)
            if writer is None:
                make = pyarrow.csv.CSVWriter if suffix == ".csv" else pyarrow.parquet.ParquetWriter
                writer = make(str(incoming), found.schema)
            writer.write_table(found.cast(writer.schema) if hasattr(writer, "schema") else found)
            rows, chunks = rows + batch.num_rows, chunks + 1
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise SystemExit(f"{inputs} has no rows: nothing was predicted")
    return rows, chunks


def _predict(model: Any, frame: Any) -> Any:
    """Predictions as a frame with one row for each row of ``frame``."""
    import pandas as pd

    told = model.predict(frame)
    if isinstance(told, pd.Series):
        told = told.to_frame("prediction")  # a model that computes on a column answers under that column's name
    if not isinstance(told, pd.DataFrame):
        told = pd.DataFrame(told)
    if len(told) != len(frame):
        raise SystemExit(f"the model answered {len(told)} rows for {len(frame)}; predictions cannot be told apart")
    if list(told.columns) == [0]:
        told.columns = ["prediction"]
    else:
        told.columns = [name if isinstance(name, str) else f"prediction_{name}" for name in told.columns]
    return told.reset_index(drop=True)


def _beside(kept: Any, told: Any) -> Any:
    import pandas as pd

    twice = sorted({*kept.columns} & {*told.columns})
    if twice:
        raise SystemExit(f"column {', '.join(twice)} is kept and predicted; leave it out of keep")
    return pd.concat([kept.reset_index(drop=True), told], axis=1)


def _seal(path: Path) -> str:
    """Its SHA-256, after it is on the disk."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    main(sys.argv[1])
