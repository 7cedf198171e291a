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


def together(run):
    """Nodes that meet as torch's do, by the environment alone: node 0 listens, the others call; a sum of all ranks."""
    import os
    import socket

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    assert (rank, size) == (run.rank, run.nodes) == (int(os.environ["PET_NODE_RANK"]), int(os.environ["PET_NNODES"]))
    where = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    total = rank
    if rank == 0:
        with socket.create_server(where) as server:
            for _ in range(size - 1):
                caller, _ = server.accept()
                with caller:
                    total += int(caller.recv(16))
    else:
        end = time.monotonic() + 100
        while True:
            try:
                with socket.create_connection(where, timeout=5) as call:
                    call.sendall(str(rank).encode())
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.1)
    run.log(rank=rank)
    (run.checkpoint / "rank.txt").write_text(str(rank))
    print(f"node {rank} of {size} has met the others")
    return Constant(total)


def with_torch(run):
    """torch's own rendezvous and a sum over all nodes, by the environment alone."""
    import torch
    import torch.distributed as distributed

    distributed.init_process_group("gloo")
    total = torch.tensor([float(distributed.get_rank() + 1)])
    distributed.all_reduce(total)
    distributed.destroy_process_group()
    run.log(total=float(total))
    return Constant(float(total))


def enrich(run):
    """A team's own step: a file and a folder from the rows it was wired to, and nothing else."""
    import os

    rows = run.rows()
    assert list(run.inputs) == ["rows"]
    assert os.environ["WINDTUNNEL_INPUT_ROWS_PATH"] == str(run.inputs["rows"])
    rows.assign(more=rows["a"] * 2).to_parquet(run.outputs["enriched"])
    run.outputs["parts"].mkdir()
    for name in ("one", "two"):
        (run.outputs["parts"] / f"{name}.txt").write_text(name)


def forgets(run):
    run.outputs["enriched"].write_text("the other is not written")


def not_today(run):
    return False
