"""Two roles on PostgreSQL: an owner, who migrates, and the server's, who can add to the audit and change nothing in it.

    MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2://owner@... python -m windtunnel_mlflow.ledger.roles SERVER_ROLE

Run by the owner of the tables after each upgrade: new tables have to be granted, too.
"""

from __future__ import annotations

import argparse
import os
import sys

from sqlalchemy import Connection, create_engine, text

APPEND_ONLY = ("wt_audit", "wt_comments")


def separate(connection: Connection, role: str) -> None:
    """Give ``role`` what the MLflow server needs on every table of the schema, and of the audit reading and adding.

    Raises:
        ValueError: the role owns the tables, is a superuser or a member of the owner: nothing could be taken from it.
    """
    owner = connection.execute(
        text("SELECT tableowner FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'wt_audit'")
    ).scalar()
    if owner is None:
        raise ValueError("there is no table wt_audit: start the server once as the owner, or upgrade first")
    found = connection.execute(
        text("SELECT rolsuper OR pg_has_role(rolname, :owner, 'MEMBER') FROM pg_roles WHERE rolname = :role"),
        {"owner": owner, "role": role},
    ).scalar()
    if found is None:
        raise ValueError(f"there is no role {role!r}: CREATE ROLE it with LOGIN first")
    if found:
        raise ValueError(f"the role {role!r} owns the tables, is a superuser or a member of {owner!r}: take another")
    quote = connection.dialect.identifier_preparer.quote
    schema = quote(str(connection.execute(text("SELECT current_schema()")).scalar()))
    name = quote(role)
    for statement in (
        f"GRANT USAGE ON SCHEMA {schema} TO {name}",
        f"REVOKE CREATE ON SCHEMA {schema} FROM {name}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {name}",
        # USAGE gives numbers; UPDATE would let them be set back.
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {name}",
        *(f"REVOKE UPDATE, DELETE, TRUNCATE, TRIGGER ON {table} FROM {name}" for table in APPEND_ONLY),
    ):
        connection.execute(text(statement))


def main() -> None:
    """Separate the role named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m windtunnel_mlflow.ledger.roles", description=main.__doc__)
    parser.add_argument("role", help="the role the MLflow server logs in as")
    given = parser.parse_args()
    url = os.environ.get("MLFLOW_BACKEND_STORE_URI")
    if not url or not url.startswith("postgres"):
        sys.exit("MLFLOW_BACKEND_STORE_URI must be the owner's URL of the PostgreSQL database")
    try:
        with create_engine(url).begin() as connection:
            separate(connection, given.role)
    except ValueError as error:
        sys.exit(str(error))
    print(f"{given.role} may add to {', '.join(APPEND_ONLY)} and change nothing in it")


if __name__ == "__main__":
    main()
