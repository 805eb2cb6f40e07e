"""SQL statements of the queue, one file each, with named parameters."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from organism_flows.blocks.sql_statement import Statement


def sql(name: str) -> str:
    """Return ``sql/<name>.sql``, with its parameters by name."""
    return files("organism_flows.blocks.queue").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


@cache
def statement(name: str) -> Statement:
    """Return the statement of ``sql/<name>.sql``."""
    return Statement.of(sql(name))
