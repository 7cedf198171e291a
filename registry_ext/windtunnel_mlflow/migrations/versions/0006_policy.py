"""Every version of every policy, approvals, reviews of emergencies; who trained a version; under which policy a
champion was made, and that a model has one at a time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NAME = sa.String(256)


def upgrade() -> None:
    book = op.create_table(
        "wt_policy_versions",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model", NAME, nullable=False),
        sa.Column("layer", sa.String(16), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.UniqueConstraint("model", "layer", "number", name="wt_policy_versions_number"),
    )
    old = sa.table(
        "wt_policies",
        sa.column("model", NAME),
        sa.column("policy", sa.Text),
        sa.column("actor", sa.String(256)),
        sa.column("updated_at", sa.Float),
    )
    for row in op.get_bind().execute(sa.select(old).order_by(old.c.model)).all():
        # Until now there was one short form per model, and the stack's own programs or an administrator set it.
        op.get_bind().execute(
            book.insert().values(
                model=row.model,
                layer="description",
                number=1,
                policy=row.policy,
                actor=row.actor,
                reason="the policy before there were versions of it",
                at=row.updated_at,
            )
        )
    op.drop_table("wt_policies")
    op.create_table(
        "wt_approvals",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("key", sa.String(256), nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("target", sa.String(16), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("evidence", sa.String(80), nullable=False),
        sa.Column("seen", sa.Integer, nullable=False),
        sa.Column("policy", sa.String(256), nullable=False),
        sa.Column("needs", sa.String(80), nullable=False),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("via", sa.String(16), nullable=False),
        sa.Column("roles", sa.String(256), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("withdrawn_at", sa.Float),
        sa.Column("withdrawn_by", sa.String(256)),
        sa.Column("withdrawn_reason", sa.Text),
        sa.UniqueConstraint("model", "key", name="wt_approvals_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("wt_approvals_version", "wt_approvals", ["model", "version", "target"])
    op.create_table(
        "wt_reviews",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("model", NAME, nullable=False),
        sa.Column("from_version", sa.Integer),
        sa.Column("to_version", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("closed_at", sa.Float),
        sa.Column("closed_by", sa.String(256)),
        sa.Column("note", sa.Text),
    )
    op.create_index("wt_reviews_open", "wt_reviews", ["closed_at"])
    op.add_column("wt_versions", sa.Column("trainer", sa.String(256)))
    op.add_column("wt_champions", sa.Column("policy", sa.String(256)))
    op.create_index(
        "wt_champions_one",
        "wt_champions",
        ["model"],
        unique=True,
        sqlite_where=sa.text("until IS NULL"),
        postgresql_where=sa.text("until IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("wt_champions_one", "wt_champions")
    op.drop_column("wt_champions", "policy")
    op.drop_column("wt_versions", "trainer")
    op.drop_table("wt_reviews")
    op.drop_table("wt_approvals")
    book = sa.table(
        "wt_policy_versions",
        sa.column("model", NAME),
        sa.column("layer", sa.String(16)),
        sa.column("number", sa.Integer),
        sa.column("policy", sa.Text),
        sa.column("actor", sa.String(256)),
        sa.column("at", sa.Float),
    )
    policies = op.create_table(
        "wt_policies",
        sa.Column("model", NAME, primary_key=True),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
    )
    # The former schema holds the short form alone: what people set cannot go back.
    newest = {
        row.model: row
        for row in op.get_bind().execute(
            sa.select(book).where(book.c.layer == "description").order_by(book.c.model, book.c.number)
        )
    }
    for row in newest.values():
        op.get_bind().execute(
            policies.insert().values(model=row.model, policy=row.policy, actor=row.actor, updated_at=row.at)
        )
    op.drop_table("wt_policy_versions")
