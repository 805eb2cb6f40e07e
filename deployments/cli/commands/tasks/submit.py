"""`organism submit`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.deployments.cli.output import AsJson, show
from organism_flows.deployments.cli.own_queue import open_queue

if TYPE_CHECKING:
    from organism_flows.blocks.queue import NewTask
    from organism_flows.blocks.queue.files.columns import Columns


async def submit(
    type: Annotated[
        str | None,
        Parameter(help="Task type; with --file, that of its tasks, and its columns are their params."),
    ] = None,
    *,
    params: Annotated[str, Parameter(help="Parameters, a JSON object.")] = "{}",
    file: Annotated[
        str | None,
        Parameter(
            help="JSON lines (a task {type, params, ...} each), CSV or Parquet, .gz or .zst too; "
            "- for standard input.",
            allow_leading_hyphen=True,
        ),
    ] = None,
    once: Annotated[
        bool, Parameter(negative="", help="Load only the lines that have not been loaded yet.")
    ] = False,
    map: Annotated[
        tuple[str, ...],
        Parameter(
            negative="",
            help="COLUMN=FIELD: a column of --file is that field, or params.NAME; COLUMN= leaves it out.",
        ),
    ] = (),
    domain: str | None = None,
    key: Annotated[
        str | None, Parameter(help="Customer, account, model: tasks with different keys take turns.")
    ] = None,
    description: str | None = None,
    priority: Annotated[int, Parameter(help="Higher runs first.")] = 0,
    max_attempts: Annotated[
        int | None, Parameter(help="Attempts before it is a dead letter; unset: as its type has it, else 5.")
    ] = None,
    dedup_key: Annotated[
        str | None, Parameter(help="Not added while an unfinished task of its type has the same key.")
    ] = None,
    timeout: Annotated[float | None, Parameter(help="Seconds an attempt may take.")] = None,
    expires_in: Annotated[
        float | None, Parameter(help="Seconds after which no attempt begins; it is a dead letter then.")
    ] = None,
    cost: Annotated[float | None, Parameter(help="Estimate of what it spends, for limits on cost.")] = None,
    as_json: AsJson = False,
) -> None:
    """Add a task, or a file of tasks, to the table.

    If one line of a file is bad, no line is added, and the bad ones are named by their numbers. With --once a
    file is loaded in parts: after a stop, run it again to go on. The other options apply to each task of a
    file that does not set them itself.
    """
    if type is None and file is None:
        raise ConfigurationError("name a task type, or a file with --file", "see `organism submit --help`")
    if once and (file is None or file == "-"):
        raise ConfigurationError("--once needs a file to remember", "name it with --file")
    if map and file is None:
        raise ConfigurationError("--map needs a file that has the columns", "name it with --file")
    if dedup_key and file is not None:
        raise ConfigurationError(
            "--dedup-key is of one task", "map a column of the file: --map column=dedup_key"
        )
    given = {
        "domain": domain,
        "key": key,
        "description": description,
        "priority": priority,
        "max_attempts": max_attempts,
        "dedup_key": dedup_key,
        "timeout_s": timeout,
        "expires_in_s": expires_in,
        "cost": cost,
    }
    fields = {"params": _json(params, "--params")} | {name: v for name, v in given.items() if v is not None}
    if file is None:
        tasks = [_task({"type": type, **fields})]
    else:
        from organism_flows.blocks.queue.files.columns import Columns

        # Check the options before the lines are read: otherwise every line would be bad.
        _task({"type": "any" if type is None else type, **fields})
        columns = Columns.of(type, map, fields)
        if once:
            await _load(file, columns, as_json)
            return
        tasks = read_tasks(file, columns)
    async with open_queue() as queue:
        ids = [str(task_id) for task_id in await queue.submit(tasks)]
    text = ids[0] if file is None else f"{len(ids)} tasks submitted"
    show({"submitted": len(ids), "ids": ids}, as_json, text)


def read_tasks(file: str, columns: Columns) -> list[NewTask]:
    """Return the tasks of a file, or of standard input for ``-``. Empty lines are skipped.

    Raises:
        ConfigurationError: The file cannot be read, holds no task, or has bad lines. The message names the
            first bad lines by number.
    """
    from organism_flows.blocks.queue import NewTask
    from organism_flows.blocks.queue.files.reader import FileCheck, TaskFileReader, open_file

    tasks, checked = [], FileCheck()
    with nullcontext(sys.stdin.buffer) if file == "-" else open_file(Path(file)) as source:
        for found in TaskFileReader(source, file, columns=columns):
            checked.count(found)
            if isinstance(found, NewTask):
                tasks.append(found)
    checked.refuse_bad(file, (f"{bad.place}: {bad.why}" for bad in checked.first_bad))
    if not tasks:
        raise ConfigurationError(f"{file} holds no task", 'write one a line: {"type": "echo", "params": {}}')
    return tasks


async def _load(pattern: str, columns: Columns, as_json: bool) -> None:
    from organism_flows.blocks.queue.files.reader import matching

    paths = matching(pattern)
    async with open_queue() as queue:
        done = await queue.producer.load_files(paths, columns=columns)
    text = f"{done.added} tasks submitted"
    if done.earlier:
        text += f", {done.earlier} had been before"
    if done.duplicates:
        text += f", {done.duplicates} are there under their dedup key or id"
    result = {
        "submitted": done.added,
        "earlier": done.earlier,
        "duplicates": done.duplicates,
        "files": [str(path) for path in paths],
    }
    show(result, as_json, text)


def _task(fields: Any) -> NewTask:
    from organism_flows.blocks.queue.files.columns import task_of

    try:
        return task_of(fields)
    except ValueError as error:
        raise ConfigurationError(str(error), "correct it and submit again") from None


def _json(text: str, place: str) -> Any:
    from organism_flows.blocks.queue.files.columns import parse

    try:
        return parse(text, f"{place}: not JSON")
    except ValueError as error:
        raise ConfigurationError(str(error), 'write an object such as {"n": 1}') from None
