"""submit, tasks and migrate on a real Postgres, through the command line."""

from __future__ import annotations

import asyncio
import csv
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow
import pytest
from pyarrow import parquet

from organism_flows.blocks.queue import Queue
from organism_flows.blocks.task_report import Chunks, TaskReport
from organism_flows.deployments.cli import main as cli
from tests.support.queue.helpers import claim, outcomes_of

ROOT = Path(__file__).parents[3]


@pytest.fixture
def organism(databases: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command on a fresh database; returns exit code, parsed standard output and standard error."""
    monkeypatch.setenv("ORGANISM_DSN", asyncio.run(databases.create()))

    def run(*arguments: str) -> tuple[int, Any, str]:
        code = cli.run([*arguments, "--json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out), captured.err

    return run


def count(organism: Any) -> int:
    return sum(organism("tasks", "list")[1]["counts"].values())


def test_submit_list_show(organism: Any) -> None:
    code, submitted, _ = organism("submit", "echo", "--params", '{"n": 1}', "--domain", "d", "--timeout", "5")
    assert code == 0
    [task_id] = submitted["ids"]
    code, listed, _ = organism("tasks", "list", "--status", "queued", "--domain", "d")
    assert [task["id"] for task in listed["tasks"]] == [task_id]
    code, shown, _ = organism("tasks", "show", task_id[:12])
    assert code == 0
    assert (shown["params"], shown["timeout_s"], shown["status"]) == ({"n": 1}, 5.0, "queued")


def test_stream(organism: Any, capsys: pytest.CaptureFixture[str]) -> None:
    [task_id] = organism("submit", "echo")[1]["ids"]

    async def run_it(cause: Any) -> None:
        async with Queue(os.environ["ORGANISM_DSN"]) as queue:
            batch = await claim(queue)
            chunks = Chunks(['"some "', '"words"', '{"n": 1}'], last=3)
            await queue.reports.record(batch, [TaskReport(chunks=chunks)])
            await queue.claims.settle("lane", batch, outcomes_of(batch, cause, result="1", error="x"))

    asyncio.run(run_it("completed"))
    assert cli.run(["tasks", "stream", task_id[:14]]) == 0
    assert capsys.readouterr() == ('some \nwords\n{"n": 1}\n', "attempt 1 begins\n")
    assert cli.run(["tasks", "stream", task_id, "--joined"]) == 0
    assert capsys.readouterr().out == 'some words{"n": 1}\n'
    assert cli.run(["tasks", "stream", task_id, "--json"]) == 0
    begin, first, *_, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert begin == {"claim": begin["claim"], "attempt": 1}
    assert first == {"claim": begin["claim"], "number": 1, "chunk": "some "}
    assert (last["id"], last["status"]) == (task_id, "completed")
    assert organism("tasks", "show", task_id)[1]["chunks"] == 3
    [other] = organism("submit", "echo")[1]["ids"]
    asyncio.run(run_it("rejected"))
    assert cli.run(["tasks", "stream", other]) == 1
    assert f"failed: see `organism tasks why {other}`" in capsys.readouterr().err


def test_cancel(organism: Any) -> None:
    [first] = organism("submit", "echo")[1]["ids"]
    [second] = organism("submit", "echo")[1]["ids"]
    code, done, _ = organism("tasks", "cancel", first)
    assert (code, done["cancelled"]) == (0, [first])
    code, done, _ = organism("tasks", "cancel", first, second)
    assert (code, done["cancelled"], done["unchanged"]) == (1, [second], [first])
    assert organism("tasks", "list")[1]["counts"]["cancelled"] == 2


def test_signal(organism: Any) -> None:
    [task_id] = organism("submit", "echo")[1]["ids"]
    code, done, _ = organism("tasks", "signal", task_id[:14], "approval", '{"choice": "approve"}')
    assert (code, done) == (0, {"id": task_id, "event": "approval", "outcome": "kept"})
    assert organism("tasks", "signal", task_id, "approval")[1]["outcome"] == "duplicate"
    assert organism("tasks", "list", "--status", "waiting")[1]["tasks"] == []


def test_wait(organism: Any, capsys: pytest.CaptureFixture[str]) -> None:
    [done] = organism("submit", "echo")[1]["ids"]
    [failed] = organism("submit", "echo")[1]["ids"]
    [left] = organism("submit", "echo", "--priority", "-1")[1]["ids"]

    async def end(**outcome: Any) -> None:
        async with Queue(os.environ["ORGANISM_DSN"]) as queue:
            batch = await claim(queue, limit=1)
            await queue.claims.settle("lane", batch, outcomes_of(batch, **outcome))

    process = subprocess.Popen(
        [sys.executable, "-m", "organism_flows.deployments.cli.main", "tasks", "wait", done[:14], failed],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    asyncio.run(end(cause="completed", result='{"n": 100000000000000000000}'))
    assert process.stdout.readline() == f'{done}  completed  {{"n": 100000000000000000000}}\n'
    asyncio.run(end(cause="rejected", error="ValueError: no\n  more"))
    assert process.communicate(timeout=60)[0] == f"{failed}  failed     ValueError: no more\n"
    assert process.returncode == 1

    assert cli.run(["tasks", "wait", done, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"] == {"n": 10**20}
    assert cli.run(["tasks", "wait", left, done, "--timeout", "0.1"]) == 1
    assert capsys.readouterr().out.endswith(
        f"{left}  queued     has not ended: see `organism tasks why {left}`\n"
    )
    code, answer, _ = organism("tasks", "wait")
    assert (code, "no task was named" in answer["error"]) == (1, True)


def test_run_and_retry(organism: Any) -> None:
    [task_id] = organism("submit", "echo")[1]["ids"]
    code, done, _ = organism("tasks", "retry", task_id)
    assert (code, done["unchanged"]) == (1, [task_id])
    organism("tasks", "cancel", task_id)
    code, done, _ = organism("tasks", "retry", task_id[:14])
    assert (code, done["queued"]) == (0, [task_id])
    code, done, _ = organism("tasks", "run", task_id)
    assert (code, done["unchanged"]) == (1, [task_id])
    assert organism("tasks", "list")[1]["counts"]["queued"] == 1


def test_why(organism: Any, capsys: pytest.CaptureFixture[str]) -> None:
    [task_id] = organism("submit", "echo")[1]["ids"]
    organism("tasks", "pause", "--type", "echo", "--reason", "a bad release")
    code, why, _ = organism("tasks", "why", task_id[:14])
    assert (code, why["id"], why["reason"]) == (0, task_id, "paused")
    assert cli.run(["tasks", "why", task_id]) == 0
    sentence, next_step = capsys.readouterr().out.splitlines()
    assert sentence == why["sentence"]
    assert "(a bad release); and waits for a lane" in sentence
    assert next_step.startswith("→ resume it: `organism tasks resume --type echo`")
    code, answer, _ = organism("tasks", "why", "ffff")
    assert (code, "no task has the id" in answer["error"]) == (1, True)


def test_pause_and_resume(organism: Any) -> None:
    assert organism("tasks", "pause", "--type", "echo", "--reason", "a bad release")[0] == 0
    assert organism("tasks", "pause", "--domain", "d")[0] == 0
    _, listed, _ = organism("tasks", "pause")
    assert {(p["kind"], p["name"], p["reason"]) for p in listed["pauses"]} == {
        ("type", "echo", "a bad release"),
        ("domain", "d", None),
    }
    assert organism("tasks", "resume", "--type", "echo")[0] == 0
    code, answer, _ = organism("tasks", "resume", "--type", "echo")
    assert code == 1
    assert "type echo is not paused" in str(answer)


def test_limits(organism: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, done, _ = organism(
        "limits", "set", "customers", "--type", "echo", "--running", "3", "--by-key", "--key", "a=b=0"
    )
    assert (code, done["limit"]["exceptions"]) == (0, {"a=b": 0})
    assert organism("limits", "set", "api", "--rate", "500/60")[0] == 0
    _, listed, _ = organism("limits")
    assert [(limit["name"], limit["kind"]) for limit in listed["limits"]] == [
        ("api", "rate"),
        ("customers", "running"),
    ]
    assert cli.run(["limits", "list"]) == 0
    said = capsys.readouterr().out
    assert "customers: 3 at once for each key, of echo" in said
    assert "api: 500 in 60.0 s, of every type" in said
    [task_id] = organism("submit", "echo", "--key", "a=b")[1]["ids"]
    assert "limit customers allows none for key a=b" in organism("tasks", "why", task_id)[1]["sentence"]
    closed = ["--until", "2100-01-01T00:00", "--reason", "they mend it"]
    assert organism("limits", "close", "api", *closed)[0] == 0
    assert "limit api is closed until 2100" in organism("tasks", "why", task_id)[1]["sentence"]
    assert organism("limits", "close", "--type", "echo", "--key", "a=b", "--seconds", "60")[0] == 0
    assert organism("limits", "weight", "acme", "3")[0] == 0
    _, listed, _ = organism("limits")
    assert [closure["kind"] for closure in listed["closures"]] == ["limit", "type"]
    assert listed["weights"] == {"acme": 3}
    assert organism("limits", "open", "--type", "echo", "--key", "a=b")[0] == 0
    assert organism("limits", "open", "api")[1]["opened"]["name"] == "api"
    for wrong, words in (
        (["open", "api"], "limit api is not closed"),
        (["close", "api"], "give one of --until and --seconds"),
        (["close", "none", "--seconds", "9"], "there is no limit none"),
        (["close", "--seconds", "9"], "name either a limit or a type"),
        (["close", "api", "--key", "a", "--seconds", "9"], "there is no limit api by key"),
        (["close", "api", "--seconds", "1e300"], "too far ahead"),
        (["weight", "acme", "0"], "greater than or equal to 1"),
        (["set", "x"], "give one of --running N, --rate"),
        (["set", "x", "--rate", "many/60"], "--rate many/60 is no number"),
        (["set", "x", "--rate", "5"], "is no number"),
        (["set", "x", "--running", "-1"], "greater than or equal to 0"),
        (["set", "x", "--running", "1", "--key", "a=1"], "by_key"),
        (["remove", "nothing"], "there is no limit nothing"),
    ):
        code, answer, _ = organism("limits", *wrong)
        assert (code, words in str(answer)) == (1, True), answer
    assert organism("limits", "remove", "api")[0] == 0


def test_policy_of_a_type(organism: Any) -> None:
    code, shown, _ = organism("tasks", "policy", "echo", "--max-attempts", "2", "--backoff-base", "0.5")
    assert (code, shown["policies"][0]["max_attempts"]) == (0, 2)
    [task_id] = organism("submit", "echo")[1]["ids"]
    shown = organism("tasks", "show", task_id)[1]
    assert (shown["max_attempts"], shown["interrupted"], shown["begun_at"]) == (2, 0, None)
    code, shown, _ = organism("tasks", "policy", "echo", "--max-interruptions", "3")
    assert (code, shown["policies"][0]["max_interruptions"], shown["policies"][0]["max_attempts"]) == (
        0,
        3,
        None,
    )
    assert organism("tasks", "policy")[1] == shown
    order = ("--aging", "60", "--affinity", "20", "--affinity-keys", "6", "--earliest-deadline")
    code, shown, _ = organism("tasks", "policy", "echo", *order, "--timeout-by-deadline")
    [policy] = shown["policies"]
    assert (code, policy["aging_s"], policy["affinity_s"], policy["affinity_keys"]) == (0, 60, 20, 6)
    assert policy["earliest_deadline"] is policy["timeout_by_deadline"] is True
    code, answer, _ = organism("tasks", "policy", "echo", "--affinity-keys", "6")
    assert (code, "affinity_keys needs affinity_s" in str(answer)) == (1, True), answer


def test_a_dedup_key_is_added_once(organism: Any) -> None:
    [first] = organism("submit", "echo", "--dedup-key", "k")[1]["ids"]
    [second] = organism("submit", "echo", "--dedup-key", "k")[1]["ids"]
    assert first == second
    assert count(organism) == 1


def test_submit_a_file(organism: Any, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"type": "a"}\n\n{"type": "b", "params": {"x": "é"}, "priority": 3}\n')
    code, submitted, _ = organism("submit", "--file", str(file))
    assert (code, submitted["submitted"]) == (0, 2)
    assert count(organism) == 2


def test_a_bad_file_is_refused_whole_and_by_line(organism: Any, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    lines = [
        b'{"type": "fine"}',
        b'{"type": "a", "params": {',
        b'{"params": {}}',
        b'{"type": "a", "params": []}',
        b'"text"',
        b'{"type": "a", "parms": {}}',
        b'{"type": "\xff"}',
    ]
    file.write_bytes(b"\n".join(lines))
    code, answer, _ = organism("submit", "--file", str(file))
    assert code == 1
    error = answer["error"]
    assert "6 of 7 lines are bad, nothing was submitted" in error
    assert "line 2: not JSON" in error
    assert "line 3: type" in error
    assert "line 4: params" in error
    assert "(and 1 more)" in error
    assert "\n" not in error
    assert count(organism) == 0


def test_a_csv_file_is_submitted_like_any_other(organism: Any, tmp_path: Path) -> None:
    file = tmp_path / "tasks.csv"
    file.write_text("type,params.city\na,Rome\nb,Paris\n")
    code, submitted, _ = organism("submit", "--file", str(file))
    assert (code, submitted["submitted"], len(submitted["ids"])) == (0, 2, 2)
    assert organism("tasks", "show", submitted["ids"][0])[1]["params"] == {"city": "Rome"}


def test_parquet_files_are_submitted_once_and_a_bad_row_is_named(organism: Any, tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"type": ["a", "b"], "params.n": [1, 2]}), tmp_path / "a.parquet")
    for added, earlier in ((2, 0), (0, 2)):
        code, answer, _ = organism("submit", "--file", f"{tmp_path}/*.parquet", "--once")
        assert (code, answer["submitted"], answer["earlier"]) == (0, added, earlier)
    bad = tmp_path / "bad.parquet"
    parquet.write_table(pyarrow.table({"type": ["a", None]}), bad)
    for once, place in (([], "row 2: type"), (["--once"], "bad.parquet row 2: type")):
        code, answer, _ = organism("submit", "--file", str(bad), *once)
        assert code == 1
        assert place in answer["error"]
    assert count(organism) == 2


def test_a_file_with_columns_of_its_own_is_tasks_of_one_type(organism: Any, tmp_path: Path) -> None:
    file = tmp_path / "raw.parquet"
    parquet.write_table(pyarrow.table({"id": [1, 2], "text": ["one", "two"], "rank": [5, 6]}), file)
    options = (
        "--map",
        "rank=priority",
        "--map",
        "text=params.input",
        "--params",
        '{"m": 1}',
        "--domain",
        "d",
    )
    for once in ((), ("--once",)):
        code, answer, _ = organism("submit", "embed", "--file", str(file), *options, *once)
        assert (code, answer["submitted"]) == (0, 2)
    tasks = organism("tasks", "list", "--type", "embed", "--domain", "d")[1]["tasks"]
    shown = [organism("tasks", "show", task["id"])[1] for task in tasks[:2]]
    assert sorted((task["params"]["id"], task["params"]["input"], task["priority"]) for task in shown) == [
        (1, "one", 5),
        (2, "two", 6),
    ]
    assert all(task["params"]["m"] == 1 for task in shown)
    code, answer, _ = organism("submit", "embed", "--file", str(file), "--map", "txet=params.input")
    assert (code, "no column 'txet'" in answer["error"]) == (1, True)
    code, answer, _ = organism("submit", "--file", str(file))
    assert (code, "organism submit TYPE --file" in answer["next_step"]) == (1, True)


def test_a_list_counts_what_fits(organism: Any) -> None:
    for kind in ("a", "a", "b"):
        organism("submit", kind)
    code, listed, _ = organism("tasks", "list", "--type", "a", "--status", "queued", "--status", "failed")
    assert (code, len(listed["tasks"]), listed["counts"]["queued"]) == (0, 2, 2)
    assert organism("tasks", "list", "--until", "2020-01-01")[1]["tasks"] == []


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_tasks_are_exported_to_a_file(organism: Any, tmp_path: Path, format: str) -> None:
    ids = [organism("submit", kind, "--params", '{"n": 1}')[1]["ids"][0] for kind in ("a", "b", "a")]
    file = tmp_path / f"out.{format}"
    code, done, _ = organism("tasks", "export", "--type", "a", "--output", str(file))
    assert (code, done) == (0, {"exported": 2, "format": format, "output": str(file)})
    if format == "parquet":
        rows = parquet.read_table(file).to_pylist()
    elif format == "csv":
        rows = [*csv.DictReader(io.StringIO(file.read_text()))]
    else:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["id"] for row in rows] == [ids[2], ids[0]]
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_what_is_not_whole_never_has_the_name(
    organism: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.csv"
    file.write_text("before")
    organism("submit", "a")
    code, answer, _ = organism("tasks", "export", "--format", "csv", "--output", "/dev/full")
    assert (code, "no space left" in answer["error"]) == (1, True)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("organism_flows.blocks.queue.files.writers.CsvWriter.write", full)
    code, answer, _ = organism("tasks", "export", "--output", str(file))
    assert (code, "no space left" in answer["error"]) == (1, True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_tasks_are_exported_to_a_pipe_that_may_break(organism: Any, format: str) -> None:
    organism("submit", "a", "--params", json.dumps({"text": "".join(chr(0x4E00 + n) for n in range(20_000))}))
    organism("submit", "a", "--params", json.dumps({"text": "".join(chr(0x4E00 + n) for n in range(20_000))}))
    command = [sys.executable, "-m", "organism_flows.deployments.cli.main", "tasks", "export"]
    command += ["--format", format]
    done = subprocess.run(command, capture_output=True, timeout=120, cwd=ROOT, check=True)
    if format == "parquet":
        assert parquet.read_table(io.BytesIO(done.stdout)).num_rows == 2
    else:
        assert done.stdout.count(b"\n") == 2
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        error = process.stderr.read().decode()
    assert process.returncode == 1
    assert error.startswith("error: the reader of the output left after")
    assert error.count("\n") == 1


def test_standard_input_is_submitted(organism: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"type": "a"}\n{"type": "b"}')))
    code, submitted, _ = organism("submit", "--file", "-")
    assert (code, submitted["submitted"]) == (0, 2)


def test_a_file_is_submitted_each_time_or_once(organism: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"type": "a"}\n{"type": "a"}\n')
    for _ in range(2):
        assert organism("submit", "--file", str(file))[1]["submitted"] == 2
    code, first, _ = organism("submit", "--file", f"{tmp_path}/*.jsonl", "--once")
    assert (code, first["submitted"], first["earlier"], first["files"]) == (0, 2, 0, [str(file)])
    code, second, _ = organism("submit", "--file", f"{tmp_path}/*.jsonl", "--once")
    assert (code, second["submitted"], second["earlier"]) == (0, 0, 2)
    assert count(organism) == 6
    file.write_text('{"type": "a"}\n{"typ": "a"}\n')
    assert organism("submit", "--file", str(file), "--once")[0] == 1
    assert count(organism) == 6


def test_redrive_shows_first_and_then_does(organism: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [organism("submit", kind)[1]["ids"][0] for kind in ("a", "a", "b")]
    organism("tasks", "cancel", *ids)
    assert organism("redrive")[1]["would_redrive"] == 0, "a cancelled task is no dead letter"
    code, shown, _ = organism("redrive", "--cancelled", "--type", "a")
    assert (code, shown["would_redrive"]) == (0, 2)
    assert [line["id"] for line in shown["sample"]] == ids[:2]
    assert cli.run(["redrive", "--cancelled", "--limit", "1"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].startswith(ids[0])
    assert "1 tasks would be redriven; add --yes" in text
    assert organism("tasks", "list")[1]["counts"]["cancelled"] == 3
    code, done, _ = organism("redrive", "--cancelled", "--since", "2020-01-01", "--limit", "2", "--yes")
    assert (code, done["redriven"], done["kept_out"]) == (0, 2, 0)
    assert done["audit"]
    counts = organism("tasks", "list")[1]["counts"]
    assert (counts["queued"], counts["cancelled"]) == (2, 1)
    assert organism("redrive", "--cancelled", "--until", "2020-01-01", "--yes")[1]["redriven"] == 0
    assert organism("tasks", "show", ids[0])[1]["history"][0]["cause"] == "redriven"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["submit", "a", "--once"], "--once needs a file"),
        (["submit", "--file", "-", "--once"], "--once needs a file"),
        (["submit", "--file", "/no/*.jsonl", "--once"], "no file fits /no/*.jsonl"),
        (["submit", "--file", "/dev/null/x.parquet"], "cannot read"),
        (["redrive", "--error", "x\\"], "error: ends with a backslash"),
        (["redrive", "--limit", "0"], "--limit 0"),
        (["redrive", "--type", "x" * 201], "at most 200"),
        (["submit"], "name a task type, or a file"),
        (["submit", "a", "--file", "/does/not/exist"], "cannot read /does/not/exist"),
        (["submit", "a", "--map", "x=params.y"], "--map needs a file"),
        (["submit", "a", "--file", "x", "--map", "text"], "'text' maps no column"),
        (["submit", "a", "--file", "x", "--map", "text=colour"], "'colour', which no task has"),
        (["submit", "a", "--file", "x", "--dedup-key", "k"], "--dedup-key is of one task"),
        (["submit", "a", "--file", "x", "--max-attempts", "0"], "max_attempts:"),
        (["tasks", "export", "--status", "lost", "--output", "x"], "there is no status 'lost'"),
        (["tasks", "export", "--since", "yesterday", "--output", "x"], "--since: "),
        (
            ["tasks", "export", "--output", "/does/not/exist/x"],
            "cannot write /does/not/exist/x: No such file",
        ),
        (["tasks", "export", "--output", "x.jsonl.gz"], "x.jsonl.gz would not be compressed"),
        (["tasks", "export"], "--json is about a file"),
        (["tasks", "list", "--error", ""], "--error: "),
        (["submit", "--file", "/does/not/exist"], "cannot read /does/not/exist: No such file"),
        (["submit", "--file", "/"], "cannot read /"),
        (["submit", "--file", "/dev/null"], "holds no task"),
        (["submit", "a", "--params", "{"], "--params: not JSON"),
        (["submit", "a", "--params", "[]"], "params: Input should be a valid dictionary"),
        (["submit", "a", "--params", '{"x": "\\u0000"}'], "NUL"),
        (["tasks", "signal", "0", "approval", "{"], "the payload is not JSON"),
        (["submit", " "], "type:"),
        (["submit", "a", "--max-attempts", "0"], "max_attempts:"),
        (["submit", "a", "--timeout", "nan"], "timeout_s:"),
        (["tasks", "list", "--status", "lost"], "there is no status 'lost'"),
        (["tasks", "list", "--limit", "0"], "--limit 0"),
        (["tasks", "show", "xyz"], "not a task id"),
        (["tasks", "show", "abc"], "no task has the id abc"),
        (["tasks", "cancel"], "no task was named"),
        (["tasks", "cancel", "abc"], "no task has the id abc"),
        (["tasks", "resume"], "either a type or a domain"),
        (["tasks", "resume", "--type", "a", "--domain", "b"], "either a type or a domain"),
        (["tasks", "policy", "a", "--max-attempts", "0"], "max_attempts"),
        (["tasks", "policy", "a", "--max-interruptions", "0"], "max_interruptions"),
    ],
)
def test_bad_input_is_one_line_that_says_what(organism: Any, arguments: list[str], error: str) -> None:
    code, answer, _ = organism(*arguments)
    assert code == 1
    assert error in answer["error"]
    assert answer["next_step"]
    assert "\n" not in answer["error"] + answer["next_step"]


def test_a_foreign_table_is_named_and_left_alone(
    databases: Any, monkeypatch: pytest.MonkeyPatch, organism: Any
) -> None:
    dsn = asyncio.run(databases.create(migrated=False))

    async def execute(sql: str) -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    asyncio.run(execute("CREATE TABLE tasks (id serial, title text)"))
    monkeypatch.setenv("ORGANISM_DSN", dsn)
    code, answer, _ = organism("migrate")
    assert code == 1
    assert "column id is integer, expected uuid" in answer["error"]
    code, answer, _ = organism("submit", "a")
    assert code == 1
    assert "organism migrate" in answer["next_step"]
    assert asyncio.run(execute("SELECT count(*) FROM tasks")) == 0


@pytest.mark.parametrize("command", [["submit", "a"], ["tasks", "list"], ["migrate"]])
@pytest.mark.parametrize(
    ("dsn", "error"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/db", "cannot reach Postgres at 127.0.0.1:1/db"),
        ("mysql://me:hunter2@127.0.0.1/db", "cannot reach Postgres"),
        ("nonsense", "cannot reach Postgres"),
    ],
)
def test_a_wrong_database_is_one_line_without_its_password(
    organism: Any, monkeypatch: pytest.MonkeyPatch, command: list[str], dsn: str, error: str
) -> None:
    monkeypatch.setenv("ORGANISM_DSN", dsn)
    code, answer, err = organism(*command)
    assert code == 1
    assert error in answer["error"]
    assert "ORGANISM_DSN" in answer["next_step"]
    assert "hunter2" not in json.dumps(answer) + err


def test_no_database_at_all_says_what_to_start(organism: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORGANISM_DSN")
    code, answer, _ = organism("tasks", "list")
    assert code == 1
    assert "organism up" in answer["next_step"]
