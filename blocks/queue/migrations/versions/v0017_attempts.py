"""What ran an attempt, and how far it got."""

from __future__ import annotations

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    run_script(__file__)
