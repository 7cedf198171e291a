"""How a version is served (SRV-9)."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field, model_validator

from windtunnel.spec.base import Duration, Part, Size


class Serving(Part):
    """Settings of each version's model server.

    Attributes:
        replicas: servers of each version.
        minimum, maximum: bounds for autoscaling, where the target scales.
        cpu: cores of each server.
        memory: bytes of each server, e.g. ``1Gi``.
        gpu: GPUs of each server.
        timeout: a request without an answer after this gets 504.
        batch: largest number of requests served together; null for no batching.
        batch_delay: longest wait for a batch to fill.
        ready_within: a server that is not ready by then is not used.
        drain: time for running requests before a server is stopped.
        max_concurrency: requests in flight before the router answers 503 with Retry-After.
        queue: requests that may wait beyond that.
        sticky: request header that keeps a user on one arm while weights do not change.
        flush: the prediction log is published at least this often; a crash loses at most this much.
        sample: fraction of predictions logged.
        log: a collector writes the rows of this model's pods into the prediction log (target kubernetes); gates that
            compare rows need it.
        environment: requirements file of a server environment of its own.
    """

    replicas: int = Field(1, ge=1)
    minimum: int | None = Field(None, ge=1)
    maximum: int | None = Field(None, ge=1)
    cpu: float = Field(1.0, gt=0)
    memory: Size = 2**30
    gpu: int = Field(0, ge=0)
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
    environment: str | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Serving:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        return self
