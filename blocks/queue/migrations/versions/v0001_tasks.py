"""The tasks table, its lanes and its attempt history; an older tasks table is adopted in place."""

from __future__ import annotations

from alembic import op

from organism_flows.blocks.queue.db import adoption
from organism_flows.blocks.queue.db.migrate import MEANINGS, run_script

revision = "0001"
down_revision = None


def upgrade() -> None:
    config = op.get_context().config
    assert config is not None
    older = adoption.prepare(op.get_bind(), config.attributes[MEANINGS])
    run_script(__file__)
    if older is not None:
        adoption.finish(op.get_bind(), older)
