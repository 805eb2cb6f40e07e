"""SQL of the tests on the database of a queue, past its stores."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.db import statements
from organism_flows.blocks.queue.db.database import Database
from organism_flows.blocks.sql_statement import Statement, read_sql


def database_of(queue: Queue) -> Database:
    """For statements by name."""
    return queue._database


def pool_of(queue: Queue) -> asyncpg.Pool[Any]:
    """For SQL of any kind."""
    return queue._database.connection


def edit_statements(patch: pytest.MonkeyPatch, names: set[str], right: str, wrong: str) -> None:
    """Have every store run statements with one edit each."""
    edited = {}
    for name in names:
        text = read_sql(statements.SQL, name)
        assert right in text, f"{name} has changed: break it in another way"
        edited[name] = Statement.of(text.replace(right, wrong))
    real = statements.statement
    patch.setattr(statements, "statement", lambda name: edited[name] if name in edited else real(name))
