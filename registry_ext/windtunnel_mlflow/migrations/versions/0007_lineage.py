"""Origins of versions, to be asked from both sides; what recipes, and runs in this database, say of the versions that
are there already."""

from __future__ import annotations

import json
import time
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_MANY = 500
#: Tags of runs -> kind of origin, the better one last.
_TAGS = {
    "mlflow.source.git.commit": "commit",
    "wt.git.commit": "commit",
    "wt.packages": "environment",
    "wt.image": "image",
    "wt.data.digest": "data",
}


def upgrade() -> None:
    table = op.create_table(
        "wt_origins",
        sa.Column("model", sa.String(256), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("value", sa.String(512), primary_key=True),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("said", sa.String(16), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("wt_versions_parent", "wt_versions", ["model", "parent"])
    op.create_index("wt_champions_version", "wt_champions", ["model", "version"])
    op.create_index("wt_rollouts_version", "wt_rollouts", ["model", "version"])
    versions = sa.table(
        "wt_versions",
        *(sa.column(name) for name in ("model", "version", "run_id", "recipe", "source", "created_at")),
    )
    connection = op.get_bind()
    rows = connection.execute(sa.select(versions).order_by(versions.c.model, versions.c.version)).all()
    for start in range(0, len(rows), _MANY):
        some = rows[start : start + _MANY]
        runs = _of_runs(connection, [row.run_id for row in some if row.run_id])
        found = [one for row in some for one in _of(row, runs.get(row.run_id, []))]
        if found:
            connection.execute(table.insert(), found)
    # After the rows: quicker than keeping it up to date.
    op.create_index("wt_origins_value", "wt_origins", ["kind", "value", "model", "version"])


def downgrade() -> None:
    op.drop_index("wt_versions_parent", "wt_versions")
    op.drop_index("wt_champions_version", "wt_champions")
    op.drop_index("wt_rollouts_version", "wt_rollouts")
    op.drop_table("wt_origins")


def _of(row: Any, run: list[tuple[str, str]]) -> list[dict[str, Any]]:
    recipe = json.loads(row.recipe)
    dag = recipe.get("dag_id"), recipe.get("dag_run_id")
    told = [
        ("run", row.run_id, "source"),
        ("data", recipe.get("data"), "recipe"),
        ("code", recipe.get("code"), "recipe"),
        ("dag_run", "/".join(map(str, dag)) if all(dag) else None, "recipe"),
    ]
    parts = row.source.removeprefix("models:/").split("/")
    if row.source.startswith("models:/") and len(parts) == 2 and parts[1].isdigit():
        told.append(("version", "/".join(parts), "source"))
    kept: dict[tuple[str, str], dict[str, Any]] = {}
    # Recipes are as old as their versions; what the run says is known from now on, it may have said else then.
    for kind, value, said in [*told, *((kind, value, "run") for kind, value in run)]:
        if isinstance(value, str) and 0 < len(value) <= 512:
            at = time.time() if said == "run" else row.created_at
            one = {"model": row.model, "version": row.version, "kind": kind, "value": value, "name": "", "said": said}
            kept.setdefault((kind, value), {**one, "at": at})
    return list(kept.values())


def _of_runs(connection: sa.Connection, runs: list[str]) -> dict[str, list[tuple[str, str]]]:
    """What MLflow's runs say, where they are in this database and still there."""
    if not runs or not sa.inspect(connection).has_table("tags"):
        return {}
    tags = sa.table("tags", sa.column("run_uuid"), sa.column("key"), sa.column("value"))
    query = sa.select(tags).where(tags.c.run_uuid.in_(runs), tags.c.key.in_(_TAGS))
    said: dict[str, dict[str, str]] = {}
    for row in connection.execute(query):
        said.setdefault(row.run_uuid, {})[row.key] = row.value
    return {
        run: list({_TAGS[key]: (_TAGS[key], tags[key]) for key in _TAGS if tags.get(key, "none") != "none"}.values())
        for run, tags in said.items()
    }
