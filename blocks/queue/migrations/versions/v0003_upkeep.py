"""Finished tasks by status and time, an audit of what was done to many at once, files that were loaded."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"

INDEX = "tasks_finished"
DEFINITION = "tasks (status, finished_at) WHERE finished_at IS NOT NULL"
REPLACED = "tasks_dead_letters"
OLDER_FINISHED = (
    "UPDATE tasks SET finished_at = updated_at "
    "WHERE status IN ('completed', 'failed', 'cancelled') AND finished_at IS NULL"
)
"""The older system did not say when, and what has no time is neither redriven nor pruned by time."""


def upgrade() -> None:
    script = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    # asyncpg prepares what it runs, and Postgres prepares one statement at a time.
    for statement in script.split("\n-- step: ")[1:]:
        _name, _, sql = statement.partition("\n")
        op.get_bind().exec_driver_sql(sql)
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
