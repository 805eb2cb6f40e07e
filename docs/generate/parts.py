"""The generated parts by name, and a page with them brought up to date."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from docs.generate import (
    cli_commands,
    gateway_metrics,
    http_api,
    prefect_blocks,
    python_api,
    settings_table,
    sql_tables,
    yaml_schema,
)

FOLDER = Path(__file__).parents[1] / "reference"
PARTS: dict[str, Callable[[str], Awaitable[str]]] = {
    "blocks": prefect_blocks.text,
    "cli": cli_commands.text,
    "http-problems": http_api.problems,
    "http-details": http_api.details,
    "metrics": gateway_metrics.text,
    "python": python_api.text,
    "settings": settings_table.text,
    "tables": sql_tables.text,
    "yaml-config": yaml_schema.text,
}
"""Each takes the URL of a migrated database that holds nothing."""

MARKED = re.compile(r"(<!-- generated ([\w-]+) -->\n).*?(\n<!-- /generated \2 -->)", re.DOTALL)
PAGES = sorted(page for page in FOLDER.glob("*.md") if MARKED.search(page.read_text()))


async def current(page: str, dsn: str) -> str:
    """Return the text of a page with each of its parts made again.

    Raises:
        KeyError: The page has a part that nothing makes.
    """
    for name in names(page):
        made = await PARTS[name](dsn)
        before, begin, rest = page.partition(f"<!-- generated {name} -->\n")
        end = f"\n<!-- /generated {name} -->"
        page = f"{before}{begin}\n{made.strip()}\n{end}{rest.partition(end)[2]}"
    return page


def names(page: str) -> list[str]:
    """Return the names of the parts of a page."""
    return [part[2] for part in MARKED.finditer(page)]
