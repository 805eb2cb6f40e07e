"""The tables, from the catalog of a migrated database; what a column is, from its comment or from here."""

from __future__ import annotations

from itertools import groupby

import asyncpg

from docs.generate.rendering import code, table

TABLES = {
    "lanes": "One row a lane, as long as it lives.",
    "organism_migrations": "The newest migration that was applied.",
    "limit_exceptions": "Keys that have an amount of their own in a limit by key.",
    "limit_levels": "How much is left of rates. Claims write it.",
    "limit_spending": "What has been spent of limits on cost. Claims and settlements write it.",
    "pauses": "Types and domains of which no task is claimed.",
    "task_attempts": "The history of a task: one row for each claim that did not complete it.",
    "task_types": "Policies: what holds for all tasks of a type that do not say it themselves.",
}
"""What a table holds, where it has no comment."""
COLUMNS = {
    "closures.name": "The type, or the limit.",
    "closures.key": "The key. Empty: tasks without one, or all tasks of a limit.",
    "closures.until": "When it opens.",
    "closures.reason": "Error of the handler that closed it.",
    "closures.closed_at": "When it was closed.",
    "lane_totals.name": "Name of the number.",
    "lane_totals.value": "Sum over all lanes that are gone.",
    "lanes.id": "Name of the lane.",
    "lanes.run": "Id of its dispatch run.",
    "lanes.host": "Machine it runs on.",
    "lanes.pid": "Its process there.",
    "lanes.started_at": "When it registered.",
    "lanes.renewed_at": "Its newest heartbeat.",
    "lanes.lease_until": "When it loses its tasks, unless it renews its lease.",
    "lanes.settled": "Tasks that it has settled.",
    "lanes.stop_requested": "It must stop: hand back what has not ended after the grace period.",
    "lanes.number": "Its number within the dispatch run.",
    "lanes.figures": "What it has counted, by the names in `blocks/queue/counters.py`.",
    "lanes.leave_requested": "It must leave: claim nothing more and end when its tasks have ended.",
    "lanes.run_started_at": "When its dispatch run began.",
    "key_weights.key": "The key, of whatever type.",
    "key_weights.weight": "How many tasks it gets when others get one.",
    "key_weights.declared": "True: from the file of the organism.",
    "limit_exceptions.name": "The limit.",
    "limit_exceptions.key": "The key.",
    "limit_exceptions.amount": "Its amount.",
    "limit_levels.name": "The limit.",
    "limit_levels.key": "The key. Empty: all tasks together.",
    "limit_levels.level": "Tasks that could begin at that moment.",
    "limit_levels.at": "When it was written.",
    "limit_spending.name": "The limit.",
    "limit_spending.key": "The key. Empty: all tasks together.",
    "limit_spending.at": "The sixtieth of the period.",
    "limit_spending.units": "Units that were spent, or are expected to be, by what was claimed in it.",
    "limits.name": "Name of the limit.",
    "limits.kind": "`running`: at once. `rate`, `cost`: within a period.",
    "limits.period_s": "Length of the period, in seconds.",
    "limits.set_at": "When it was set.",
    "organism_migrations.version_num": "Revision of Alembic.",
    "pauses.kind": "`type` or `domain`.",
    "pauses.name": "Which one.",
    "pauses.reason": "Shown to whoever asks why tasks wait.",
    "pauses.paused_at": "Since when.",
    "task_attempts.task_id": "The task.",
    "task_attempts.claim": "Claim under which the attempt was made.",
    "task_attempts.attempt": "Number of the attempt.",
    "task_attempts.lane": "Lane that held the task.",
    "task_attempts.cause": "Why it ended, such as `failed`, `timed_out`, `snoozed` or `lease_lost`.",
    "task_attempts.error": "Error of the handler, or what happened.",
    "task_attempts.log": "The last lines, 16 kB at most, that its handler logged through its context.",
    "task_attempts.started_at": "When the lane claimed it.",
    "task_attempts.ended_at": "When it ended.",
    "task_audit.id": "Id of the action.",
    "task_audit.at": "When it began.",
    "task_audit.action": "What was done, such as `redrive`.",
    "task_audit.actor": "Who did it.",
    "task_audit.details": "The filter.",
    "task_audit.tasks": "How many tasks so far.",
    "task_checkpoints.task_id": "The task.",
    "task_checkpoints.claim": "Claim under which something was last reported.",
    "task_checkpoints.state": "Newest state that a handler saved with `context.checkpoint`.",
    "task_checkpoints.saved_at": "When it was saved.",
    "task_checkpoints.fraction": "Newest progress, from 0 to 1. NULL: unknown.",
    "task_checkpoints.note": "Newest progress in words.",
    "task_checkpoints.reported_at": "When something was last reported.",
    "task_chunks.task_id": "The task.",
    "task_chunks.claim": "Claim under which they were emitted.",
    "task_chunks.chunks": "A list of what the handler emitted with `context.emit`, in its order.",
    "task_chunks.emitted_at": "When they were written.",
    "task_events.task_id": "The task.",
    "task_events.name": "Name of the event.",
    "task_events.payload": "What the handler gets with it.",
    "task_events.sent_at": "When it was sent.",
    "task_files.name": "Path of the file, and the task type if one was given.",
    "task_files.lines": "How many lines of it have been loaded.",
    "task_files.digest": "SHA-256 of these lines.",
    "task_files.loaded_at": "When something of it was last loaded.",
    "task_types.type": "The type.",
    "task_types.max_attempts": "Attempts before a task is a dead letter. NULL: the organ's, else 5.",
    "task_types.timeout_s": "Seconds an attempt may take. NULL: the organ's.",
    "task_types.backoff_base_s": "Seconds before the second attempt. NULL: the organ's, else the queue's.",
    "task_types.backoff_cap_s": "Longest wait between attempts, in seconds. NULL: likewise.",
    "task_waits.task_id": "The task.",
    "task_waits.claim": "Claim under which it began to wait.",
    "task_waits.name": "Name of the event.",
    "task_waits.since": "When it began to wait.",
    "tasks.id": "A UUID that grows with time. You may give one of your own.",
    "tasks.type": "Decides which organ runs it.",
    "tasks.description": "For people. The handler gets it.",
    "tasks.params": "A JSON object for the handler.",
    "tasks.domain": "Divides a type, such as a tenant or a region.",
    "tasks.drift_score": "How far the input is from what its organ was made for.",
    "tasks.status": "`created`, `queued`, `running`, `completed`, `failed`, `cancelled` or `retry`.",
    "tasks.locked_by": "Lane that holds it.",
    "tasks.locked_at": "When the lane claimed it.",
    "tasks.run_after": "Not claimed before.",
    "tasks.result": "What the handler returned.",
    "tasks.error": "Error of the newest attempt.",
    "tasks.created_at": "When it was added.",
    "tasks.updated_at": "When its row last changed.",
    "tasks.priority": "Higher is claimed first.",
    "tasks.timeout_s": "Seconds an attempt may take. NULL: the policy's of its type, else the organ's.",
    "tasks.timed_out": "Attempts that timed out.",
    "tasks.lease_lost": "How often its lane was lost. The tenth time it is a dead letter.",
    "tasks.finished_at": "When it completed, failed for good or was cancelled.",
    "tasks.elapsed_ms": "Milliseconds in the handler, of the newest attempt.",
    "tasks.organ_id": "Organ that ran it.",
    "tasks.path": "`fast`, `escalated` or `fallback`.",
    "tasks.cancel_requested": "It must be cancelled. Its handler is stopped.",
}
"""What a column is, where it has no comment in the database."""
QUERY = """
SELECT c.relname AS table, obj_description(c.oid) AS table_comment, a.attname AS column,
       format_type(a.atttypid, a.atttypmod) AS type, NOT a.attnotnull AS nullable,
       coalesce(pg_get_expr(d.adbin, d.adrelid), '') AS default, col_description(c.oid, a.attnum) AS comment
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
ORDER BY c.relname <> 'tasks', c.relname, a.attnum
"""
INDEXES = """
SELECT indexname AS name, regexp_replace(indexdef, '.* USING ', '') AS definition
FROM pg_indexes WHERE schemaname = 'public' AND tablename = $1 ORDER BY 1
"""


async def text(dsn: str) -> str:
    """Return each table with its columns and indexes."""
    connection = await asyncpg.connect(dsn)
    try:
        parts = []
        for name, columns in groupby(await connection.fetch(QUERY), key=lambda row: row["table"]):
            listed = list(columns)
            rows = [
                [
                    code(row["column"]),
                    row["type"],
                    "NULL" if row["nullable"] else "",
                    code(row["default"]),
                    row["comment"] or COLUMNS[f"{name}.{row['column']}"],
                ]
                for row in listed
            ]
            indexes = [
                [code(row["name"]), code(row["definition"])] for row in await connection.fetch(INDEXES, name)
            ]
            parts += [
                f"## {name}",
                listed[0]["table_comment"] or TABLES[name],
                table(["column", "type", "", "default", "what it is"], rows),
                table(["index", "on"], indexes),
            ]
    finally:
        await connection.close()
    return "\n\n".join(parts)
