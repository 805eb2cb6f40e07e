"""Reading a task by its id, without planning it each time."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    script = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    # asyncpg prepares what it runs, and Postgres prepares one statement at a time.
    for statement in script.split("\n-- step: ")[1:]:
        _name, _, sql = statement.partition("\n")
        op.get_bind().exec_driver_sql(sql)
