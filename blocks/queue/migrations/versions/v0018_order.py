"""In which order tasks of a type are claimed: by age, by deadline, or by key."""

from __future__ import annotations

from alembic import op

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0018"
down_revision = "0017"

INDEX = "tasks_by_deadline"
# Only of tasks that may expire: whoever has none pays nothing.
DEFINITION = (
    "tasks (type, priority, coalesce(domain, ''), coalesce(key, ''), expires_at, id) "
    "WHERE expires_at IS NOT NULL AND status IN ('queued', 'retry')"
)


def upgrade() -> None:
    run_script(__file__)
    with op.get_context().autocommit_block():
        run = op.get_bind().exec_driver_sql
        # One that a broken migration left behind is there, invalid, and of no use.
        state = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{INDEX}')"  # noqa: S608
        if run(state).scalar() is False:
            run(f"DROP INDEX CONCURRENTLY {INDEX}")
        run(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {INDEX} ON {DEFINITION}")
