"""Versions of the handlers of all tasks, and not only of those that took some seconds or did not complete."""

from __future__ import annotations

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    run_script(__file__)
