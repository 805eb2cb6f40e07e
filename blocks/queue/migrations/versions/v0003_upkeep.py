"""Finished tasks by status and time, an audit of bulk operations, and notes of loaded files."""

from __future__ import annotations

from alembic import op

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0003"
down_revision = "0002"

INDEX = "tasks_finished"
DEFINITION = "tasks (status, finished_at) WHERE finished_at IS NOT NULL"
REPLACED = "tasks_dead_letters"
OLDER_FINISHED = (
    "UPDATE tasks SET finished_at = updated_at "
    "WHERE status IN ('completed', 'failed', 'cancelled') AND finished_at IS NULL"
)
"""The older system did not record the time, and a task without one is neither redriven nor pruned by time."""


def upgrade() -> None:
    run_script(__file__)
    # Producers and lanes go on while this is made; neither touches a task that has finished.
    with op.get_context().autocommit_block():
        run = op.get_bind().exec_driver_sql
        run(OLDER_FINISHED)
        # One that a broken migration left behind is there, invalid, and of no use.
        state = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{INDEX}')"  # noqa: S608
        if run(state).scalar() is False:
            run(f"DROP INDEX CONCURRENTLY {INDEX}")
        run(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {INDEX} ON {DEFINITION}")
        run(f"DROP INDEX CONCURRENTLY IF EXISTS {REPLACED}")
