"""`organism migrate`."""

from __future__ import annotations

from deployments.output import AsJson, show


async def migrate(*, as_json: AsJson = False) -> None:
    """Bring the tasks table in ORGANISM_DSN, or in the embedded Postgres, to this version's schema.

    Where ORGANISM_DSN leads through a pooler, ORGANISM_DIRECT_DSN is used.
    Safe while lanes run and from several places at once. A table of the older system is adopted in place.
    The roles of docs/roles.md are made, if this login may make roles, and get their privileges.
    """
    from blocks.queue import migrate as bring_up_to_date
    from blocks.queue.connection import describe
    from blocks.queue.roles import how_to_make
    from blocks.settings import load_settings
    from blocks.stack import queue_dsn

    settings = load_settings()
    dsn = (settings.direct_dsn or queue_dsn(settings)).get_secret_value()
    missing = await bring_up_to_date(dsn)
    lines = [f"the tables in {describe(dsn)} are up to date"]
    if missing:
        lines.append(how_to_make(missing))
    show({"database": describe(dsn), "missing_roles": missing}, as_json, "\n".join(lines))
