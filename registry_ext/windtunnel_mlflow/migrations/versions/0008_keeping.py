"""Versions taken over from a plain MLflow registry; what a deleted version or model was, so that it can come back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("wt_versions", sa.Column("adopted", sa.Text))
    op.add_column("wt_versions", sa.Column("kept", sa.Text))
    op.add_column("wt_versions", sa.Column("purged_at", sa.Float))
    op.create_table(
        "wt_deleted_models",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("deleted_at", sa.Float, nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("kept", sa.Text, nullable=False),
        sa.Column("restored_at", sa.Float),
        sqlite_autoincrement=True,
    )
    op.create_index("wt_deleted_models_model", "wt_deleted_models", ["model"])
    op.create_index("wt_versions_deleted", "wt_versions", ["deleted_at"])


def downgrade() -> None:
    # An adopted version stays one of ours; that it was adopted is in the audit.
    op.drop_index("wt_versions_deleted", "wt_versions")
    op.drop_table("wt_deleted_models")
    op.drop_column("wt_versions", "purged_at")
    op.drop_column("wt_versions", "kept")
    op.drop_column("wt_versions", "adopted")
