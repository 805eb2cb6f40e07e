"""`organism top`."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.deployments.cli.output import AsJson, show


async def top(
    *,
    table: Annotated[
        bool, Parameter(negative="", help="Work on the table, even if a gateway is known.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Watch the queue, the lanes and the organs in the terminal; open, cancel, retry, pause and redrive.

    Asks the gateway of ORGANISM_GATEWAY_URL or of the stack in ORGANISM_HOME, with ORGANISM_TOKEN. Without
    one, or with `--table`, it works on the table of ORGANISM_DSN. With `--json` it prints the overview once.
    """
    from organism_flows.blocks.settings import load_settings
    from organism_flows.deployments.cli.top.connection import connect

    if not as_json and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigurationError("there is no terminal to draw on", "`organism top --json` prints it once")
    async with connect(load_settings(), table=table) as (client, connected_to):
        if as_json:
            overview = await client.overview()
            show(overview, as_json, "")
            return
        from organism_flows.deployments.cli.top.app import TopApp

        await TopApp(client, connected_to).run_async()
