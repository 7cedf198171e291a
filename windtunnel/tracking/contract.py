"""What goes into a run and what comes out of it: plain values, readable by every process that meets the run.

Exit codes of the process that runs the user's code (the same in a pod):

    ==== ========= =====================================================================================
    code failure   meaning
    ==== ========= =====================================================================================
    0              done
    65   data      the data cannot be used; never retried (also a corrupt or missing input)
    70   code      the entry point is missing, raised, or returned the wrong thing; 1 and other codes count as this
    71   resource  out of memory, disk or time; retried only when resources change
    75   transient something outside failed (a server, the network, a signal from outside); retried
    130  cancelled a person cancelled it
    ==== ========= =====================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from windtunnel.data.steps import Output
from windtunnel.errors import TrainingError
from windtunnel.home import Home

if TYPE_CHECKING:
    from windtunnel.spec import ExtraStep, Model

Failure = Literal["data", "code", "resource", "transient", "cancelled"]
State = Literal["absent", "starting", "running", "succeeded", "failed", "cancelled", "lost"]

EXIT: dict[Failure, int] = {"data": 65, "code": 70, "resource": 71, "transient": 75, "cancelled": 130}
FAILURE_OF_EXIT: dict[int, Failure] = {code: failure for failure, code in EXIT.items()}

#: States after which nothing happens by itself any more.
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled", "lost"})

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,119}")


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything a run needs, as plain JSON. No secret: credentials come through the environment.

    Attributes:
        run_id: MLflow run id made beforehand by the operator (or any safe name when there is no MLflow run).
        model: the model's name.
        entry_point: ``package.module:function`` taking one ``windtunnel.Run``.
        kind: ``train`` returns a model; ``step`` writes its outputs.
        inputs: name -> file with digest and size, verified before work starts; training needs ``rows``.
        outputs: names of the files a step must write.
        features: ``Feature`` dictionaries, in the order the model takes them.
        resources: ``{cpu, memory, disk, gpu, gpu_type}``; memory and disk in bytes.
        time_limit: seconds.
        environment: variables for the user's code.
        python: interpreter; the caller's own unless told.
        python_path: folders from which the user's code is imported, beside installed packages.
        trust: module prefixes whose types may be stored in a model, beside scikit-learn's and the entry point's own.
        pickle: the model may be stored by pickle where nothing safer can hold it.
        when: ``package.module:function`` taking the same Run; False skips the step.
        item: the item of a fan-out this run is for.
        tracking_uri: MLflow server; None for a run without MLflow.
        code: folder whose git commit is recorded; the entry point's own folder unless told.
        context: ``dag_id``, ``dag_run_id``, ``task_id``, ``try_number`` and whatever else is worth a tag.
        publish: ``{dag, run, task}``: outputs go to that step of the pipeline when the run has succeeded.
        prices: price table by which the runner says what the run cost; None: it does not (somebody else may).
    """

    run_id: str
    model: str
    entry_point: str
    kind: Literal["train", "step"] = "train"
    params: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    inputs: dict[str, Output] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)
    target: str | None = None
    time: str | None = None
    resources: dict[str, Any] = field(default_factory=dict)
    time_limit: float = 3600.0
    environment: dict[str, str] = field(default_factory=dict)
    python: str | None = None
    python_path: list[str] = field(default_factory=list)
    trust: list[str] = field(default_factory=list)
    pickle: bool = False
    when: str | None = None
    item: Any = None
    tracking_uri: str | None = None
    data_digest: str | None = None
    description_digest: str | None = None
    code: str | None = None
    correlation_id: str | None = None
    cause: str | None = None
    context: dict[str, str] = field(default_factory=dict)
    publish: dict[str, str] | None = None
    prices: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_run_id(self.run_id)

    @classmethod
    def for_training(cls, model: Model, run_id: str, rows: Output, **more: Any) -> RunSpec:
        """The training step of ``model`` on ``rows``.

        Args:
            run_id: MLflow run id, from ``server.connect(uri).create_run(...)``.
            rows: the snapshot's training rows, see ``windtunnel.data.steps``.
            more: the other fields: ``tracking_uri``, ``correlation_id``, ``cause``, ``context``, ``python_path``,
                and ``inputs`` beside the rows.
        """
        training = model.training
        inputs = {"rows": rows, **more.pop("inputs", {})}
        return cls(
            run_id=run_id,
            model=model.name,
            entry_point=training.entry_point,
            params=dict(training.params),
            seed=training.seed,
            inputs=inputs,
            features=[feature.model_dump(mode="json") for feature in model.data.features],
            target=model.data.target,
            time=model.data.time,
            resources=training.resources.model_dump(mode="json"),
            time_limit=training.time_limit.total_seconds(),
            environment=dict(training.environment),
            trust=list(training.trust),
            pickle=training.pickle,
            data_digest=more.pop("data_digest", rows.digest),
            description_digest=model.digest,
            **more,
        )

    @classmethod
    def for_step(cls, model: Model, step: ExtraStep, run_id: str, inputs: Mapping[str, Output], **more: Any) -> RunSpec:
        """A step of the team's own (PIP-9); its outputs go to ``more["publish"]`` = ``{dag, run, task}``.

        Args:
            inputs: output name -> Output for the names in ``step.inputs``; others are not passed on (PIP-2).
            more: as for ``for_training``; ``item`` is the item of a fan-out.

        Raises:
            TrainingError: an input the step names is not given.
        """
        missing = [name for name in step.inputs if name not in inputs]
        if missing:
            raise TrainingError(
                f"step {step.name} needs {', '.join(missing)}; there is {', '.join(sorted(inputs)) or 'nothing'}",
                hint="the step that writes it must come before: see steps.after",
            )
        return cls(
            run_id=run_id,
            model=model.name,
            entry_point=step.run,
            kind="step",
            params=more.pop("params", dict(model.training.params)),
            seed=model.training.seed,
            inputs={name: inputs[name] for name in step.inputs},
            outputs=list(step.outputs),
            features=[feature.model_dump(mode="json") for feature in model.data.features],
            target=model.data.target,
            time=model.data.time,
            resources=model.training.resources.model_dump(mode="json"),
            time_limit=step.time_limit.total_seconds(),
            environment=dict(model.training.environment),
            when=step.when,
            description_digest=model.digest,
            **more,
        )

    def to_dict(self) -> dict[str, Any]:
        plain = asdict(self)
        plain["inputs"] = {name: given.to_dict() for name, given in self.inputs.items()}
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RunSpec:
        known = {f.name for f in fields(cls)}
        kept = {key: value for key, value in plain.items() if key in known}
        kept["inputs"] = {name: Output.from_dict(given) for name, given in (kept.get("inputs") or {}).items()}
        return cls(**kept)


