"""The statements of the queue, one file each, named after the method that runs it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def statement(name: str) -> str:
    """SQL text of ``sql/<name>.sql``."""
    return files("organism_flows.blocks.queue").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
