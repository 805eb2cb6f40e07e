"""Tasks that are put off or expire, and keys and limits that are closed until a moment."""

from __future__ import annotations

from alembic import op

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0011"
down_revision = "0010"

INDEX = "tasks_expiring"
DEFINITION = "tasks (expires_at) WHERE expires_at IS NOT NULL AND status IN ('created', 'queued', 'retry')"
"""Only of tasks that may expire: others cost it nothing."""


def upgrade() -> None:
    run_script(__file__)
    with op.get_context().autocommit_block():
        run = op.get_bind().exec_driver_sql
        # One that a broken migration left behind is there, invalid, and of no use.
        state = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{INDEX}')"  # noqa: S608
        if run(state).scalar() is False:
            run(f"DROP INDEX CONCURRENTLY {INDEX}")
        run(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {INDEX} ON {DEFINITION}")
