"""Orders of people on rollouts, and freezes; both are written once, a freeze's end excepted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NAME = sa.String(256)


def upgrade() -> None:
    op.create_table(
        "wt_orders",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("rollout_id", sa.String(64), nullable=False),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("step", sa.Integer),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("via", sa.String(16), nullable=False),
        sa.Column("claimed", sa.Boolean, nullable=False),
        sa.Column("done_at", sa.Float),
        sa.Column("at", sa.Float, nullable=False),
        sa.UniqueConstraint("rollout_id", "key", name="wt_orders_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("wt_orders_rollout", "wt_orders", ["rollout_id", "seq"])
    op.create_table(
        "wt_freezes",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("target", NAME, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("claimed", sa.Boolean, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("lifted_at", sa.Float),
        sa.Column("lifted_by", sa.String(256)),
        sa.Column("lifted_reason", sa.Text),
    )
    op.create_index("wt_freezes_standing", "wt_freezes", ["lifted_at"])


def downgrade() -> None:
    op.drop_table("wt_freezes")
    op.drop_table("wt_orders")
