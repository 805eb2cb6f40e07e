"""SQL statements of the queue, one file each."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from organism_flows.blocks.sql_statement import Statement, read_sql

SQL = Path(__file__).parents[1] / "sql"


@cache
def statement(name: str) -> Statement:
    """Return the statement of ``sql/<name>.sql``."""
    return Statement.of(read_sql(SQL, name))
