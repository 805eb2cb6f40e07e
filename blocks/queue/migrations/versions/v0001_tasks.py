"""The tasks table, its lanes and its attempt history; an older tasks table is adopted in place."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from blocks.errors import SchemaMismatch
from blocks.queue.migrate import run_script

revision = "0001"
down_revision = None

OLDER_COLUMNS = {
    "id": "uuid",
    "type": "text",
    "status": "taskstatus",
    "params": "jsonb",
    "attempts": "integer",
    "run_after": "timestamp with time zone",
    "result": "jsonb",
    "error": "text",
    "created_at": "timestamp with time zone",
    "updated_at": "timestamp with time zone",
}
"""What a table called ``tasks`` must have to be the older system's, and so ours to adopt."""


def upgrade() -> None:
    refuse_foreign_table()
    run_script(__file__)


def refuse_foreign_table() -> None:
    """Stop before touching a table called ``tasks`` that belongs to somebody else.

    Raises:
        SchemaMismatch: Names the first column that tells it apart.
    """
    found = {
        row.name: row.type
        for row in op.get_bind().execute(
            text(
                "SELECT attname AS name, format_type(atttypid, NULL) AS type FROM pg_attribute "
                "WHERE attrelid = to_regclass('tasks') AND attnum > 0 AND NOT attisdropped"
            )
        )
    }
    if not found:
        return
    for column, expected in OLDER_COLUMNS.items():
        actual = found.get(column)
        if actual is None or actual.rpartition(".")[2] != expected:
            raise SchemaMismatch(
                f"a table called tasks of another shape is in the way: its column {column} is "
                f"{actual or 'missing'}, expected {expected}",
                "rename that table, or point ORGANISM_DSN at another database; nothing was changed",
            )
