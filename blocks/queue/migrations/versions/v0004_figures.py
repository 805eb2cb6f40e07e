"""Counters of lanes, kept after a lane is gone."""

from __future__ import annotations

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_script(__file__)
