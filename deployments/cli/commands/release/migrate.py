"""`organism migrate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.deployments.cli.output import AsJson, show

if TYPE_CHECKING:
    from organism_flows.blocks.queue.db.attached_objects import Attached
    from organism_flows.blocks.queue.models.operations import Status

Statuses = Annotated[
    list[str] | None,
    Parameter(
        name="--status",
        negative="",
        help="What a status of an older table is here, such as DONE=completed. May be given several times.",
    ),
]


async def migrate(*, status: Statuses = None, as_json: AsJson = False) -> None:
    """Bring the tasks table in ORGANISM_DSN, or in the embedded Postgres, to this version's schema.

    If ORGANISM_DSN leads through a pooler, set ORGANISM_DIRECT_DSN, which is then used instead.
    It is safe while lanes run, and from several processes at the same time. A table of the older system is
    adopted in place.
    The roles of docs/how-to/roles.md are created if this login may create roles, and get their privileges.
    Other objects on the table stay, and are listed with what they cost.
    """
    from dataclasses import asdict

    from organism_flows.blocks.local_stack.stack_state import queue_dsn
    from organism_flows.blocks.queue import migrate as bring_up_to_date
    from organism_flows.blocks.queue.db.attached_objects import left_in_place
    from organism_flows.blocks.queue.db.connection import describe
    from organism_flows.blocks.queue.db.roles import how_to_make
    from organism_flows.blocks.settings import load_settings

    meanings = _meanings(status or [])
    settings = load_settings()
    dsn = (settings.direct_dsn or queue_dsn(settings)).get_secret_value()
    missing = await bring_up_to_date(dsn, meanings=meanings)
    kept = await left_in_place(dsn)
    lines = [f"the tables in {describe(dsn)} are up to date", *map(_line, kept)]
    if kept:
        lines.insert(1, "on the table tasks, not of this system, and left in place:")
    if missing:
        lines.append(how_to_make(missing))
    found = {
        "database": describe(dsn),
        "missing_roles": missing,
        "left_in_place": [asdict(each) for each in kept],
    }
    show(found, as_json, "\n".join(lines))


def _meanings(options: list[str]) -> dict[str, Status]:
    from organism_flows.blocks.queue.models.operations import STATUSES

    meanings: dict[str, Status] = {}
    for option in options:
        label, _, named = option.rpartition("=")
        own = next((status for status in STATUSES if status == named), None)
        if not label or own is None:
            raise ConfigurationError(
                f"--status {option} is not LABEL=STATUS",
                f"name one of {', '.join(STATUSES)} after the last =",
            )
        meanings[label] = own
    return meanings


def _line(each: Attached) -> str:
    size = f", {each.bytes / 1e6:.1f} MB" if each.bytes else ""
    return f"  {each.kind} {each.name}{size}: {each.cost}; {each.drop}"