def check_run_id(run_id: str) -> str:
    """A run id that can name a folder.

    Raises:
        TrainingError: it cannot.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise TrainingError(f"{run_id!r} cannot be a run id", hint="use at most 120 letters, digits, '_', '.', '-'")
    return run_id


def run_dir(home: Home, run_id: str) -> Path:
    """``HOME/runs/RUN_ID``."""
    return home.runs / check_run_id(run_id)


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Where a run stands.

    Attributes:
        state: ``absent`` was never started; ``lost`` means its runner died without a word.
        failure: why it failed, as the retry policy needs it.
        message: one sentence for people.
        memory: bytes its processes held at the last look; peak over the run in ``peak_memory``.
        attempt: how often it was started.
    """

    run_id: str
    state: State
    exit_code: int | None = None
    failure: Failure | None = None
    message: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    heartbeat: float | None = None
    memory: int | None = None
    peak_memory: int | None = None
    cpu_seconds: float | None = None
    attempt: int = 0
    pid: int | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RunStatus:
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in plain.items() if key in known})


@dataclass(frozen=True, slots=True)
class RunHandle:
    """A started, or found, run.

    Attributes:
        attached: it was there already; nothing was started.
        status: where it stood at that moment.
    """

    run_id: str
    folder: Path
    attached: bool
    status: RunStatus


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a succeeded run leaves.

    Attributes:
        model_uri: ``runs:/RUN_ID/model``; the source of a model version.
        model_path: the same bytes on this machine.
        digest: content digest of those bytes (``windtunnel.evidence.manifest``), the one the registry's sealer finds.
        manifest: every file with its SHA-256 and size.
        metrics: last value of each metric logged.
        outputs: a step's outputs, by name.
        durations: seconds by stage.
        skipped: ``when`` answered False; nothing was done.
    """

    run_id: str
    kind: Literal["train", "step"]
    model_uri: str | None = None
    model_path: str | None = None
    digest: str | None = None
    manifest: dict[str, Any] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)
    skipped: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RunResult:
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in plain.items() if key in known})
