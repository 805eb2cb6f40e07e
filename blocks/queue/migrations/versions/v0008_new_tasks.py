"""A rule that logins which may only insert tasks cannot insert finished ones."""

from __future__ import annotations

from organism_flows.blocks.queue.db.migrate import run_script

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_script(__file__)
