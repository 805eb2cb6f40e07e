"""Adoption of a ``tasks`` table of the older system: what it must have, and what is converted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from organism_flows.blocks.errors import SchemaMismatch
from organism_flows.blocks.queue.db.statements import statement
from organism_flows.blocks.queue.models.operations import STORED_STATUSES, Status

if TYPE_CHECKING:
    from sqlalchemy import Connection

UNCHANGED = "nothing was changed"
LEAVE_IT = f"or rename that table, or point ORGANISM_DSN at another database; {UNCHANGED}"
TYPE_BYTES = 1000
"""Longest type, in bytes, that fits into an index entry."""
DOMAIN_BYTES = 800
"""Longest domain, in bytes, that fits into an index entry beside a type and a key."""

MOMENT = "timestamp with time zone"
COLUMNS: dict[str, tuple[str, str | None]] = {
    "id": ("uuid", "gen_random_uuid()"),
    "type": ("text", None),
    "description": ("text", None),
    "params": ("jsonb", "'{}'"),
    "domain": ("text", None),
    "drift_score": ("double precision", "0"),
    "status": ("taskstatus", "'queued'"),
    "attempts": ("integer", "0"),
    "locked_by": ("text", None),
    "locked_at": (MOMENT, None),
    "run_after": (MOMENT, "queue_now()"),
    "result": ("jsonb", None),
    "error": ("text", None),
    "created_at": (MOMENT, "queue_now()"),
    "updated_at": (MOMENT, "queue_now()"),
    "claim": ("bigint", "0"),
    "priority": ("integer", "0"),
    "max_attempts": ("integer", None),
    "timeout_s": ("double precision", None),
    "timed_out": ("integer", "0"),
    "lease_lost": ("integer", "0"),
    "suspicion": ("smallint", "0"),
    "finished_at": (MOMENT, None),
    "elapsed_ms": ("real", None),
    "organ_id": ("text", None),
    "path": ("text", None),
    "dedup_key": ("text", None),
    "cancel_requested": ("boolean", "false"),
    "begun_at": (MOMENT, None),
    "interrupted": ("integer", "0"),
    "key": ("text", None),
    "snoozed": ("integer", "0"),
    "expires_at": (MOMENT, None),
    "cost": ("double precision", None),
    "traceparent": ("text", None),
    "log": ("text", None),
    "waits_for": ("text", None),
    "handler_version": ("text", None),
}
"""Type and default of each column of our table, whichever version added it."""
REQUIRED = (
    "id",
    "type",
    "status",
    "params",
    "attempts",
    "run_after",
    "result",
    "error",
    "created_at",
    "updated_at",
)
"""Columns that mark a table called ``tasks`` as the older system's, which can be adopted."""
CONVERTED: dict[str, tuple[str, ...]] = {
    "text": ("character varying", "character"),
    "jsonb": ("json",),
    "integer": ("smallint",),
    "bigint": ("integer", "smallint"),
    "double precision": ("real",),
}
"""Other types that a column of the given type may have. They are converted: each of their values fits."""

BROKEN_ROWS = (
    ("no id", "id", "id IS NULL", "UPDATE tasks SET id = gen_random_uuid() WHERE id IS NULL"),
    ("no type", "type", "type IS NULL", "UPDATE tasks SET type = 'unknown' WHERE type IS NULL"),
    ("no status", "status", "status IS NULL", "UPDATE tasks SET status = 'created' WHERE status IS NULL"),
    (
        f"a type of more than {TYPE_BYTES} bytes",
        "type",
        f"octet_length(type::text) > {TYPE_BYTES}",
        f"UPDATE tasks SET type = left(type, 200) WHERE octet_length(type) > {TYPE_BYTES}",  # noqa: S608
    ),
    (
        f"a domain of more than {DOMAIN_BYTES} bytes",
        "domain",
        f"octet_length(domain::text) > {DOMAIN_BYTES}",
        f"UPDATE tasks SET domain = left(domain, 200) WHERE octet_length(domain) > {DOMAIN_BYTES}",  # noqa: S608
    ),
)
"""Rows that cannot be claimed or read: the fault, its column and condition, and the repairing statement."""

