"""What the registry answers, as frozen values. Unknown keys are ignored, so an old client reads a new server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from windtunnel import canonical
from windtunnel.evidence import Verdict
from windtunnel.registry.orders import OrderRecord
from windtunnel.registry.plain import Plain


@dataclass(frozen=True, slots=True)
class VersionRecord(Plain):
    """One version of a model.

    Attributes:
        model: registered model.
        version: the registry's number, as text.
        semver: MAJOR.MINOR.PATCH.
        status: PENDING_REGISTRATION, READY or FAILED_REGISTRATION.
        state: candidate, releasing, champion, archived, rolled_back or withdrawn.
        source: as given at registration.
        created_at: seconds since the epoch, UTC.
        digest: ``sha256:...`` of the sealed content; None before the seal.
        manifest: ``windtunnel.evidence.manifest.Manifest`` as a dict; empty before the seal.
        location: path of the files below the server's artifact root.
        stage: MLflow's stage.
        recipe: as given at registration.
        status_reason: why a registration failed.
        semver_reason: why it has this semantic version.
        adopted: of a version that a plain MLflow server had registered: ``by``, ``at``, ``source``, ``stage``,
            ``aliases``, ``user``, ``created_at`` and ``formats``.
    """

    model: str
    version: str
    semver: str
    status: str
    state: str
    source: str
    created_at: float
    digest: str | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    location: str | None = None
    run_id: str | None = None
    key: str | None = None
    stage: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None
    actor: str | None = None
    cause: str | None = None
    correlation_id: str | None = None
    status_reason: str | None = None
    semver_reason: str | None = None
    sealed_at: float | None = None
    adopted: dict[str, Any] | None = None

    @property
    def ready(self) -> bool:
        """Sealed: its content is fixed and verified."""
        return self.status == "READY"


@dataclass(frozen=True, slots=True)
class RolloutRecord(Plain):
    """One rollout of one version.

    Attributes:
        champion: the champion when it was opened, None for a first release.
        token: fencing token; a holder whose token is not this one any more must stop writing.
        state: running, promoting, promoted, rolled_back or withdrawn.
        plan: as given when it was opened.
        orders: what people ordered of it, oldest first, where one rollout was asked for.
        frozen: sentences of the freezes over it, likewise.
        watching: a first release that is champion already (``promoted``) and still watched against its limits.
    """

    id: str
    model: str
    version: str
    champion: str | None
    token: int
    holder: str
    state: str
    opened_at: float
    updated_at: float
    step: int | None = None
    weight: float | None = None
    reason: str | None = None
    plan: dict[str, Any] = field(default_factory=dict)
    correlation_id: str | None = None
    ended_at: float | None = None
    orders: tuple[OrderRecord, ...] = ()
    frozen: tuple[str, ...] = ()
    watching: bool = False

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RolloutRecord:
        """From the server's JSON; ``orders`` and ``frozen`` come with a single rollout only."""
        known = {f.name for f in fields(cls)}
        kept = {key: value for key, value in plain.items() if key in known}
        orders = tuple(OrderRecord.from_dict(order) for order in plain.get("orders") or ())
        return cls(**{**kept, "orders": orders, "frozen": tuple(plain.get("frozen") or ())})

    @property
    def beside(self) -> tuple[str, ...]:
        """The further candidates of a release of several, as its plan names them."""
        return tuple(str(version) for version in self.plan.get("beside") or ())

    @property
    def ended(self) -> bool:
        """Nothing more happens to it."""
        return self.state in ("promoted", "rolled_back", "withdrawn")

    @property
    def live(self) -> bool:
        """Somebody watches it, and it takes orders."""
        return not self.ended or self.watching


@dataclass(frozen=True, slots=True)
class PostedVerdict:
    """A verdict as the registry keeps it; a claimed one never counts."""

    id: str
    claimed: bool
    seq: int
    verdict: Verdict

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> PostedVerdict:
        """From the server's JSON."""
        # NaN and infinities come in canonical form.
        decoded = canonical.loads(json.dumps(plain))
        return cls(plain["id"], plain["claimed"], plain["seq"], Verdict.from_dict(decoded))


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One model at a glance: champion, newest rollout, newest counted verdict of each kind."""

    name: str
    champion: VersionRecord | None
    rollout: RolloutRecord | None
    verdicts: dict[str, PostedVerdict]
    versions: int

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> ModelSummary:
        """From the server's JSON."""
        return cls(
            plain["name"],
            VersionRecord.from_dict(plain["champion"]) if plain["champion"] else None,
            RolloutRecord.from_dict(plain["rollout"]) if plain["rollout"] else None,
            {kind: PostedVerdict.from_dict(found) for kind, found in plain["verdicts"].items()},
            plain.get("versions", 0),
        )


@dataclass(frozen=True, slots=True)
class ChampionRecord(Plain):
    """One stretch of time in which a version was champion; ``until`` is None for the present one."""

    model: str
    version: str
    since: float
    until: float | None
    actor: str
    reason: str
    semver: str | None = None
    rollout_id: str | None = None
    policy: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether a version may go somewhere, and why.

    Attributes:
        missing: one sentence per thing that is missing.
        present: the verdict that counts, by kind.
        to: production, staging, challenger or archived.
        policy: versions of the policy that was asked.
        digest: of the content.
        evidence: names the verdicts that count now; an approval is of exactly these.
        requirements: everything that is asked for: ``code``, ``met``, ``text``, ``subject``.
        verdicts: those that count, one of each kind.
        approvals: what people said, with ``counts`` and ``why`` not.
    """

    allowed: bool
    missing: tuple[str, ...]
    present: dict[str, Any]
    to: str = "production"
    policy: str = ""
    digest: str | None = None
    evidence: str | None = None
    requirements: tuple[dict[str, Any], ...] = ()
    verdicts: tuple[dict[str, Any], ...] = ()
    approvals: tuple[dict[str, Any], ...] = ()

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Explanation:
        """From the server's JSON."""
        known = {f.name for f in fields(cls)}
        many = ("missing", "requirements", "verdicts", "approvals")
        kept: dict[str, Any] = {key: tuple(v) if key in many else v for key, v in plain.items() if key in known}
        return cls(**kept)


@dataclass(frozen=True, slots=True)
class AuditRecord(Plain):
    """One change or refusal; ``hash`` covers the row and the hash of the model's former row."""

    seq: int
    at: float
    actor: str
    action: str
    model: str
    outcome: str
    prev: str
    hash: str
    version: str | None = None
    code: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    correlation_id: str | None = None
