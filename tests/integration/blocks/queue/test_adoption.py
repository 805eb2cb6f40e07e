"""Older tables of many shapes: adopted with all rows, or refused on one line and untouched."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from organism_flows.blocks.errors import QueueUnavailable, SchemaMismatch
from organism_flows.blocks.queue import NewTask, Queue, TaskFilter, migrate
from organism_flows.blocks.queue.db.adoption import COLUMNS
from organism_flows.blocks.queue.db.attached_objects import left_in_place
from organism_flows.deployments.cli.commands.release.migrate import migrate as migrate_command
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio

LOWER = ("created", "queued", "running", "completed", "failed", "cancelled", "retry")
BASE = {
    "id": "uuid PRIMARY KEY DEFAULT gen_random_uuid()",
    "type": "text NOT NULL",
    "status": "taskstatus NOT NULL",
    "params": "jsonb",
    "attempts": "integer",
    "run_after": "timestamptz",
    "result": "jsonb",
    "error": "text",
    "created_at": "timestamptz DEFAULT now()",
    "updated_at": "timestamptz DEFAULT now()",
}
ADOPTED_STATUS = {"running": "retry"}
"""What a lane does not hold, runs again."""


def table(columns: dict[str, str], *, labels: tuple[str, ...] = LOWER, enum: str = "taskstatus") -> str:
    kinds = ", ".join(f"{name} {kind.replace('taskstatus', enum)}" for name, kind in columns.items())
    values = ", ".join(f"'{label}'" for label in labels)
    return f"CREATE TYPE {enum} AS ENUM ({values});\nCREATE TABLE tasks ({kinds});\n"


def rows(labels: tuple[str, ...], **more: str) -> str:
    extra = "".join(f", {name}" for name in more)
    values = "".join(f", {value}" for value in more.values())
    return "".join(
        f"INSERT INTO tasks (type, status, params, updated_at{extra}) "
        f"VALUES ('t{n}', '{label}', '{{\"n\": {n}}}', '2020-01-0{n + 1}'{values});\n"
        for n, label in enumerate(labels)
    )


@pytest.fixture
async def dsn(databases: Any) -> str:
    return str(await databases.create(migrated=False))


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def schema(connection: asyncpg.Connection[Any]) -> list[Any]:
    """Everything a migration could change that is not a row."""
    return await connection.fetch(
        """
        SELECT 'column', attrelid::regclass::text, attname::text, format_type(atttypid, NULL),
            attnotnull::text FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
            WHERE relnamespace::regnamespace::text !~ '^pg_|^information'
            AND relkind IN ('r', 'v', 'p') AND attnum > 0
        UNION ALL SELECT 'type', typname::text, typnamespace::regnamespace::text,
            (SELECT string_agg(enumlabel, ' ' ORDER BY enumsortorder)
             FROM pg_enum WHERE enumtypid = t.oid), '' FROM pg_type t WHERE typtype = 'e'
        UNION ALL SELECT 'function', proname::text, '', '', '' FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT 'trigger', tgname::text, tgenabled::text, '', '' FROM pg_trigger
            WHERE NOT tgisinternal
        ORDER BY 1, 2, 3
        """
    )


async def adopted(dsn: str, labels: tuple[str, ...], meanings: dict[str, Any] | None = None) -> None:
    """Migrate, and check that every row has its status, can be read, and is claimed if it waits."""
    meanings = meanings or {}
    await migrate(dsn, meanings=meanings)
    expected = {}
    for n, label in enumerate(labels):
        status = meanings.get(label, label.strip().lower())
        expected[f"t{n}"] = ADOPTED_STATUS.get(status, status)
    async with Queue(dsn) as queue:
        pages = [page async for page in queue.reader.export(TaskFilter())]
        found = {row["type"]: row for page in pages for row in page}
        assert {name: row["status"] for name, row in found.items()} == expected
        for name, row in found.items():
            task = await queue.get(row["id"])
            assert task.params == {"n": int(name[1:])}
            if task.status in ("completed", "failed", "cancelled"):
                assert str(task.finished_at).startswith(f"2020-01-0{int(name[1:]) + 1}")
        [new] = await queue.submit([NewTask(type="new")])
        await pool_of(queue).execute("INSERT INTO tasks (type) VALUES ('by sql')")
        await queue.leases.register("lane")
        claimed = (await queue.claims.claim("lane", 100)).types
        waiting = [name for name, status in expected.items() if status in ("queued", "retry")]
        assert sorted(claimed) == sorted([*waiting, "new", "by sql"])
        assert isinstance(new, UUID)
    await migrate(dsn)


async def refused(dsn: str, connection: Any, *names: str, meanings: dict[str, Any] | None = None) -> str:
    """Migrate, and check that it is refused by these names with nothing changed."""
    before = await schema(connection)
    kept = await connection.fetch("SELECT t::text FROM tasks t ORDER BY 1")
    with pytest.raises(SchemaMismatch) as caught:
        await migrate(dsn, meanings=meanings)
    said = str(caught.value)
    assert "\n" not in said
    assert "nothing was changed" in said
    for name in names:
        assert name in said
    # Only the list of migrations may be there, and it is empty.
    after = [row for row in await schema(connection) if row[1] != "organism_migrations"]
    assert after == before
    assert await connection.fetch("SELECT t::text FROM tasks t ORDER BY 1") == kept
    return said


UPPER = tuple(label.upper() for label in LOWER)
MIXED = ("Created", "queued", "RUNNING", " Completed", "Failed", "cancelled", "Retry")


@pytest.mark.parametrize("enum", ["taskstatus", "status_of_task", "legacy.taskstatus", '"TaskStatus"'])
@pytest.mark.parametrize("labels", [LOWER, UPPER, MIXED, ("QUEUED", "RUNNING"), ("completed",)])
async def test_statuses_of_any_enum_keep_their_meaning(
    dsn: str, connection: Any, enum: str, labels: tuple[str, ...]
) -> None:
    await connection.execute("CREATE SCHEMA legacy")
    await connection.execute(table(BASE, labels=labels, enum=enum) + rows(labels))
    await adopted(dsn, labels)


@pytest.mark.parametrize("kind", ["text", "varchar(20)", "char(12)"])
@pytest.mark.parametrize("labels", [UPPER, MIXED])
async def test_statuses_may_be_text(dsn: str, connection: Any, kind: str, labels: tuple[str, ...]) -> None:
    columns = BASE | {"status": f"{kind} NOT NULL DEFAULT 'CREATED'"}
    await connection.execute(table(columns, enum="unused") + rows(labels))
    await adopted(dsn, labels)


async def test_an_enum_that_others_use_keeps_its_labels_for_them(dsn: str, connection: Any) -> None:
    await connection.execute(table(BASE, labels=UPPER) + rows(UPPER))
    await connection.execute("CREATE TABLE jobs (status taskstatus); INSERT INTO jobs VALUES ('QUEUED')")
    await adopted(dsn, UPPER)
    assert await connection.fetchval("SELECT status::text FROM jobs") == "QUEUED"


async def test_unknown_statuses_are_named_and_counted_and_may_be_explained(dsn: str, connection: Any) -> None:
    labels = ("QUEUED", "DONE", "DONE", "it's new")
    await connection.execute(table(BASE | {"status": "text"}, enum="unused"))
    for n, label in enumerate(labels):
        await connection.execute(
            "INSERT INTO tasks (type, status, params, updated_at) VALUES ($1, $2, $3, $4)",
            *(
                f"t{n}",
                label,
                f'{{"n": {n}}}',
                await connection.fetchval(f"SELECT '2020-01-0{n + 1}'::timestamptz"),
            ),
        )
    said = await refused(dsn, connection, "'DONE' (2 tasks)", '"it\'s new" (1 task)')
    assert "organism migrate --status DONE=…" in said
    await refused(dsn, connection, '"it\'s new" (1 task)', meanings={"DONE": "completed"})
    await adopted(dsn, labels, {"DONE": "completed", "it's new": "created"})


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"id": "bigint PRIMARY KEY"}, ["column id is bigint, expected uuid", "ALTER COLUMN id TYPE uuid"]),
        ({"id": "text PRIMARY KEY"}, ["column id is text, expected uuid"]),
        ({"id": "uuid DEFAULT gen_random_uuid()"}, ["column id", "not unique", "CREATE UNIQUE INDEX"]),
        (
            {"tenant": "text NOT NULL"},
            ["column tenant", "NOT NULL without a default", 'ALTER COLUMN "tenant"'],
        ),
        ({"created_at": "timestamp"}, ["created_at is timestamp without", "USING created_at AT TIME ZONE"]),
        ({"attempts": "bigint"}, ["column attempts is bigint, expected integer"]),
        ({"priority": "text"}, ["column priority is text, expected integer"]),
        ({"result": None}, ["column result is missing", "ADD COLUMN result jsonb"]),
        ({"result": None, '"Result"': "jsonb"}, ['"Result"', 'RENAME COLUMN "Result" TO result']),
        (
            {"error": "text GENERATED ALWAYS AS ('x') STORED"},
            ["column error", "generated", "DROP EXPRESSION"],
        ),
    ],
)
async def test_what_is_of_another_shape_is_named(
    dsn: str, connection: Any, changes: dict[str, str | None], names: list[str]
) -> None:
    columns = {name: kind for name, kind in (BASE | changes).items() if kind is not None}
    await connection.execute(table(columns))
    await refused(dsn, connection, *names)


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("INSERT INTO tasks (type, status) VALUES (NULL, 'queued')", ["1 tasks", "no type"]),
        ("INSERT INTO tasks (type, status) VALUES ('t', NULL)", ["1 tasks", "no status"]),
        ("INSERT INTO tasks (type, status) VALUES (repeat('é', 600), 'queued')", ["1 tasks", "1000 bytes"]),
    ],
)
async def test_rows_that_no_lane_could_take_are_counted(
    dsn: str, connection: Any, row: str, names: list[str]
) -> None:
    await connection.execute(table(BASE | {"type": "text", "status": "taskstatus"}) + row)
    said = await refused(dsn, connection, *names)
    # The next step is one that helps.
    mend = re.search(r"UPDATE .*?(?=, and migrate)", said)
    assert mend is not None
    await connection.execute(mend[0])
    await migrate(dsn)


@pytest.mark.parametrize(
    ("attached", "name"),
    [
        ("CREATE VIEW waiting AS SELECT id FROM tasks WHERE status = 'QUEUED'", "view waiting"),
        ("CREATE INDEX by_status ON tasks (type) WHERE status = 'QUEUED'", "index by_status"),
        ("ALTER TABLE tasks ADD CONSTRAINT few CHECK (status <> 'RUNNING' OR attempts > 0)", "check few"),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
            "CREATE TRIGGER old AFTER UPDATE OF status ON tasks FOR EACH ROW EXECUTE FUNCTION f()",
            "trigger old",
        ),
        ("CREATE POLICY mine ON tasks USING (status <> 'FAILED')", "policy mine"),
    ],
)
async def test_what_keeps_a_status_from_being_converted_is_named_with_its_drop(
    dsn: str, connection: Any, attached: str, name: str
) -> None:
    labels = ("CREATED", "QUEUED", "RUNNING", "FAILED")
    await connection.execute(table(BASE, labels=labels) + rows(labels, attempts="1") + attached)
    said = await refused(dsn, connection, f"the {name} uses it")
    drop = re.search(r"→ (.*?), migrate", said)
    assert drop is not None
    await connection.execute(drop[1])
    await adopted(dsn, labels)


async def test_what_stays_is_listed_with_its_size_and_what_drops_it(
    dsn: str, connection: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await connection.execute(
        table(BASE)
        + rows(LOWER)
        + """
        CREATE INDEX "By Status" ON tasks (status, run_after);
        ALTER TABLE tasks ADD CONSTRAINT few CHECK (attempts < 100),
            ADD CONSTRAINT one UNIQUE (type, created_at);
        CREATE TABLE logs (task uuid REFERENCES tasks (id));
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN NEW.updated_at = now(); RETURN NEW; END';
        CREATE TRIGGER touch BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE VIEW waiting AS SELECT count(*) FROM tasks WHERE status = 'queued';
        CREATE VIEW everything AS SELECT count(*) FROM tasks;
        """
    )
    monkeypatch.setenv("ORGANISM_DSN", dsn)
    await migrate_command()
    # The old trigger did not write the time of the migration over that of the task.
    late = "SELECT count(*) FROM tasks WHERE updated_at > '2021-01-01' OR finished_at > '2021-01-01'"
    assert await connection.fetchval(late) == 0
    await connection.execute("UPDATE tasks SET attempts = 1 WHERE type = 't0'")
    assert await connection.fetchval(late) == 1
    said = capsys.readouterr().out
    kept = {(each.kind, each.name): each for each in await left_in_place(dsn)}
    assert set(kept) == {
        ("index", "By Status"),
        ("check", "few"),
        ("unique constraint", "one"),
        ("foreign key of another table", "logs.logs_task_fkey"),
        ("trigger", "touch"),
        ("view", "waiting"),
        ("view", "everything"),
    }
    index = kept["index", "By Status"]
    assert index.bytes == await connection.fetchval("SELECT pg_relation_size('\"By Status\"')") > 0
    assert "each insert, claim and settlement" in index.cost
    for each in kept.values():
        assert f"{each.kind} {each.name}" in said
        assert each.drop in said
        await connection.execute(each.drop)
    assert await left_in_place(dsn) == []
    assert asdict(index)["drop"] == 'DROP INDEX CONCURRENTLY "By Status"'


async def test_what_the_migrations_attach_themselves_is_not_listed(databases: Any) -> None:
    assert await left_in_place(await databases.create()) == []


async def test_the_columns_are_those_of_a_new_table(databases: Any) -> None:
    connection = await asyncpg.connect(await databases.create())
    found = await connection.fetch(
        "SELECT attname, format_type(atttypid, NULL), attnotnull, atthasdef FROM pg_attribute "
        "WHERE attrelid = 'tasks'::regclass AND attnum > 0"
    )
    await connection.close()
    assert {name: kind for name, kind, *_ in found} == {name: kind for name, (kind, _) in COLUMNS.items()}
    assert {name for name, *_, filled in found if filled} == {
        name for name, (_, default) in COLUMNS.items() if default
    }


async def test_a_migration_that_postgres_ends_is_one_line(dsn: str, connection: Any) -> None:
    await connection.execute(
        table(BASE | {"params": "json"})
        + "INSERT INTO tasks (type, status, params) VALUES ('t', 'queued', '\"\\u0000\"')"
    )
    before = await schema(connection)
    with pytest.raises(SchemaMismatch, match=r"u0000.* → mend what it names, and migrate again"):
        await migrate(dsn)
    assert [row for row in await schema(connection) if row[1] != "organism_migrations"] == before
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(
        f"""
        UPDATE tasks SET params = '{{}}';
        CREATE FUNCTION indexed(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
            IF current_setting('application_name') = 'no space' THEN
                RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full';
            END IF;
            RETURN $1;
        END $$;
        CREATE INDEX ON tasks (indexed(type));
        ALTER DATABASE {name} SET application_name = 'no space';
        """
    )
    before = await schema(connection)
    with pytest.raises(QueueUnavailable, match=r"no space left on device.* → free disk space"):
        await migrate(dsn)
    assert [row for row in await schema(connection) if row[1] != "organism_migrations"] == before
    await connection.execute(f"ALTER DATABASE {name} RESET ALL")
    await migrate(dsn)


CHOICES: dict[str, list[str | None]] = {
    "id": [BASE["id"], BASE["id"], "uuid UNIQUE DEFAULT gen_random_uuid()", "bigserial PRIMARY KEY", "text"],
    "type": ["text NOT NULL", "varchar(200)", "varchar", "char(2)"],
    "status": ["taskstatus", "text", "varchar(20) DEFAULT 'QUEUED'", "legacy.state DEFAULT 'queued'"],
    "params": ["jsonb", "json NOT NULL DEFAULT '{}'", "jsonb NOT NULL", "text"],
    "attempts": ["integer", "smallint NOT NULL DEFAULT 0", "integer NOT NULL DEFAULT 3", "bigint"],
    "result": ["jsonb", "json", "jsonb NOT NULL DEFAULT '{}'", None],
    "error": ["text", "varchar(50)", "text NOT NULL DEFAULT ''", None],
    "updated_at": [BASE["updated_at"], "timestamptz NOT NULL DEFAULT now()", "timestamptz", "timestamp"],
    "domain": [None, None, "varchar(10)", "text NOT NULL DEFAULT 'd'"],
    "drift_score": [None, "real", "double precision NOT NULL DEFAULT 0", "numeric"],
    "priority": [None, "smallint", "integer NOT NULL DEFAULT 7"],
    "owner": [None, "text", "text NOT NULL DEFAULT 'me'", "text NOT NULL"],
    '"Owner"': [None, None, "text"],
}


async def test_any_older_table_is_adopted_or_refused_by_name(databases: Any) -> None:
    labels = ("queued", "RUNNING", "Completed", "failed")
    said = []
    for seed in range(12):
        chance = random.Random(seed)
        # Mostly the first choices, or nearly every table would be refused for something.
        chosen = {
            name: kinds[0] if chance.random() < 0.6 else chance.choice(kinds)
            for name, kinds in CHOICES.items()
        }
        columns = {name: kind for name, kind in (BASE | chosen).items() if kind is not None}
        dsn = await databases.create(migrated=False)
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(
                "CREATE SCHEMA legacy; "
                "CREATE TYPE legacy.state AS ENUM ('queued', 'RUNNING', 'Completed', 'failed')"
            )
            more = {"owner": "'me'"} if "owner" in columns else {}
            more |= {} if "id" in columns and columns["id"] != "text" else {"id": "gen_random_uuid()"}
            await connection.execute(table(columns, labels=labels) + rows(labels, **more))
            refusal = await outcome(dsn, connection, labels)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {columns}") from error
        finally:
            await connection.close()
        if refusal:
            assert any(re.search(rf"\b{name}\b", refusal) for name in CHOICES if name.isidentifier()), refusal
        said.append(refusal)
    assert 1 < said.count("") < 11, said


async def outcome(dsn: str, connection: Any, labels: tuple[str, ...]) -> str:
    """Return why a table was refused, and nothing if it was adopted."""
    before = await schema(connection)
    try:
        await adopted(dsn, labels)
    except SchemaMismatch as error:
        refusal = error
    else:
        return ""
    assert refusal.next_step.endswith("nothing was changed")
    assert [row for row in await schema(connection) if row[1] != "organism_migrations"] == before
    return refusal.what
