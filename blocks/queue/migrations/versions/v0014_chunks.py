"""The chunks that running tasks emit."""

from __future__ import annotations

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    run_script(__file__)
