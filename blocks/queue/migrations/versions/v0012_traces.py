"""Trace contexts of tasks, and the last lines that their handlers logged."""

from __future__ import annotations

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    run_script(__file__)
