"""SQL statements of the queue, one file each. Most are named after the method that runs them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def statement(name: str) -> str:
    """Return the SQL text of ``sql/<name>.sql``."""
    return files("organism_flows.blocks.queue").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
