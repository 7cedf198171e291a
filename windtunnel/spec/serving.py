"""How a version is served (SRV-9)."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field, model_validator

from windtunnel.spec.base import Duration, Part, Size
from windtunnel.spec.pod import MIG, ServerPod

#: Seldon's two APIs: SeldonDeployment; Experiment, Model and Server.
SeldonApi = Literal["core1", "core2"]


class Scale(Part):
    """When a version gets more servers, up to ``maximum``, and when fewer; each that is given counts, the one that asks
    for most servers decides (SRV-7).

    Attributes:
        cpu: percent of the cores asked for that the servers use on average; 80 where nothing is given.
        queue: requests of each server that run or wait.
        rate: requests per second of each server.
        latency: 95 of 100 requests are answered within this.
    """

    cpu: int | None = Field(None, ge=1, le=100)
    queue: float | None = Field(None, gt=0)
    rate: float | None = Field(None, gt=0)
    latency: Duration | None = None

    @property
    def measured(self) -> tuple[str, ...]:
        """What is given and is not the CPU: it has to be measured by somebody."""
        return tuple(name for name in ("queue", "rate", "latency") if getattr(self, name) is not None)


class Serving(Part):
    """Settings of each version's model server.

    Attributes:
        replicas: servers of each version.
        minimum, maximum: bounds for autoscaling, where the target scales.
        scale: what they follow between these bounds; null: the CPU.
        cpu: cores of each server.
        memory: bytes of each server, e.g. ``1Gi``.
        disk: bytes that each server's pod may keep on its node, e.g. ``20Gi``: the model, temporary files, rows not
            sent yet (target kubernetes); a pod that keeps more is evicted.
        gpu: GPUs of each server, or slices of one where ``mig`` says which (target kubernetes).
        gpu_type: the GPU: the whole value of ``pod.gpu_label``, e.g. ``NVIDIA-H200`` (target kubernetes).
        mig: MIG profile of each slice, e.g. ``1g.10gb`` (target kubernetes).
        pod: which nodes the servers' pods run on (target kubernetes).
        timeout: a request without an answer after this gets 504.
        batch: largest number of requests served together; null for no batching.
        batch_delay: longest wait for a batch to fill.
        ready_within: a server that is not ready by then is not used.
        drain: time for running requests before a server is stopped.
        max_concurrency: requests in flight of a version (of each of its servers in a cluster); more wait.
        queue: requests that may wait beyond that; more are answered 503 with Retry-After.
        sticky: request header that keeps a user on one arm while weights do not change.
        flush: the prediction log is published at least this often; a crash loses at most this much.
        sample: fraction of predictions logged.
        log: a collector writes the rows of this model's pods into the prediction log (target kubernetes); gates that
            compare rows need it.
        environment: name of a server environment of its own, where the model needs other packages than the common one
            has: made by ``windtunnel setup-serving NAME FILE`` on one machine, an image in ``images`` of the settings
            of Seldon in a cluster.
        api: Seldon's API that serves it (target kubernetes): what it cannot do is refused when the description is read,
            and a release where the connection's settings name the other one. Null: whichever the connection names.
    """

    replicas: int = Field(1, ge=1)
    minimum: int | None = Field(None, ge=1)
    maximum: int | None = Field(None, ge=1)
    scale: Scale | None = None
    cpu: float = Field(1.0, gt=0)
    memory: Size = 2**30
    disk: Size = 8 * 2**30
    gpu: int = Field(0, ge=0)
    gpu_type: str | None = Field(None, pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")
    mig: str | None = Field(None, pattern=MIG)
    pod: ServerPod | None = None
    timeout: Duration = timedelta(seconds=10)
    max_concurrency: int = Field(64, ge=1)
    queue: int = Field(256, ge=0)
    batch: int | None = Field(None, ge=2)
    batch_delay: Duration = timedelta(milliseconds=5)
    ready_within: Duration = timedelta(seconds=60)
    drain: Duration = timedelta(seconds=10)
    sticky: str | None = None
    flush: Duration = timedelta(seconds=10)
    sample: float = Field(1.0, ge=0, le=1)
    log: bool = False
    environment: str | None = Field(None, pattern=r"^[a-z][a-z0-9-]{0,39}$")
    api: SeldonApi | None = None

    @property
    def least(self) -> int:
        """Servers that a version has at least."""
        return self.minimum or self.replicas

    @model_validator(mode="after")
    def _gpus(self) -> Serving:
        for name, value in (("gpu_type", self.gpu_type), ("mig", self.mig)):
            if value is not None and self.gpu < 1:
                raise ValueError(f"{name} {value} needs gpu: how many of them, found {self.gpu}")
        return self

    @model_validator(mode="after")
    def _bounds(self) -> Serving:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        if self.maximum is None and (self.minimum is not None or self.scale is not None):
            name = "minimum" if self.minimum is not None else "scale"
            raise ValueError(f"{name} is for autoscaling, which needs maximum; for a fixed number say replicas")
        if self.maximum is not None and self.minimum is None and self.replicas > self.maximum:
            raise ValueError(f"replicas {self.replicas} is above maximum {self.maximum}")
        return self
