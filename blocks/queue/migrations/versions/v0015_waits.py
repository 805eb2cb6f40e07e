"""Tasks that wait for an event, and the events that are sent to tasks."""

from __future__ import annotations

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    run_script(__file__)
