"""Write every generated part, on a Postgres that is started for it: ``python -m docs.generate``."""

from __future__ import annotations

import asyncio

from docs.generate.parts import PAGES, current
from organism_flows.blocks.queue import migrate
from tests.support.queue.bare_server import bare_server


async def main(dsn: str) -> None:
    """Bring every page of docs/reference up to date."""
    await migrate(dsn)
    for page in PAGES:
        before = page.read_text()
        text = await current(before, dsn)
        if text != before:
            page.write_text(text)
            print(page.name)


if __name__ == "__main__":
    with bare_server() as server:
        asyncio.run(main(server.dsn()))
