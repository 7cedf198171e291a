"""The contract between a rollout and the place where traffic flows.

``apply`` writes a desired state and brings the world to it; ``observe`` reads back what is.
Applying the same desired state twice changes nothing (SRV-1). Any implementation passes
``tests/conformance/serving_backend.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

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
        lease_s: what the lease is renewed for each time; a clock that was set back makes none last longer. None: not
            known.
        keep_warm_s: how long a version that lost its traffic stays loaded.
        stage: how far the rollout has come; under one token a write of an earlier stage is refused, so that a worker
            that was paused and goes on later cannot take traffic back to a step that is over.
        mirror: percent of the champion's requests that are copied to the one candidate, whose answers nobody gets.
            Only while that candidate has weight 0.
        audience: ``(header, value)``: requests with that header go to the first candidate whatever its weight. They
            choose themselves, so they are counted apart (``Traffic.audience``). At weight 100 there is nothing to
            choose: all requests count as one.
        segment_header: request header whose value is counted by (``Traffic.segments``).
        segments: values of it that are counted whatever else clients send; see ``Traffic.segments``.
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
    mirror: int = 0
    audience: tuple[str, str] | None = None
    segment_header: str | None = None
    segments: tuple[str, ...] = ()
    stage: int = 0
    lease_s: float | None = None

    @property
    def exposed(self) -> bool:
        """Whether any request, also a tester's or a copied one, can reach a candidate."""
        return bool(self.candidates) and (
            any(arm.weight > 0 for arm in self.candidates) or self.mirror > 0 or self.audience is not None
        )

    def arms(self) -> tuple[Arm, ...]:
        return ((self.champion,) if self.champion else ()) + self.candidates


@dataclass(frozen=True, slots=True)
class ArmStatus:
    """What one version's server is like right now."""

    version: str
    weight: int  # as the router has it, not as we asked
    ready: bool
    state: str  # loading | ready | warm | down (it has answered, and none of its servers is left) | failed | absent
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
    mirror: int = 0  # percent copied to the candidate, as the router has it
    audience: tuple[str, str] | None = None  # as the router has it


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

    Only ``arms`` and ``segments`` compare like with like: which arm a request went to was chosen by weight alone.

    Attributes:
        epoch: changes when counters started again from zero.
        arms: by version, requests that the weights (and a sticky key) divided.
        audience: by version, requests that ``Release.audience`` sent there. Testers are not users drawn by lot: these
            counts are for absolute limits, never for a comparison.
        shadow: by version, copied requests. Compare them with the champion's ``arms`` of the same time; the copy is
            made when the request is whole, so a client's slow upload is not in its latency.
        segments: by segment and version, what is in ``arms``. Requests without the header are in none of them; what
            is no plain name (letters, digits, ``_``, ``.``, ``-``; at most 40) is in ``other``, and so are values
            beyond the 50 first that ``Release.segments`` does not name.
        shadow_segments: by segment and version, what is in ``shadow``.
    """

    model: str
    epoch: str
    at: float
    arms: dict[str, ArmTraffic]
    audience: dict[str, ArmTraffic] = field(default_factory=dict)
    shadow: dict[str, ArmTraffic] = field(default_factory=dict)
    segments: dict[str, dict[str, ArmTraffic]] = field(default_factory=dict)
    shadow_segments: dict[str, dict[str, ArmTraffic]] = field(default_factory=dict)


Capability = Literal["mirror", "audience", "segments", "several", "sticky"]


class ServingBackend(Protocol):
    """What a rollout needs of the place where traffic flows.

    ``capabilities``: what it can do beyond weights of two arms: copy requests (``mirror``), send a header's requests
    to the candidate (``audience``), count by a header's value (``segments``), more than one candidate (``several``),
    keep a key's user in one arm (``sticky``). A release that asks for another is refused with ``ServingError`` before
    anything moves (ROL-14).
    """

    capabilities: frozenset[Capability]

    def refusals(self, release: Release) -> list[str]:
        """Why candidates of ``release`` do not accept every request its champion accepts; empty when they do (ROL-11).

        Raises:
            IntegrityError: a file is not what was sealed.
            UnavailableError: a version's source cannot be reached.
        """

    def apply(self, release: Release) -> Observed:
        """Bring the world to ``release``: servers verified, loaded, warmed, ready; then weights.

        Idempotent. Candidates with weight 0 are deployed but get no traffic.

        Raises:
            FencedError: the token is older than the last one, the rollout has come further than this, or it was
                aborted (then only a champion alone, of a later stage, is accepted: what the registry made of it).
            IntegrityError: the artifacts are not what was sealed.
            NotReadyError: a server did not become ready; traffic is as it was before.
            ServingError: anything else; traffic is as it was before.
        """

    def observe(self, model: str) -> Observed:
        """Read back what is; a model never deployed has no arms and token 0."""

    def renew(self, model: str, token: int, until: float) -> None:
        """Extend the lease of the running rollout; nothing happens while no candidate is exposed.

        Raises:
            FencedError: the token is not the current one, or the rollout was aborted.
        """

    def abort(self, model: str, reason: str, by: str, *, token: int | None = None) -> Observed:
        """Take every candidate to 0 now; needs no registry and no Airflow.

        Args:
            token: the holder's, who may not end what a later holder began: nothing happens when the traffic has a
                higher one. None: whoever holds the rollout.
        """

    def drop(self, model: str, versions: Sequence[str], reason: str, *, token: int) -> Observed:
        """Take some of several candidates to 0 now, for the rest of their rollout; the others fly on.

        Their weight is the champion's. Nothing happens when the traffic has a higher token, or was aborted.
        """

    def check_target(self, model: str) -> list[str]:
        """Why the version that a rollback would go to could not take over now; empty when it could (ROL-12).

        Verifies its content and asks it for one inference past the router, so it may take long. Moves nothing.

        Raises:
            ServingError: it cannot be told.
        """

    def traffic(self, model: str) -> Traffic:
        """Router counters of all arms.

        Raises:
            UnavailableError: the counters cannot be read (dead source: never an empty answer).
        """
