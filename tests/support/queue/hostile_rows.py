"""Rows of the table of tasks as anybody may write them who has SQL, and as older versions have taken them."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import asyncpg
from hypothesis import strategies as st

INTS = st.sampled_from([0, 1, -1, 3, 2**31 - 1, 2**31 - 2, -(2**31)])
MOMENTS = st.sampled_from(
    [
        "now",
        "infinity",
        "-infinity",
        "4713-01-01 00:00:00+00 BC",
        "0001-01-01 00:00:00+00 BC",
        "294276-12-31 23:59:59+00",
        "9999-12-31 23:59:59.999999+00",
        "10000-01-01 00:00:00+00",
    ]
)
NESTED = '{"a": ' + "[" * 1500 + "]" * 1500 + "}"
DIGITS = '{"n": ' + "9" * 5000 + "}"
JSON = [
    "{}",
    NESTED,
    DIGITS,
    '{"n": 6.022e23}',
    '{"n": 1e400}',
    '{"n": 1e130000}',
    '{"n": 12345678901234567e400}',
]
FRACTION = '{"n": ' + "9" * 400 + '.5, "tiny": 1e-400}'
TYPES = ["hostile", "\x1b[31mred", "two\nlines", "\u202ereversed", "x" * 900, "é" * 400]
LANES = st.sampled_from(["ghost", "dead", "\x1b[2J", "live"])

ROWS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(TYPES),
        "params": st.sampled_from([*JSON, FRACTION]),
        "description": st.sampled_from([None, "", "x" * 100_000]),
        "domain": st.sampled_from([None, "", "d", "\x9b31m"]),
        "drift_score": st.sampled_from([0.0, -1.7e308, 5e-324]),
        "status": st.sampled_from(
            ["created", "queued", "running", "completed", "failed", "cancelled", "retry"]
        ),
        "attempts": INTS,
        "locked_by": LANES,
        "locked_at": st.none() | MOMENTS,
        "begun_at": st.none() | MOMENTS,
        "run_after": MOMENTS,
        "result": st.sampled_from([None, "null", "[]", *JSON]),
        "error": st.sampled_from([None, "boom", "\x1b]0;title\x07", "y" * 100_000]),
        "created_at": MOMENTS,
        "updated_at": MOMENTS,
        "finished_at": st.none() | MOMENTS,
        "claim": st.sampled_from([0, -1, 2**63 - 1, -(2**63)]),
        "priority": INTS,
        "max_attempts": st.sampled_from([None, 1, 2**31 - 1]),
        "timeout_s": st.sampled_from([None, 5e-324, 1.7e308]),
        "timed_out": INTS,
        "lease_lost": INTS,
        "interrupted": INTS,
        "suspicion": st.sampled_from([0, -1, 32767, -32768]),
        "elapsed_ms": st.sampled_from([None, float("nan"), float("inf"), 1.5]),
        "organ_id": st.sampled_from([None, "", "\x1b"]),
        "cancel_requested": st.booleans(),
        "dedup_key": st.none() | st.uuids(version=4).map(str),
    }
)
"""Every column."""

WORST: dict[str, Any] = {
    "type": "hostile",
    "params": DIGITS,
    "description": None,
    "domain": None,
    "drift_score": 0.0,
    "status": "queued",
    "attempts": 2**31 - 1,
    "locked_by": "dead",
    "locked_at": "-infinity",
    "begun_at": "infinity",
    "run_after": "-infinity",
    "result": NESTED,
    "error": "boom",
    "created_at": "4713-01-01 00:00:00+00 BC",
    "updated_at": "294276-12-31 23:59:59+00",
    "finished_at": "4713-01-01 00:00:00+00 BC",
    "claim": 2**63 - 1,
    "priority": 2**31 - 1,
    "max_attempts": None,
    "timeout_s": 1.7e308,
    "timed_out": 2**31 - 1,
    "lease_lost": 2**31 - 1,
    "interrupted": 2**31 - 1,
    "suspicion": 32767,
    "elapsed_ms": float("nan"),
    "organ_id": "\x1b",
    "cancel_requested": False,
    "dedup_key": None,
}
"""Everything at its end."""
STATUSES = ["created", "queued", "running", "completed", "failed", "cancelled", "retry"]
_TYPES = {"params": "jsonb", "result": "jsonb", "status": "taskstatus"} | dict.fromkeys(
    ("locked_at", "begun_at", "run_after", "created_at", "updated_at", "finished_at"), "timestamptz"
)
HOSTILE_SIDE_ROWS = """
INSERT INTO lanes (id, run, host, pid, lease_until, started_at, renewed_at, leaving_at, settled, figures)
VALUES
    ('dead', 'r', 'h', -1, 'epoch', '4713-01-01 BC', 'infinity', '-infinity', -1,
     '{"claims": 1e400, "released": 1e-400, "call_seconds.le.x": 1, "call_seconds.le.nan": 2, "x": "y"}'),
    ('live', E'\\x1b[1m', E'\\x1b', 2147483647, 'infinity', '294276-01-01', '4713-01-01 BC', '4713-01-01 BC',
     9223372036854775807, '{"completed": 1e999, "call_seconds.sum": -1e999}')
    ON CONFLICT DO NOTHING;
INSERT INTO lane_totals VALUES ('claims', 'NaN'), ('lanes_lost', '1.7e308'), ('failed', '-Infinity')
    ON CONFLICT DO NOTHING;
INSERT INTO pauses (kind, name, reason, paused_at) VALUES ('type', E'\\x1b', E'\\x1b[2J', '4713-01-01 BC')
    ON CONFLICT DO NOTHING;
INSERT INTO task_types VALUES ('hostile', 2147483647, 1.7e308, 1.7e308, 5e-324, 2147483647)
    ON CONFLICT DO NOTHING;
INSERT INTO task_types VALUES (E'\\x1b', 5000, 5e-324, 5e-324, 1.7e308, 1) ON CONFLICT DO NOTHING;
"""
RULES = ("tasks_counters_are_plausible", "tasks_moments_are_plausible", "tasks_names_are_short")


async def insert(connection: Any, row: dict[str, Any]) -> UUID:
    """Write a row as somebody with SQL does."""
    task = uuid4()
    columns = ["id", *row]
    values = ", ".join(
        ["$1", *(f"${n}::text::{_TYPES[c]}" if c in _TYPES else f"${n}" for n, c in enumerate(row, 2))]
    )
    await connection.execute(
        f"INSERT INTO tasks ({', '.join(columns)}) VALUES ({values})",
        task,
        *row.values(),
    )
    return task


async def take_any_row(connection: asyncpg.Connection[Any] | Any) -> None:
    """Take rows as they were taken before there were rules, and write hostile rows into the other tables."""
    for rule in RULES:
        await connection.execute(f"ALTER TABLE tasks DISABLE TRIGGER {rule}")
    await connection.execute(HOSTILE_SIDE_ROWS)
