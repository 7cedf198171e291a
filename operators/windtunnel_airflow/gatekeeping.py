"""One look at a running release: collect the evidence, let the brain decide, write it down, renew the lease.

Synchronous and free of Airflow: the trigger calls it in a thread, the sensor's own path directly, tests with any
``ServingBackend``. Everything it needs between two looks is in the look log, so it may die at any line (ROL-6).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

from windtunnel.errors import FencedError
from windtunnel_airflow.plain import plain

if TYPE_CHECKING:
    from windtunnel.home import Home
    from windtunnel.rollout import Evidence, RolloutState
    from windtunnel.serving.backend import ServingBackend


class Looks(Protocol):
    """What is needed of ``windtunnel.serving.looklog.LookLog``."""

    def append(self, look: dict[str, Any]) -> None: ...
    def read(self, rollout_id: str) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Watch:
    """What is watched, as plain JSON.

    Attributes:
        plan: ``windtunnel.rollout.Plan`` as a dictionary.
        step: index of the step this gate stands behind.
        lease_s: how long the lease is renewed for at each look.
        losses: known per-row loss of the quality gate, or None when there is no quality gate.
        predictions: the plan has a prediction gate.
        digest: what the candidate's content must be.
    """

    home: str
    model: str
    version: str
    champion: str | None
    rollout_id: str
    token: int
    plan: dict[str, Any]
    step: int
    lease_s: float
    losses: str | None = None
    predictions: bool = False
    correlation_id: str | None = None
    digest: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Watch:
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in plain.items() if key in known})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gate says after a look.

    Attributes:
        action: ``hold``, ``advance``, ``promote``, ``roll_back`` or ``withdraw``.
        step: index of the step it judged; ``at``: when.
    """

    action: str
    outcome: str
    reason: str
    numbers: dict[str, Any]
    step: int
    at: float

    @property
    def passed(self) -> bool:
        return self.action in ("advance", "promote")

    @property
    def retreat(self) -> bool:
        """Traffic is to go back."""
        return self.action in ("roll_back", "withdraw")

    @property
    def over(self) -> bool:
        return self.action != "hold"

    def to_dict(self) -> dict[str, Any]:
        return {**plain(asdict(self)), "passed": self.passed}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Answer:
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in plain.items() if key in known})


def settled(watch: Watch, looks: list[dict[str, Any]]) -> Answer | None:
    """The answer of this step's gate, if an earlier look gave it: a gate that died after its last look ends here.

    A rollout that was rolled back is over for every gate; a step before the present one has passed.
    """
    if not looks:
        return None
    last = _answer(looks[-1])
    if last.action in ("roll_back", "withdraw"):
        return last
    for look in reversed(looks):
        answer = _answer(look)
        if answer.passed and answer.step == watch.step:
            return answer
    return None


def _answer(look: Mapping[str, Any]) -> Answer:
    decision = look["decision"]
    after = int(decision["state"]["step"])
    return Answer(
        action=str(decision["action"]),
        outcome=str(decision["outcome"]),
        reason=str(decision["reason"]),
        numbers=dict(decision.get("numbers") or {}),
        # ``advance`` leaves the state at the next step; the look itself judged the one before.
        step=after - 1 if decision["action"] == "advance" else after,
        at=float(look["at"]),
    )


def entered(state: RolloutState, step: int) -> RolloutState:
    """``state`` at ``step``: unchanged, or moved on when a person let the gates between pass without a look (ROL-8)."""
    if state.step >= step:
        return state
    return replace(
        state, step=step, entered_at=None, lost_s=0.0, inconclusive_since=None, step_requests=0, step_champion=0
    )


def look(
    watch: Watch,
    backend: ServingBackend,
    log: Looks,
    now: float,
    *,
    gather: Callable[[Watch, ServingBackend, RolloutState], Evidence] | None = None,
) -> Answer:
    """One look: evidence in, decision out, written down; the lease is renewed unless traffic is to go back.

    Args:
        now: seconds since the epoch.
        gather: ``gather_evidence`` unless told.

    Raises:
        FencedError: another holder has taken over; nothing was written.
    """
    from windtunnel.rollout import Plan, RolloutState, decide, look_record, resume

    looks = log.read(watch.rollout_id)
    if (before := settled(watch, looks)) is not None:
        return before
    begun = RolloutState.begin(champion=watch.champion, candidate=watch.version, at=now)
    state = entered(resume(looks) or begun, watch.step)
    evidence = (gather or gather_evidence)(watch, backend, state)
    decision = decide(Plan.from_dict(watch.plan), state, evidence, now)
    record = look_record(watch.rollout_id, now, evidence, decision)
    log.append({**record, "token": watch.token, "correlation_id": watch.correlation_id})
    answer = _answer(record)
    if watch.lease_s > 0 and not answer.retreat:
        renew(backend, watch, now)
    return answer


