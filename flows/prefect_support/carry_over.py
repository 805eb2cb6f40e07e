"""Carries over from an older Prefect database which schedules are on and which are off."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

SCHEDULES = """
SELECT flow.name, max(deployment_schedule.active AND NOT deployment.paused)
FROM deployment_schedule
JOIN deployment ON deployment.id = deployment_schedule.deployment_id
JOIN flow ON flow.id = deployment.flow_id
WHERE deployment.name = 'organism'
GROUP BY flow.name
"""


def schedules(database: Path) -> dict[str, bool]:
    """Return whether the schedule of each flow is on in the Prefect server's SQLite file ``database``.

    If the file cannot be read, return nothing: schedules are then as in prefect.yaml.
    """
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return {flow: bool(on) for flow, on in connection.execute(SCHEDULES)}
    except sqlite3.Error:
        return {}


async def apply(database: Path) -> list[str]:
    """Turn schedules on and off as they are in ``database``, and return the changes, like ``dispatch on``."""
    from organism_flows.flows.prefect_support.schedules import scheduled, turn

    now = {one.deployment.partition("/")[0]: one.on for one in await scheduled() if one.schedules}
    # A flow that the server does not have is left out.
    changed = [(flow, on) for flow, on in schedules(database).items() if now.get(flow, on) != on]
    for flow, on in changed:
        await turn(flow, on=on)
    return [f"{flow} {'on' if on else 'off'}" for flow, on in changed]
