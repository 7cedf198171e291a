"""The contract between a rollout and the place where traffic flows.

``apply`` writes a desired state and brings the world to it; ``observe`` reads back what is.
Applying the same desired state twice changes nothing (SRV-1). Any implementation passes
``tests/conformance/serving_backend.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from windtunnel.stats.histogram import Histogram


@dataclass(frozen=True, slots=True)
class Arm:
    """One version that may take traffic.

    Attributes:
        version: the registry's version number as a string ("3").
        digest: content digest sealed at registration; checked before the model is loaded.
        source: where the sealed artifacts are (``models:/NAME/VERSION``, a path or URI).
        weight: percent of the traffic, 0 to 100.
    """

    version: str
    digest: str
    source: str
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Release:
    """Desired state of one model's traffic. Weights of all arms sum to 100, or to 0 when nothing may serve.

    Attributes:
        token: fencing token from the registry; a write with a lower token than the last is refused.
        rollout_id: the rollout this state belongs to; refused once that rollout was aborted.
        lease_until: the guard takes candidates to 0 after this time (seconds since the epoch)
            unless it is renewed; None while no candidate is exposed.
        keep_warm_s: how long a version that lost its traffic stays loaded.
    """

    model: str
    champion: Arm | None
    candidates: tuple[Arm, ...] = ()
    token: int = 0
    rollout_id: str | None = None
    lease_until: float | None = None
    keep_warm_s: float = 86_400.0
    correlation_id: str | None = None
    #: signature, warm-up rows and serving settings by version; see ``LocalBackend``
    settings: dict[str, Any] = field(default_factory=dict)

    def arms(self) -> tuple[Arm, ...]:
        return ((self.champion,) if self.champion else ()) + self.candidates


@dataclass(frozen=True, slots=True)
class ArmStatus:
    """What one version's server is like right now."""

    version: str
    weight: int  # as the router has it, not as we asked
    ready: bool
    state: str  # loading | ready | warm | failed | absent
    message: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """What is, as read back from the router and the servers."""

    model: str
    arms: dict[str, ArmStatus]
    token: int
    rollout_id: str | None
    aborted: str | None  # reason, if the current rollout was taken to 0 by guard or person
    lease_until: float | None


@dataclass(frozen=True, slots=True)
class ArmTraffic:
    """Cumulative counts of one version since ``Traffic.epoch``, from the router."""

    requests: int
    errors: int  # 5xx, resets and time-outs; 4xx are the client's
    client_errors: int
    latency: Histogram  # milliseconds, as the router saw it


@dataclass(frozen=True, slots=True)
class Traffic:
    """Router counters of all arms of a model, read at the same instant.

    ``epoch`` changes when counters started again from zero.
    """

    model: str
    epoch: str
    at: float
    arms: dict[str, ArmTraffic]


class ServingBackend(Protocol):
    """What a rollout needs of the place where traffic flows."""

    def apply(self, release: Release) -> Observed:
        """Bring the world to ``release``: servers verified, loaded, warmed, ready; then weights.

        Idempotent. Candidates with weight 0 are deployed but get no traffic.

        Raises:
            FencedError: the token is older than the last one, or the rollout was aborted.
            IntegrityError: the artifacts are not what was sealed.
            NotReadyError: a server did not become ready; traffic is as it was before.
            ServingError: anything else; traffic is as it was before.
        """

    def observe(self, model: str) -> Observed:
        """Read back what is; a model never deployed has no arms and token 0."""

    def renew(self, model: str, token: int, until: float) -> None:
        """Extend the lease of the running rollout.

        Raises:
            FencedError: the token is not the current one, or the rollout was aborted.
        """

    def abort(self, model: str, reason: str, by: str) -> Observed:
        """Take every candidate to 0 now, whoever holds the rollout; needs no registry and no Airflow."""

    def traffic(self, model: str) -> Traffic:
        """Router counters of all arms.

        Raises:
            UnavailableError: the counters cannot be read (dead source: never an empty answer).
        """