BROKEN_WHEN_NULL = ("id", "type", "status")


@dataclass(frozen=True, slots=True)
class _Column:
    type: str
    nullable: bool
    filled: bool
    """True if it has a value in rows whose INSERT does not name it."""
    generated: bool


@dataclass(frozen=True, slots=True)
class Older:
    """A table of the older system during its adoption."""

    columns: dict[str, _Column]
    """Its columns before the adoption."""
    triggers: list[str]
    """Statements that enable its triggers again."""


def prepare(connection: Connection, meanings: Mapping[str, Status]) -> Older | None:
    """Check an existing table ``tasks``, and give its columns the types of a new one.

    Everything is checked before anything is changed. The triggers of the table stay disabled until `finish`:
    they would write the time of the migration into ``updated_at``.

    Args:
        connection: Connection inside a transaction.
        meanings: Status by label, for labels that are not ours even in another case.

    Returns:
        `None` if there is no such table.

    Raises:
        SchemaMismatch: The table cannot be adopted. Names the first reason.
    """
    run = connection.exec_driver_sql
    kind = run("SELECT relkind::text FROM pg_class WHERE oid = to_regclass('tasks')").scalar()
    if kind is None:
        return None
    if kind != "r":
        what = {"v": "a view", "m": "a materialized view", "p": "a partitioned table"}.get(
            kind, "a foreign table"
        )
        raise SchemaMismatch(
            f"{what} called tasks is in the way, where a plain table is expected", f"make it one, {LEAVE_IT}"
        )
    # Give up soon, so that producers do not queue behind this lock. The check now and the conversion later
    # must see the same rows.
    run("SET LOCAL lock_timeout = '10s'")
    run("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
    found = _columns(connection)
    _refuse_shape(found)
    _refuse_key(connection)
    _refuse_rows(connection, found)
    labels = _statuses(connection, meanings)
    changed = _to_convert(connection, found, labels)
    _refuse_dependents(connection, changed)
    triggers = []
    for name, enabled in run(
        "SELECT quote_ident(tgname), tgenabled::text FROM pg_trigger "
        "WHERE tgrelid = to_regclass('tasks') AND NOT tgisinternal AND tgenabled <> 'D'"
    ).all():
        run(f"ALTER TABLE tasks DISABLE TRIGGER {name}")
        how = {"A": "ALWAYS ", "R": "REPLICA "}.get(enabled, "")
        triggers.append(f"ALTER TABLE tasks ENABLE {how}TRIGGER {name}")
    _convert(connection, changed, labels)
    _loosen(connection, found)
    return Older(found, triggers)


def finish(connection: Connection, older: Older) -> None:
    """Give the columns the defaults of a new table, and enable the triggers again.

    Args:
        connection: Connection in the transaction of `prepare`.
        older: The answer of `prepare`.
    """
    run = connection.exec_driver_sql
    # The older system did not record the time, and a task without one is neither redriven nor pruned by time.
    run(
        "UPDATE tasks SET finished_at = updated_at "
        "WHERE status IN ('completed', 'failed', 'cancelled') AND finished_at IS NULL"
    )
    for name, (_, default) in COLUMNS.items():
        if default and name in older.columns:
            run(f"ALTER TABLE tasks ALTER COLUMN {name} SET DEFAULT {default}")
    for turn_on in older.triggers:
        run(turn_on)


def _columns(connection: Connection) -> dict[str, _Column]:
    rows = connection.exec_driver_sql(
        "SELECT attname::text AS name, format_type(atttypid, NULL) AS type, NOT attnotnull AS nullable, "
        "atthasdef OR attidentity <> '' AS filled, attgenerated <> '' OR attidentity = 'a' AS generated "
        "FROM pg_attribute WHERE attrelid = to_regclass('tasks') AND attnum > 0 AND NOT attisdropped"
    )
    return {row.name: _Column(row.type, row.nullable, row.filled, row.generated) for row in rows}


def _refuse_shape(found: dict[str, _Column]) -> None:
    other_case = {name.lower(): name for name in found if name != name.lower()}
    for name, (type_, _) in COLUMNS.items():
        column = found.get(name)
        if column is None:
            if name in other_case:
                raise SchemaMismatch(
                    f'the table tasks has a column "{other_case[name]}", expected {name}',
                    f'ALTER TABLE tasks RENAME COLUMN "{other_case[name]}" TO {name}, {LEAVE_IT}',
                )
            if name in REQUIRED:
                raise SchemaMismatch(
                    f"a table called tasks of another shape is in the way: its column {name} is missing",
                    f"if it is the older system's, ALTER TABLE tasks ADD COLUMN {name} "
                    f"{'text' if name == 'status' else type_}, {LEAVE_IT}",
                )
        elif column.generated:
            raise SchemaMismatch(
                f"the column {name} of the table tasks is generated, and cannot be written",
                f"ALTER TABLE tasks ALTER COLUMN {name} DROP "
                f"{'EXPRESSION' if name != 'id' else 'IDENTITY'}, {LEAVE_IT}",
            )
        elif name != "status" and column.type not in (type_, *CONVERTED.get(type_, ())):
            zone = " AT TIME ZONE 'UTC'" if column.type == "timestamp without time zone" else f"::{type_}"
            raise SchemaMismatch(
                f"a table called tasks of another shape is in the way: its column {name} is {column.type}, "
                f"expected {type_}",
                f"if it is the older system's, ALTER TABLE tasks ALTER COLUMN {name} TYPE {type_} "
                f"USING {name}{zone}, {LEAVE_IT}",
            )
    for name, column in found.items():
        if name not in COLUMNS and not column.nullable and not column.filled:
            raise SchemaMismatch(
                f"the column {name} of the table tasks is NOT NULL without a default: no task could be added",
                f'ALTER TABLE tasks ALTER COLUMN "{name}" DROP NOT NULL, or SET DEFAULT …, '
                f"and migrate again; {UNCHANGED}",
            )


def _refuse_key(connection: Connection) -> None:
    unique = connection.exec_driver_sql(
        "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid "
        "WHERE i.indrelid = to_regclass('tasks') AND a.attname = 'id' "
        "AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL "
        "AND i.indkey::text = a.attnum::text)"
    ).scalar()
    if not unique:
        raise SchemaMismatch(
            "the column id of the table tasks is not unique: two tasks could not be distinguished",
            f"CREATE UNIQUE INDEX tasks_id ON tasks (id), and migrate again; {UNCHANGED}",
        )


def _refuse_rows(connection: Connection, found: dict[str, _Column]) -> None:
    for what, column, broken, mend in BROKEN_ROWS:
        if column not in found:
            continue
        count = connection.exec_driver_sql(f"SELECT count(*) FROM tasks WHERE {broken}").scalar()  # noqa: S608
        if count:
            raise SchemaMismatch(
                f"{count} tasks of the table have {what}", f"{mend}, and migrate again; {UNCHANGED}"
            )


def _statuses(connection: Connection, meanings: Mapping[str, Status]) -> dict[str, Status]:
    """Return our status for each label that rows have."""
    counts = connection.exec_driver_sql(
        "SELECT status::text AS label, count(*) AS tasks FROM tasks GROUP BY 1 ORDER BY 1"
    )
    known: dict[str, Status] = {}
    unknown: list[tuple[str, int]] = []
    for label, tasks in counts:
        plain = label.strip().lower()
        ours = meanings.get(label) or next((status for status in STORED_STATUSES if status == plain), None)
        if ours is None:
            unknown.append((label, tasks))
        else:
            known[label] = ours
    if unknown:
        each = ", ".join(f"{label!r} ({tasks} task{'s' if tasks > 1 else ''})" for label, tasks in unknown)
        options = " ".join(f"--status {label}=…" for label, _ in unknown)
        raise SchemaMismatch(
            f"the table tasks has statuses that are unknown here: {each}",
            f"say which of {', '.join(STORED_STATUSES)} each is: organism migrate {options}; {UNCHANGED}",
        )
    return known


def _to_convert(connection: Connection, found: dict[str, _Column], labels: dict[str, Status]) -> list[str]:
    """Return the columns of our table that have another type."""
    changed = [
        name
        for name, column in found.items()
        if name in COLUMNS and name != "status" and column.type != COLUMNS[name][0]
    ]
    labels_of_ours = ", ".join(map(_literal, sorted(STORED_STATUSES)))
    ours = connection.exec_driver_sql(
        "SELECT a.atttypid = to_regtype('taskstatus') AND t.typtype = 'e' "  # noqa: S608
        "AND (SELECT array_agg(enumlabel::text ORDER BY enumlabel) FROM pg_enum WHERE enumtypid = t.oid) "
        f"= ARRAY[{labels_of_ours}] "
        "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
        "WHERE a.attrelid = to_regclass('tasks') AND a.attname = 'status'"
    ).scalar()
    renamed = any(label != status for label, status in labels.items())
    return changed if ours and not renamed else [*changed, "status"]


def _refuse_dependents(connection: Connection, changed: list[str]) -> None:
    """Refuse objects that keep a column from being converted."""
    for row in connection.exec_driver_sql(statement("attached").text):
        # Indexes and constraints follow a type that holds the same values. The labels of a status may change.
        follows = row.kind in ("index", "check", "foreign key")
        for name in row.columns:
            if name in changed and (name == "status" or not follows):
                raise SchemaMismatch(
                    f"the column {name} of the table tasks must be converted, "
                    f"and the {row.kind} {row.name} uses it",
                    f"{row.drop}, migrate, and make it again for the new type; {UNCHANGED}",
                )


def _convert(connection: Connection, changed: list[str], labels: dict[str, Status]) -> None:
    run = connection.exec_driver_sql
    actions = []
    for name in changed:
        new = COLUMNS[name][0]
        value = f"{name}::{new}"
        if name == "status":
            if run("SELECT to_regtype('taskstatus') IS NOT NULL").scalar():
                run("ALTER TYPE taskstatus RENAME TO taskstatus_older")
            run(f"CREATE TYPE taskstatus AS ENUM ({', '.join(map(_literal, STORED_STATUSES))})")
            cases = "".join(f" WHEN {_literal(label)} THEN {_literal(own)}" for label, own in labels.items())
            value = f"(CASE status::text{cases} END)::taskstatus" if cases else "NULL::taskstatus"
        actions += [f"ALTER COLUMN {name} DROP DEFAULT", f"ALTER COLUMN {name} TYPE {new} USING {value}"]
    if actions:
        run(f"ALTER TABLE tasks {', '.join(actions)}")


def _loosen(connection: Connection, found: dict[str, _Column]) -> None:
    """Allow NULL where a new table does, and replace it where a new table does not."""
    run = connection.exec_driver_sql
    fillers = {"created_at": "coalesce(updated_at, now())", "updated_at": "created_at"}
    for name, (_, default) in COLUMNS.items():
        if name not in found or name in BROKEN_WHEN_NULL:
            continue
        if default is None or name == "run_after":
            if not found[name].nullable:
                run(f"ALTER TABLE tasks ALTER COLUMN {name} DROP NOT NULL")
        elif found[name].nullable:
            filler = fillers.get(name, default)
            run(f"UPDATE tasks SET {name} = {filler} WHERE {name} IS NULL")  # noqa: S608
            run(f"ALTER TABLE tasks ALTER COLUMN {name} SET NOT NULL")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
