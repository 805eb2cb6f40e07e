"""Rules for new rows, and tolerance for values in older rows."""

from __future__ import annotations

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_script(__file__)
