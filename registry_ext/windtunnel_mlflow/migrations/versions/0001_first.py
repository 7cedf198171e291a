"""The first tables, and triggers that keep the audit append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NAME = sa.String(256)


def upgrade() -> None:
    op.create_table(
        "wt_versions",
        sa.Column("model", NAME, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("semver", sa.String(64), nullable=False),
        sa.Column("semver_reason", sa.Text, nullable=False),
        sa.Column("key", sa.String(256), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("status_reason", sa.Text),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("source", sa.String(500), nullable=False),
        sa.Column("location", sa.String(500)),
        sa.Column("run_id", sa.String(64)),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("parent", sa.Integer),
        sa.Column("digest", sa.String(80)),
        sa.Column("manifest", sa.Text),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("cause", sa.Text),
        sa.Column("correlation_id", sa.String(64)),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("sealed_at", sa.Float),
        sa.Column("deleted_at", sa.Float),
        sa.UniqueConstraint("model", "key", name="wt_versions_key"),
        sa.UniqueConstraint("model", "semver", name="wt_versions_semver"),
    )
    op.create_index("wt_versions_location", "wt_versions", ["location"])
    op.create_index("wt_versions_status", "wt_versions", ["status"])
    op.create_table(
        "wt_verdicts",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("claimed", sa.Boolean, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(80), nullable=False),
        sa.Column("version", sa.String(16)),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("correlation_id", sa.String(64)),
        sa.UniqueConstraint("id", "claimed", name="wt_verdicts_once"),
    )
    op.create_index("wt_verdicts_lookup", "wt_verdicts", ["model", "kind", "subject", "seq"])
    op.create_index("wt_verdicts_model", "wt_verdicts", ["model", "seq"])
    op.create_table(
        "wt_audit",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", sa.String(16)),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("code", sa.String(64)),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("correlation_id", sa.String(64)),
        sa.Column("prev", sa.String(80), nullable=False),
        sa.Column("hash", sa.String(80), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("wt_audit_model", "wt_audit", ["model", "seq"])
    op.create_table(
        "wt_champions",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("until", sa.Float),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("rollout_id", sa.String(64)),
    )
    op.create_index("wt_champions_model", "wt_champions", ["model", "id"])
    op.create_table(
        "wt_rollouts",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("champion", sa.Integer),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("holder", sa.String(512), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("step", sa.Integer),
        sa.Column("weight", sa.Float),
        sa.Column("reason", sa.Text),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("correlation_id", sa.String(64)),
        sa.Column("opened_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
    )
    op.create_index("wt_rollouts_model", "wt_rollouts", ["model", "token"])
    op.create_table(
        "wt_policies",
        sa.Column("model", NAME, primary_key=True),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER wt_audit_no_{verb.lower()} BEFORE {verb} ON wt_audit "
                "BEGIN SELECT RAISE(ABORT, 'wt_audit is append-only'); END"
            )
    else:
        op.execute(
            "CREATE FUNCTION wt_audit_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'wt_audit is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER wt_audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON wt_audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION wt_audit_append_only()"
        )


def downgrade() -> None:
    raise NotImplementedError("the audit is append-only: restore the database from a backup instead")
