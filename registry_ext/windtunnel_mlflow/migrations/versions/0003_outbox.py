"""The outbox: changes of the registry, for readers who keep their place."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "wt_outbox",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("version", sa.String(16)),
        sa.Column("digest", sa.String(80)),
        sa.Column("correlation_id", sa.String(64), nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("alias", sa.String(256)),
        sa.Column("stage", sa.String(32)),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("wt_outbox")
