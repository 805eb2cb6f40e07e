"""Limits on what runs at once or begins within a period, by type and key."""

from __future__ import annotations

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run_script(__file__)
