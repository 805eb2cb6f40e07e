"""Keys and costs from params, weights of keys, and limits that a file declares."""

from __future__ import annotations

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    run_script(__file__)
