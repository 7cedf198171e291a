"""The audit is harder to change: rows come in order only, triggers cannot be switched off by a session's setting,
and no role but the tables' owner may update or delete."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        # INSERT OR REPLACE deletes the old row without asking its trigger.
        op.execute(
            "CREATE TRIGGER wt_audit_no_replace BEFORE INSERT ON wt_audit "
            "WHEN EXISTS (SELECT 1 FROM wt_audit WHERE seq = NEW.seq) "
            "BEGIN SELECT RAISE(ABORT, 'wt_audit is append-only'); END"
        )
        op.execute(
            "CREATE TRIGGER wt_audit_in_order AFTER INSERT ON wt_audit "
            "WHEN NEW.seq < (SELECT max(seq) FROM wt_audit) "
            "BEGIN SELECT RAISE(ABORT, 'wt_audit is append-only: numbers grow'); END"
        )
        return
    # Else session_replication_role = replica, which a superuser can set, passes it by.
    op.execute("ALTER TABLE wt_audit ENABLE ALWAYS TRIGGER wt_audit_append_only")
    op.execute("REVOKE UPDATE, DELETE, TRUNCATE, TRIGGER ON wt_audit FROM PUBLIC")
    for (role,) in op.get_bind().execute(
        sa.text(
            "SELECT DISTINCT grantee FROM information_schema.role_table_grants "
            "WHERE table_schema = current_schema() AND table_name = 'wt_audit' "
            "AND grantee NOT IN ('PUBLIC', "
            "(SELECT tableowner FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'wt_audit'))"
        )
    ):
        quoted = op.get_bind().dialect.identifier_preparer.quote(role)
        op.execute(f"REVOKE UPDATE, DELETE, TRUNCATE, TRIGGER ON wt_audit FROM {quoted}")


def downgrade() -> None:
    # Rights that were revoked are not given back: who held them is not known any more.
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER wt_audit_no_replace")
        op.execute("DROP TRIGGER wt_audit_in_order")
    else:
        op.execute("ALTER TABLE wt_audit ENABLE TRIGGER wt_audit_append_only")
