"""Alembic environment: migrates over the connection that ``windtunnel_mlflow.migrate`` hands in, in its transaction."""

from __future__ import annotations

from alembic import context

from windtunnel_mlflow.migrate import VERSION_TABLE
from windtunnel_mlflow.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=lambda name, kind, _: kind != "table" or str(name).startswith("wt_"),
)
with context.begin_transaction():
    context.run_migrations()
