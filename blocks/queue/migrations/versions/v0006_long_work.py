"""When tasks began and how often they were interrupted, and lanes that leave slowly."""

from __future__ import annotations

from alembic import op

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0006"
down_revision = "0005"

INDEX = "tasks_interrupted"
DEFINITION = "tasks (interrupted) WHERE interrupted > 1 AND status IN ('queued', 'retry', 'running')"


def upgrade() -> None:
    run_script(__file__)
    with op.get_context().autocommit_block():
        run = op.get_bind().exec_driver_sql
        # One that a broken migration left behind is there, invalid, and of no use.
        state = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{INDEX}')"  # noqa: S608
        if run(state).scalar() is False:
            run(f"DROP INDEX CONCURRENTLY {INDEX}")
        run(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {INDEX} ON {DEFINITION}")
