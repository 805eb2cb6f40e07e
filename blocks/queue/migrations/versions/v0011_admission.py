"""Tasks that are put off, and keys and limits that are closed until a moment."""

from __future__ import annotations

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_script(__file__)
