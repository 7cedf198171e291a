"""What one look at a running release finds: gathered where the traffic flows, judged elsewhere (``rollout.decide``).

What cannot be read is said to be unknown, never left out: a dead source and an empty one are not the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.errors import FencedError, WindtunnelError
from windtunnel.serving.release import wayback

if TYPE_CHECKING:
    from windtunnel.home import Home
    from windtunnel.rollout import Evidence, QualityNumbers, RolloutState
    from windtunnel.serving.backend import ArmTraffic, ServingBackend, Traffic
    from windtunnel.serving.release.rows import RolloutRows
    from windtunnel.serving.release.values import Value


@dataclass(frozen=True, slots=True)
class Watch:
    """What is watched, as plain JSON.

    Attributes:
        plan: ``windtunnel.rollout.Plan`` as a dictionary.
        step: index of the step this gate stands behind.
        lease_s: how long the lease is renewed for at each look.
        losses: known per-row loss of the quality gate, or None when there is no quality gate.
        predictions: the plan has a prediction gate.
        values: ``windtunnel.serving.release.values.Value`` of each value gate, as dictionaries.
        digest: what the candidate's content must be.
        beside: the further candidates, ``version`` and ``digest`` of each; ``plan`` is that of all together.
        seldon_conn_id: connection to the cluster that serves it; None: it is served in ``home``.
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
    values: list[dict[str, Any]] = field(default_factory=list)
    beside: list[dict[str, str]] = field(default_factory=list)
    seldon_conn_id: str | None = None

    @property
    def candidates(self) -> list[str]:
        """Versions of all candidates, the first named first."""
        return [self.version, *(one["version"] for one in self.beside)]

    def of(self, version: str) -> Watch:
        """The same for one of the candidates alone."""
        digests = {self.version: self.digest, **{one["version"]: one["digest"] for one in self.beside}}
        return replace(self, version=version, digest=digests[version], beside=[])

    @property
    def mirrored(self) -> bool:
        """The plan copies requests to the candidate."""
        return any(step.get("mirror") for step in self.plan.get("steps", ()))

    @property
    def value_gates(self) -> list[Value]:
        from windtunnel.serving.release.values import Value

        return [Value.from_dict(value) for value in self.values]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Watch:
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in plain.items() if key in known})


def gather(home: Home, watch: Watch, backend: ServingBackend, state: RolloutState) -> Evidence:
    """Everything one look needs, from the place where traffic flows. What cannot be read is said to be unknown.

    Both arms' numbers are of the same window: counters read at one instant, rows since the rollout's start.

    Raises:
        FencedError: another holder has taken over.
    """
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
        found["observed_mirror"] = observed.mirror
        found["ready"] = arm.ready if arm else False
        found["down"] = arm is not None and arm.weight > 0 and arm.state == "down"
        found["aborted"] = observed.aborted
        if watch.champion is not None:
            found["no_way_back"] = wayback.known(home, backend, watch.model, watch.rollout_id)
    try:
        found |= _counters(watch, backend.traffic(watch.model))
    except WindtunnelError as error:
        found["traffic_error"] = error.message
    found["digest_ok"] = _digest_ok(home, watch, backend)
    if watch.champion is not None:
        found |= _rows(home, watch, watch.champion, state, backend)
        found |= _functions(home, watch, watch.champion, state, found)
    return Evidence(**found)


# -- the router's counts


def _counters(watch: Watch, traffic: Traffic) -> dict[str, Any]:
    """Counts of the whole, and of each segment that is judged: one nobody has called yet has zeros.

    A plan with mirrored steps counts the candidate's copied requests as its requests, in every step, so that its
    counters never go back.
    """
    whole, segments = traffic.arms, traffic.segments
    if watch.mirrored:
        whole = _with_copies(whole, traffic.shadow, watch.version)
        segments = {
            name: _with_copies(segments.get(name, {}), traffic.shadow_segments.get(name, {}), watch.version)
            for name in segments.keys() | traffic.shadow_segments.keys()
        }
    judged = watch.plan.get("segments") or ()
    return {
        "testers": traffic.audience.get(watch.version),
        "traffic": replace(traffic, arms=whole),
        "segments": {name: replace(traffic, arms=segments.get(name, {})) for name in judged},
    }


def _with_copies(arms: dict[str, ArmTraffic], copied: dict[str, ArmTraffic], version: str) -> dict[str, ArmTraffic]:
    real, copy = arms.get(version), copied.get(version)
    if copy is None or real is None:
        return arms if copy is None else {**arms, version: copy}
    both = replace(
        real,
        requests=real.requests + copy.requests,
        errors=real.errors + copy.errors,
        client_errors=real.client_errors + copy.client_errors,
        latency=real.latency + copy.latency,
    )
    return {**arms, version: both}


