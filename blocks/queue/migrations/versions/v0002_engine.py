"""Lines by type and priority, time-ordered ids, deduplication, cancel, pause, policies by type."""

from __future__ import annotations

from alembic import op

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0002"
down_revision = "0001"

INDEXES = {
    # Equality columns first: a claim reads the tasks it takes and no others, whatever else waits.
    "tasks_claimable": "tasks (type, priority, run_after, id) WHERE status IN ('queued', 'retry')",
    # Not WHERE status = 'running': a planner that knows of no running rows would take that index to settle.
    "tasks_held": "tasks (locked_by) WHERE locked_by IS NOT NULL",
    "tasks_backing_off": "tasks (run_after) WHERE status = 'retry'",
    "tasks_cancelling": "tasks (locked_by) WHERE cancel_requested",
    "tasks_dedup": "tasks (type, dedup_key) WHERE dedup_key IS NOT NULL "
    "AND status IN ('created', 'queued', 'running', 'retry')",
}
UNIQUE = {"tasks_dedup"}
REPLACED = ("tasks_ready", "tasks_running")


def upgrade() -> None:
    run_script(__file__)
    # Producers and lanes go on while these are made.
    with op.get_context().autocommit_block():
        run = op.get_bind().exec_driver_sql
        run("ALTER TABLE tasks VALIDATE CONSTRAINT tasks_running_is_held")
        for name, definition in INDEXES.items():
            # One that a broken migration left behind is there, invalid, and of no use.
            if run(
                f"SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('{name}') AND NOT indisvalid"  # noqa: S608
            ).first():
                run(f"DROP INDEX CONCURRENTLY {name}")
            kind = "UNIQUE INDEX" if name in UNIQUE else "INDEX"
            run(f"CREATE {kind} CONCURRENTLY IF NOT EXISTS {name} ON {definition}")
        for name in REPLACED:
            run(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
