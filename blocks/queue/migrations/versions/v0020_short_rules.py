"""Rules for new rows that take less of a single INSERT."""

from __future__ import annotations

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    run_script(__file__)