# -- the content

#: By manifest: when it was written, and the digest it states.
_digests: dict[Path, tuple[tuple[int, int, int], str | None]] = {}


def _digest_ok(home: Home, watch: Watch, backend: ServingBackend) -> bool | None:
    """Whether the copy that is served is what was registered; None when there is no copy to look at.

    Pods verify their own copies before they serve; their backend says by which digest.
    """
    from windtunnel.serving.artifacts import Folder

    told = getattr(backend, "digest", None)
    if told is not None:
        try:
            served = told(watch.model, watch.version)
        except WindtunnelError:
            return None
        return None if served is None else bool(served == watch.digest)
    folder = Folder.of(home, watch.model, watch.version)
    try:
        stat = folder.manifest_file.stat()
    except OSError:
        return None
    written = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    known = _digests.get(folder.manifest_file)
    if known is None or known[0] != written or not folder.model.is_dir():
        known = _digests[folder.manifest_file] = written, folder.digest()
    return None if known[1] is None else known[1] == watch.digest


# -- the rows


def _rows(home: Home, watch: Watch, champion: str, state: RolloutState, backend: ServingBackend) -> dict[str, Any]:
    """Numbers for the gates on quality, predictions and figures; a log that cannot be read makes these silent."""
    from windtunnel.serving.release import rows

    figures = [value for value in watch.value_gates if value.figure]
    if not (watch.losses or watch.predictions or figures):
        return {}
    found: dict[str, Any] = {}
    values: dict[str, Any] = {}
    errors: dict[str, str] = {}
    try:
        bring = getattr(backend, "bring_rows", None)
        if bring is not None:  # the rows of pods lie elsewhere
            bring(home, watch.model, state.started_at)
        with rows.of(
            home, watch.model, watch.rollout_id, (champion, watch.version), state.started_at, shadow=watch.mirrored
        ) as read:
            if watch.predictions:
                found |= _guarded("prediction", lambda: read.predictions(state.prediction_edges))
            if watch.losses:
                found |= _guarded("quality", lambda: _quality(read, str(watch.losses), state))
            for value in figures:
                try:
                    numbers = _figure(read, value)
                    if numbers is not None:
                        values[value.gate] = numbers
                except Exception as error:
                    errors[value.gate] = f"{type(error).__name__}: {error}"
    except Exception as error:
        message = f"the prediction log cannot be read: {type(error).__name__}: {error}"
        found = {
            "quality_error": message if watch.losses else None,
            "prediction_error": message if watch.predictions else None,
        }
        values, errors = {}, {value.gate: message for value in figures}
    return {**found, "values": values, "values_error": errors}


def _guarded(name: str, make: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {name: make()}
    except Exception as error:
        return {f"{name}_error": f"{type(error).__name__}: {error}"}


def _quality(read: RolloutRows, loss: str, state: RolloutState) -> QualityNumbers | None:
    import numpy as np

    from windtunnel.evaluation.metrics import row_loss
    from windtunnel.rollout import quality_numbers

    joined = read.joined()
    if joined is None:
        return None
    # Sorted, so that the sums do not depend on the order in which rows arrived.
    champion, candidate = (np.sort(row_loss(loss, arm.label, arm.prediction)) for arm in joined)
    return quality_numbers(champion, candidate, state.loss_bound, loss=loss)


def _figure(read: RolloutRows, value: Value) -> QualityNumbers | None:
    from windtunnel.serving.release.values import numbers

    joined = read.joined(value.figure)
    return None if joined is None else numbers(value, joined[0].label, joined[1].label)


def _functions(
    home: Home, watch: Watch, champion: str, state: RolloutState, found: Mapping[str, Any]
) -> dict[str, Any]:
    """Numbers from teams' own functions, beside those in ``found``."""
    from windtunnel.serving.release.values import Context, functions

    values, errors = dict(found.get("values") or {}), dict(found.get("values_error") or {})
    for value in watch.value_gates:
        if value.source is None:
            continue
        context = Context(watch.model, champion, watch.version, state.started_at, time.time(), home)
        key = (str(home.root), watch.rollout_id, watch.version, value.gate)
        try:
            values[value.gate] = functions.ask(key, value, context)
        except WindtunnelError as error:
            errors[value.gate] = error.message
    return {"values": values, "values_error": errors}
