"""A model so small that its whole life fits a test."""

from __future__ import annotations

import time
from typing import Any


def train(run: Any) -> Any:
    from sklearn.linear_model import Ridge

    rows = run.rows()
    model = Ridge(alpha=float(run.params.get("alpha", 1.0))).fit(rows[list(run.features)], rows[run.target])
    print("a line of the training's own", flush=True)
    run.log(rmse=float(((model.predict(rows[list(run.features)]) - rows[run.target]) ** 2).mean() ** 0.5))
    return model


def slow(run: Any) -> Any:
    (run.folder / "began").touch()
    for _ in range(600):
        time.sleep(0.1)
    return train(run)


def broken(run: Any) -> Any:
    raise KeyError("no such column in the training's own code")


def poor_data(run: Any) -> Any:
    from windtunnel.errors import DataError

    raise DataError("the rows are no good")


def part(run: Any) -> None:
    run.outputs["part"].write_text(f"part {run.item}")


def gather(run: Any) -> None:
    parts = sorted(path.read_text() for path in run.inputs["part"].iterdir())
    run.outputs["all"].write_text("; ".join(parts))


def never(run: Any) -> bool:
    return False


def unwanted(run: Any) -> None:
    raise AssertionError("when said no")


def note(run: Any) -> None:
    raise RuntimeError("a step that is not critical may fail")
