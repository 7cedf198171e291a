"""Windtunnel's tables beside MLflow's, in the same database so that one transaction covers both.

Rows of ``wt_versions`` are never removed: a deleted version keeps its number, its semantic version and its key's
history, so none of them is given out twice.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, Index, Integer, MetaData, String, Table, Text, UniqueConstraint, text

metadata = MetaData()

NAME = String(256)

#: In a column ``model``: of the whole installation, not of one model.
HOUSE = ""

versions = Table(
    "wt_versions",
    metadata,
    Column("model", NAME, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("semver", String(64), nullable=False),
    Column("semver_reason", Text, nullable=False),
    Column("key", String(256), nullable=False),
    Column("status", String(32), nullable=False),
    Column("status_reason", Text),
    Column("state", String(32), nullable=False),
    Column("source", String(500), nullable=False),
    # Path below the server's artifact root; everything at or below it is sealed. NULL once a seal has failed.
    Column("location", String(500)),
    Column("run_id", String(64)),
    # The run's user when the version was registered: a run may be edited or deleted later.
    Column("trainer", String(256)),
    Column("recipe", Text, nullable=False),
    Column("facts", Text, nullable=False),
    Column("parent", Integer),
    Column("digest", String(80)),
    Column("manifest", Text),
    Column("actor", String(256), nullable=False),
    Column("cause", Text),
    Column("correlation_id", String(64)),
    Column("created_at", Float, nullable=False),
    Column("sealed_at", Float),
    Column("deleted_at", Float),
    # JSON: of a version that was taken over from a plain registry, by whom, when and what it was there.
    Column("adopted", Text),
    # JSON: what MLflow's row said when the version was deleted, for MLflow blanks it.
    Column("kept", Text),
    # When the files of a deleted version were removed; nothing brings it back from then on.
    Column("purged_at", Float),
    UniqueConstraint("model", "key", name="wt_versions_key"),
    UniqueConstraint("model", "semver", name="wt_versions_semver"),
    Index("wt_versions_location", "location"),
    Index("wt_versions_status", "status"),
    # What came of a version: its children.
    Index("wt_versions_parent", "model", "parent"),
    Index("wt_versions_created", "created_at", "model", "version"),
    Index("wt_versions_run", "run_id"),
    Index("wt_versions_deleted", "deleted_at"),
)

deleted_models = Table(
    "wt_deleted_models",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("model", NAME, nullable=False),
    Column("deleted_at", Float, nullable=False),
    Column("actor", String(256), nullable=False),
    # JSON: description, tags and times that MLflow's row had.
    Column("kept", Text, nullable=False),
    Column("restored_at", Float),
    Index("wt_deleted_models_model", "model"),
    sqlite_autoincrement=True,
)

origins = Table(
    "wt_origins",
    metadata,
    Column("model", NAME, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(16), primary_key=True),
    Column("value", String(512), primary_key=True),
    Column("name", String(256), nullable=False),
    Column("said", String(16), nullable=False),
    # When the registry came to know it.
    Column("at", Float, nullable=False),
    # From the other side: which versions were made of this.
    Index("wt_origins_value", "kind", "value", "model", "version"),
)

verdicts = Table(
    "wt_verdicts",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(80), nullable=False),
    # True: said by somebody other than the service; kept, shown, never counted.
    Column("claimed", Boolean, nullable=False),
    Column("model", NAME, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("subject", String(80), nullable=False),
    Column("version", String(16)),
    Column("body", Text, nullable=False),
    Column("actor", String(256), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("correlation_id", String(64)),
    UniqueConstraint("id", "claimed", name="wt_verdicts_once"),
    Index("wt_verdicts_lookup", "model", "kind", "subject", "seq"),
    Index("wt_verdicts_model", "model", "seq"),
)

audit = Table(
    "wt_audit",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("actor", String(256), nullable=False),
    Column("action", String(64), nullable=False),
    Column("model", NAME, nullable=False),
    Column("version", String(16)),
    Column("outcome", String(16), nullable=False),
    Column("code", String(64)),
    Column("detail", Text, nullable=False),
    Column("correlation_id", String(64)),
    Column("prev", String(80), nullable=False),
    Column("hash", String(80), nullable=False),
    Index("wt_audit_model", "model", "seq"),
    sqlite_autoincrement=True,
)

champions = Table(
    "wt_champions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("since", Float, nullable=False),
    Column("until", Float),
    Column("actor", String(256), nullable=False),
    Column("reason", Text, nullable=False),
    Column("rollout_id", String(64)),
    # Which policy allowed it, as ``policybook.InForce.name``.
    Column("policy", String(256)),
    Index("wt_champions_model", "model", "id"),
    Index("wt_champions_version", "model", "version"),
    Index(
        "wt_champions_one",
        "model",
        unique=True,
        sqlite_where=text("until IS NULL"),
        postgresql_where=text("until IS NULL"),
    ),
)

rollouts = Table(
    "wt_rollouts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("model", NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("champion", Integer),
    Column("token", Integer, nullable=False),
    Column("holder", String(512), nullable=False),
    Column("state", String(32), nullable=False),
    Column("step", Integer),
    Column("weight", Float),
    Column("reason", Text),
    Column("plan", Text, nullable=False),
    Column("correlation_id", String(64)),
    Column("opened_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("ended_at", Float),
    # A first release that is champion already and still watched against its limits.
    Column("watching", Boolean, nullable=False, default=False),
    Index("wt_rollouts_model", "model", "token"),
    Index("wt_rollouts_version", "model", "version"),
)

policies = Table(
    "wt_policy_versions",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    # Empty for the policy of the house.
    Column("model", NAME, nullable=False),
    # ``admin``: a document that an administrator set. ``description``: the short form that a model's DAGs pass on.
    Column("layer", String(16), nullable=False),
    Column("number", Integer, nullable=False),
    Column("policy", Text, nullable=False),
    Column("actor", String(256), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Float, nullable=False),
    UniqueConstraint("model", "layer", "number", name="wt_policy_versions_number"),
)

approvals = Table(
    "wt_approvals",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    # So that an answer in Airflow, or a call sent twice, is one approval.
    Column("key", String(256), nullable=False),
    Column("model", NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("target", String(16), nullable=False),
    Column("decision", String(16), nullable=False),
    Column("digest", String(80), nullable=False),
    Column("evidence", String(80), nullable=False),
    Column("seen", Integer, nullable=False),
    Column("policy", String(256), nullable=False),
    Column("needs", String(80), nullable=False),
    Column("by", String(256), nullable=False),
    Column("actor", String(256), nullable=False),
    Column("via", String(16), nullable=False),
    Column("roles", String(256), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Float, nullable=False),
    Column("withdrawn_at", Float),
    Column("withdrawn_by", String(256)),
    Column("withdrawn_reason", Text),
    UniqueConstraint("model", "key", name="wt_approvals_key"),
    Index("wt_approvals_version", "model", "version", "target"),
    sqlite_autoincrement=True,
)

reviews = Table(
    "wt_reviews",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("model", NAME, nullable=False),
    Column("from_version", Integer),
    Column("to_version", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("by", String(256), nullable=False),
    Column("at", Float, nullable=False),
    Column("closed_at", Float),
    Column("closed_by", String(256)),
    Column("note", Text),
    Index("wt_reviews_open", "closed_at"),
)

orders = Table(
    "wt_orders",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("rollout_id", String(64), nullable=False),
    # The caller's own, so that an order sent twice is one order.
    Column("key", String(128), nullable=False),
    Column("model", NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("step", Integer),
    Column("reason", Text, nullable=False),
    # Who wants it. ``actor`` is the user behind the request's credential, ``via`` how we know (see ``orders``).
    Column("by", String(256), nullable=False),
    Column("actor", String(256), nullable=False),
    Column("via", String(16), nullable=False),
    Column("claimed", Boolean, nullable=False),
    Column("done_at", Float),
    Column("at", Float, nullable=False),
    UniqueConstraint("rollout_id", "key", name="wt_orders_key"),
    Index("wt_orders_rollout", "rollout_id", "seq"),
    sqlite_autoincrement=True,
)

freezes = Table(
    "wt_freezes",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("scope", String(16), nullable=False),
    # The owner or the model; empty for all.
    Column("target", NAME, nullable=False),
    Column("reason", Text, nullable=False),
    Column("by", String(256), nullable=False),
    Column("actor", String(256), nullable=False),
    Column("claimed", Boolean, nullable=False),
    Column("at", Float, nullable=False),
    Column("lifted_at", Float),
    Column("lifted_by", String(256)),
    Column("lifted_reason", Text),
    Index("wt_freezes_standing", "lifted_at"),
)

outbox = Table(
    "wt_outbox",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False),
    Column("at", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("action", String(64), nullable=False),
    Column("model", NAME, nullable=False),
    Column("version", String(16)),
    Column("digest", String(80)),
    Column("correlation_id", String(64), nullable=False),
    Column("actor", String(256), nullable=False),
    Column("cause", Text, nullable=False),
    Column("alias", String(256)),
    Column("stage", String(32)),
    # Numbers are never given out twice, so that a reader's place stays good over pruning.
    sqlite_autoincrement=True,
)

cards = Table(
    "wt_cards",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("model", NAME, nullable=False),
    # 0: of the model; else of this version, where it differs.
    Column("version", Integer, nullable=False),
    # ``person``, or ``description``: what the model's DAGs pass on.
    Column("layer", String(16), nullable=False),
    Column("number", Integer, nullable=False),
    Column("card", Text, nullable=False),
    Column("actor", String(256), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Float, nullable=False),
    UniqueConstraint("model", "version", "layer", "number", name="wt_cards_number"),
)

#: What those come to now: a row for the model (version 0), and one for each version that has a card of its own.
cards_now = Table(
    "wt_cards_now",
    metadata,
    Column("model", NAME, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("card", Text, nullable=False),
    # What it says, without its keys: for searching.
    Column("words", Text, nullable=False),
    Column("owner", String(256)),
    Column("risk", String(16)),
    Index("wt_cards_now_owner", "owner"),
)

comments = Table(
    "wt_comments",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("model", NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("actor", String(256), nullable=False),
    Column("at", Float, nullable=False),
    Index("wt_comments_version", "model", "version", "seq"),
    sqlite_autoincrement=True,
)
