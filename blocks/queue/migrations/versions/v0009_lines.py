"""Lines by type, priority, domain and key: a backlog of one domain or key holds up no other."""

from __future__ import annotations

from alembic import op

from organism_flows.blocks.errors import SchemaMismatch
from organism_flows.blocks.queue.db.adoption import DOMAIN_BYTES
from organism_flows.blocks.queue.db.migrate import run_script

revision = "0009"
down_revision = "0008"

INDEXES = {
    # Equality columns first: a claim reads the tasks it takes and no others, whatever else waits.
    "tasks_lines": "tasks (type, priority, coalesce(domain, ''), coalesce(key, ''), run_after, id) "
    "WHERE status IN ('queued', 'retry')",
    # Only of tasks with a domain or key: the others have one line, in which they stand by time.
    "tasks_lines_oldest": "tasks (type, priority, run_after) WHERE status IN ('queued', 'retry') "
    "AND (coalesce(domain, '') <> '' OR coalesce(key, '') <> '')",
}
REPLACED = "tasks_claimable"
TOO_LONG = f"status IN ('queued', 'retry') AND octet_length(domain) > {DOMAIN_BYTES}"
"""Earlier versions let SQL write such domains, and an index entry has no room for them."""


def upgrade() -> None:
    run_script(__file__)
    if number := op.get_bind().exec_driver_sql(f"SELECT count(*) FROM tasks WHERE {TOO_LONG}").scalar():  # noqa: S608
        raise SchemaMismatch(
            f"{number} waiting tasks have a domain of more than {DOMAIN_BYTES} bytes",
            f"UPDATE tasks SET domain = left(domain, 200) WHERE {TOO_LONG}; and migrate again",  # noqa: S608
        )
    # Producers and lanes go on while these are made.
    with op.get_context().autocommit_block():
        run = op.get_bind().exec_driver_sql
        for name, definition in INDEXES.items():
            # One that a broken migration left behind is there, invalid, and of no use.
            state = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{name}')"  # noqa: S608
            if run(state).scalar() is False:
                run(f"DROP INDEX CONCURRENTLY {name}")
            run(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {definition}")
        run(f"DROP INDEX CONCURRENTLY IF EXISTS {REPLACED}")
