"""Training functions as an image would hold them. Imported only by the processes under test."""

import time
from pathlib import Path

from windtunnel.errors import DataError


class Constant:
    """A model that answers with one value."""

    def __init__(self, value):
        self.value = value

    def predict(self, frame):
        import numpy as np

        return np.full(len(frame), float(self.value))


def train(run):
    """Three epochs, each kept; how many of them were done in this attempt becomes the model's answer."""
    kept = run.checkpoint / "epoch.txt"
    begun = int(kept.read_text()) if kept.exists() else 0
    wall = Path(run.params["wall"]) if "wall" in run.params else None
    for epoch in range(begun, 3):
        run.log(epoch=epoch)
        part = run.checkpoint / "epoch.tmp"
        part.write_text(str(epoch + 1))
        part.replace(kept)
        print(f"epoch {epoch + 1} of 3 is done, rows {len(run.rows())}")
        while wall is not None and epoch + 1 == int(run.params["until"]) and not wall.exists():
            time.sleep(0.05)
    return Constant(3 - begun)


def bad_data(run):
    raise DataError("the column is empty")
