"""Cards of models with every version of them, comments that are only ever added to, and indexes for searching.

Some indexes are on MLflow's own tables: its searches by stage, tag and alias read every row. They change no row, MLflow
does not know of them, and ``downgrade`` takes them away.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

NAME = sa.String(256)

#: Name, table and columns. A tag's value may be longer than an index takes, so its first characters are in it.
ON_MLFLOW = (
    ("wt_on_model_versions_stage", "model_versions", "current_stage, name, version"),
    ("wt_on_model_version_tags_value", "model_version_tags", "key, substr(value, 1, 100), name, version"),
    ("wt_on_registered_model_tags_value", "registered_model_tags", "key, substr(value, 1, 100), name"),
    ("wt_on_registered_model_aliases_alias", "registered_model_aliases", "alias, name, version"),
)


def upgrade() -> None:
    op.create_table(
        "wt_cards",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("layer", sa.String(16), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("card", sa.Text, nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.UniqueConstraint("model", "version", "layer", "number", name="wt_cards_number"),
    )
    op.create_table(
        "wt_cards_now",
        sa.Column("model", NAME, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("card", sa.Text, nullable=False),
        sa.Column("words", sa.Text, nullable=False),
        sa.Column("owner", sa.String(256)),
        sa.Column("risk", sa.String(16)),
    )
    op.create_index("wt_cards_now_owner", "wt_cards_now", ["owner"])
    op.create_table(
        "wt_comments",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("wt_comments_version", "wt_comments", ["model", "version", "seq"])
    op.create_index("wt_versions_created", "wt_versions", ["created_at", "model", "version"])
    op.create_index("wt_versions_run", "wt_versions", ["run_id"])
    sqlite = op.get_bind().dialect.name == "sqlite"
    if sqlite:
        for what in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER wt_comments_no_{what.lower()} BEFORE {what} ON wt_comments "
                "BEGIN SELECT RAISE(ABORT, 'wt_comments is append-only'); END"
            )
        op.execute(
            # INSERT OR REPLACE deletes the old row without asking its trigger.
            "CREATE TRIGGER wt_comments_no_replace BEFORE INSERT ON wt_comments "
            "WHEN EXISTS (SELECT 1 FROM wt_comments WHERE seq = NEW.seq) "
            "BEGIN SELECT RAISE(ABORT, 'wt_comments is append-only'); END"
        )
    else:
        op.execute(
            "CREATE FUNCTION wt_comments_refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'wt_comments is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER wt_comments_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON wt_comments "
            "FOR EACH STATEMENT EXECUTE FUNCTION wt_comments_refuse()"
        )
        op.execute("ALTER TABLE wt_comments ENABLE ALWAYS TRIGGER wt_comments_append_only")
        # A prefix search in any other collation than C needs an index of its own.
        op.execute("CREATE INDEX wt_versions_prefix ON wt_versions (model varchar_pattern_ops, version)")
    for name, table, columns in ON_MLFLOW:
        if sa.inspect(op.get_bind()).has_table(table):
            op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {table} ({columns})")


def downgrade() -> None:
    for name, _, _ in ON_MLFLOW:
        op.execute(f"DROP INDEX IF EXISTS {name}")
    op.drop_index("wt_versions_run", "wt_versions")
    op.drop_index("wt_versions_created", "wt_versions")
    op.drop_table("wt_comments")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP INDEX wt_versions_prefix")
        op.execute("DROP FUNCTION wt_comments_refuse()")
    op.drop_table("wt_cards_now")
    op.drop_table("wt_cards")
