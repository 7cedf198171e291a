"""How a model is trained, and with what."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from pydantic import Field, model_validator

from windtunnel.spec.base import Code, Duration, Part, Size
from windtunnel.spec.pod import MIG, Pod
from windtunnel.spec.prices import Prices


class Resources(Part):
    """What a training run may use; limits locally, requests and limits in a pod.

    Attributes:
        cpu: cores.
        memory: bytes, e.g. ``2Gi``; more ends the run as a resource error.
        disk: bytes its folder may hold.
        gpu: GPUs, or slices of one where ``mig`` says which.
        gpu_type: part of the name of the GPU, e.g. ``H200``; in a pod the whole value of ``pod.gpu_label``.
        mig: MIG profile of each slice, e.g. ``1g.10gb``; pods only.
        shared_memory: bytes of ``/dev/shm``, beside ``memory``; pods only, where it is 64 MB unless told.
    """

    cpu: float = Field(1.0, gt=0)
    memory: Size = 2 * 2**30
    disk: Size = 10 * 2**30
    gpu: int = Field(0, ge=0)
    gpu_type: str | None = None
    mig: str | None = Field(None, pattern=MIG)
    shared_memory: Size | None = None

    @model_validator(mode="after")
    def _slices(self) -> Resources:
        if self.mig is not None and self.gpu < 1:
            raise ValueError(f"mig {self.mig} needs gpu: the number of slices, found {self.gpu}")
        return self


class Training(Part):
    """The training step.

    Attributes:
        entry_point: ``package.module:function``, a ``def train(run: windtunnel.Run) -> model``.
        params: given to it as ``run.params`` and logged.
        recipe: a name for this way of training; a change of it is a MINOR version.
        seed: given to it as ``run.seed``.
        resources: what it may use.
        time_limit: after this the run is ended and counts as a resource error.
        target: ``local`` or ``kubernetes``; the model's own unless told.
        environment: variables for the training process; no secrets, they stand in the description.
        trust: modules whose types may be stored in the model, beside scikit-learn's and the entry point's own.
        pickle: allow a model that only pickle can hold; whoever loads it runs what is in it.
        pod: the pod it trains in, where the target is ``kubernetes``.
        prices: what its hours cost; the installation's own table unless told.
        nodes: pods that train together, each with ``resources`` of its own and a number; all of them or none.
        pool: Airflow pool of the train task: how many trainings of a team run at once.
        pool_slots: how many of the pool's slots it takes.
        priority: Airflow's ``priority_weight``: who goes first where a pool is full.
    """

    entry_point: Code
    params: dict[str, Any] = Field(default_factory=dict)
    recipe: str | None = None
    seed: int = 0
    resources: Resources = Resources()
    time_limit: Duration = timedelta(hours=1)
    environment: dict[str, str] = Field(default_factory=dict)
    trust: list[str] = Field(default_factory=list)
    pickle: bool = False
    target: Literal["local", "kubernetes"] | None = None
    pod: Pod | None = None
    prices: Prices | None = None
    nodes: int = Field(1, ge=1, le=1000)
    pool: str | None = Field(None, min_length=1, max_length=256)
    pool_slots: int = Field(1, ge=1)
    priority: int = Field(1, ge=-(2**31), lt=2**31)


class ExtraStep(Part):
    """A team's own step between ours (PIP-9).

    Attributes:
        run: ``package.module:function`` taking ``(run: windtunnel.Run)``.
        name: its name; a task of the DAG.
        before: steps that wait for it.
        after: the steps it follows: ``data``, ``check``, ``train``, ``evaluate``, ``register`` or another extra step.
        inputs: names of outputs of earlier steps it reads.
        outputs: names of files it writes.
        when: ``package.module:function`` taking the same and answering True to run.
        critical: False lets the pipeline go on when it fails.
        over: fan out: one mapped run per item of this list.
        time_limit: after this it is ended.
        target: ``local``, on the worker, or ``kubernetes``, in a pod.
        pod: the pod it runs in; the training's unless told.
        resources: what it may use; the training's unless told.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    run: Code
    after: list[str] = Field(default_factory=lambda: ["data"], min_length=1)
    before: list[str] = Field(default_factory=list)
    inputs: list[str] = Field(default_factory=list)
    outputs: list[str] = Field(default_factory=list)
    when: Code | None = None
    critical: bool = True
    over: list[Any] | None = None
    time_limit: Duration = timedelta(hours=1)
    target: Literal["local", "kubernetes"] = "local"
    pod: Pod | None = None
    resources: Resources | None = None
