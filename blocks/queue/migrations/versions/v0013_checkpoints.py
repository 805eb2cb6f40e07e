"""Checkpoints and progress of running tasks."""

from __future__ import annotations

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run_script(__file__)
