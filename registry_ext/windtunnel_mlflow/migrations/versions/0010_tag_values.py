"""On PostgreSQL: an index that MLflow's own search by a tag can use.

MLflow asks for ``value = '...'`` of whole values. A value may be longer than a B-tree takes, and a hash index slows
down with values that many have; a radix tree (SP-GiST) takes both. MLflow does not know of the indexes, and
``downgrade`` takes them away.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

ON_MLFLOW = (
    ("wt_on_model_version_tags_whole", "model_version_tags"),
    ("wt_on_registered_model_tags_whole", "registered_model_tags"),
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        return
    for name, table in ON_MLFLOW:
        if sa.inspect(op.get_bind()).has_table(table):
            op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {table} USING spgist (value)")


def downgrade() -> None:
    for name, _ in ON_MLFLOW:
        op.execute(f"DROP INDEX IF EXISTS {name}")