def renew(backend: ServingBackend, watch: Watch, now: float) -> None:
    """Renew the lease. An abort met here is evidence for the next look, another holder ends this one.

    Raises:
        FencedError: another holder has taken over.
    """
    try:
        backend.renew(watch.model, watch.token, now + watch.lease_s)
    except FencedError:
        observed = backend.observe(watch.model)
        if observed.token > watch.token or observed.aborted is None:
            raise


def gather_evidence(watch: Watch, backend: ServingBackend, state: RolloutState) -> Evidence:
    """Everything one look needs, from the place where traffic flows. What cannot be read is said to be unknown.

    Raises:
        FencedError: another holder has taken over.
    """
    from windtunnel.errors import WindtunnelError
    from windtunnel.home import Home
    from windtunnel.rollout import Evidence

    found: dict[str, Any] = {}
    try:
        observed = backend.observe(watch.model)
    except WindtunnelError as error:
        found["traffic_error"] = f"the traffic's state cannot be read: {error.message}"
    else:
        if observed.token > watch.token:
            raise FencedError(
                f"rollout {watch.rollout_id} of {watch.model} is held with token {observed.token} by now, "
                f"this gate has {watch.token}"
            )
        arm = observed.arms.get(watch.version)
        found["observed_weight"] = arm.weight if arm else 0
        found["ready"] = arm.ready if arm else False
        found["aborted"] = observed.aborted
    try:
        found["traffic"] = backend.traffic(watch.model)
    except WindtunnelError as error:
        found["traffic_error"] = error.message
    home = Home.find(watch.home)
    found["digest_ok"] = _digest_ok(home, watch)
    if watch.champion is not None and (watch.losses or watch.predictions):
        found |= _rows(home, watch, state)
    return Evidence(**found)


def _digest_ok(home: Home, watch: Watch) -> bool | None:
    """Whether the copy that is served is what was registered; None when there is no copy to look at."""
    from windtunnel.serving.artifacts import Folder

    digest = Folder.of(home, watch.model, watch.version).digest()
    return None if digest is None else digest == watch.digest


def _rows(home: Home, watch: Watch, state: RolloutState) -> dict[str, Any]:
    """Numbers for the quality and prediction gates, from the prediction log and the labels."""
    found: dict[str, Any] = {}
    try:
        frame = _answered(home, watch, state)
    except Exception as error:  # a log that cannot be read makes its gates silent, never the look
        message = f"the prediction log cannot be read: {type(error).__name__}: {error}"
        return {
            "quality_error": message if watch.losses else None,
            "prediction_error": message if watch.predictions else None,
        }
    if watch.predictions:
        found |= _guarded("prediction", lambda: _prediction(frame, watch, state))
    if watch.losses:
        found |= _guarded("quality", lambda: _quality(home, frame, watch, state))
    return found


def _guarded(name: str, make: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {name: make()}
    except Exception as error:
        return {f"{name}_error": f"{type(error).__name__}: {error}"}


def _answered(home: Home, watch: Watch, state: RolloutState) -> Any:
    """Rows of both arms since the rollout's first look that got an answer; mirrored requests are no evidence."""
    from windtunnel.serving.predictions import PredictionLog

    columns = ["prediction_id", "time", "version", "prediction", "shadow", "error"]
    versions = [version for version in (watch.champion, watch.version) if version]
    # Without a bound above: rows carry the servers' clock, which may be ahead of this one.
    frame = PredictionLog(home.predictions).read(
        watch.model, state.started_at, state.started_at + 10 * 365 * 86_400, columns=columns, versions=versions
    )
    shadow = frame["shadow"].fillna(False).astype(bool)
    return frame[~shadow & frame["error"].isna() & frame["prediction"].notna()]


def _arm(frame: Any, version: str | None, column: str) -> Any:
    return frame.loc[frame["version"].astype(str) == str(version), column].to_numpy()


def _prediction(frame: Any, watch: Watch, state: RolloutState) -> Any:
    from windtunnel.rollout import prediction_numbers

    return prediction_numbers(
        _arm(frame, watch.champion, "prediction"), _arm(frame, watch.version, "prediction"), state.prediction_edges
    )


def _quality(home: Home, frame: Any, watch: Watch, state: RolloutState) -> Any:
    from windtunnel.evaluation.metrics import row_loss
    from windtunnel.rollout import quality_numbers
    from windtunnel.serving.labels import Labels

    labels = Labels(home.labels).read(watch.model, state.started_at)
    if not len(labels):
        return None
    newest = labels.sort_values("revision", kind="stable").drop_duplicates("prediction_id", keep="last")
    both = frame.merge(newest[["prediction_id", "label"]], on="prediction_id", how="inner")
    assert watch.losses is not None
    both = both.assign(loss=row_loss(watch.losses, both["label"].to_numpy(), both["prediction"].to_numpy()))
    return quality_numbers(
        _arm(both, watch.champion, "loss"), _arm(both, watch.version, "loss"), state.loss_bound, loss=watch.losses
    )
