"""A function that reads a task by its id, without planning the query each time."""

from __future__ import annotations

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_script(__file__)
