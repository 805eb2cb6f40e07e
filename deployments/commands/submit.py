"""`organism submit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from blocks.errors import ConfigurationError
from deployments.output import AsJson, show

if TYPE_CHECKING:
    from blocks.queue import NewTask

BAD_LINES_SHOWN = 5


async def submit(
    type: Annotated[str | None, Parameter(help="Task type; leave it out with --file.")] = None,
    *,
    params: Annotated[str, Parameter(help="Parameters, a JSON object.")] = "{}",
    file: Annotated[
        str | None,
        Parameter(help="JSON lines, a task {type, params, ...} each; - for standard input."),
    ] = None,
    domain: str | None = None,
    description: str | None = None,
    priority: Annotated[int, Parameter(help="Higher runs first.")] = 0,
    max_attempts: Annotated[
        int | None, Parameter(help="Attempts before it is a dead letter; unset: as its type has it, else 5.")
    ] = None,
    dedup_key: Annotated[
        str | None, Parameter(help="Not added while an unfinished task of its type has the same key.")
    ] = None,
    timeout: Annotated[float | None, Parameter(help="Seconds an attempt may take.")] = None,
    as_json: AsJson = False,
) -> None:
    """Add a task, or a file of them, to the table.

    Of a file either every line is added or, when one is bad, none: the bad ones are named by their numbers.
    """
    from blocks.queue import Queue
    from blocks.settings import load_settings
    from blocks.stack import queue_dsn

    if (type is None) == (file is None):
        raise ConfigurationError("name a task type, or a file with --file", "see `organism submit --help`")
    if file is not None:
        tasks = parse_lines(_read(file), file)
    else:
        fields = {
            "type": type,
            "params": _json(params, "--params"),
            "domain": domain,
            "description": description,
            "priority": priority,
            "max_attempts": max_attempts,
            "dedup_key": dedup_key,
            "timeout_s": timeout,
        }
        tasks = [_task(fields)]
    async with Queue(queue_dsn(load_settings()).get_secret_value(), connections=1) as queue:
        ids = [str(task_id) for task_id in await queue.submit(tasks)]
    text = ids[0] if file is None else f"{len(ids)} tasks submitted"
    show({"submitted": len(ids), "ids": ids}, as_json, text)


def parse_lines(text: bytes, name: str) -> list[NewTask]:
    """The tasks of a JSON lines file; empty lines are skipped.

    Raises:
        ConfigurationError: Some lines are bad; the message names the first of them by number.
    """
    tasks, bad = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            tasks.append(_task(_json(line, f"line {number}")))
        except ConfigurationError as error:
            bad.append(error.what if error.what.startswith("line ") else f"line {number}: {error.what}")
    if bad:
        more = f" (and {len(bad) - BAD_LINES_SHOWN} more)" if len(bad) > BAD_LINES_SHOWN else ""
        raise ConfigurationError(
            f"{name}: {len(bad)} of {len(bad) + len(tasks)} lines are bad, nothing was submitted: "
            f"{'; '.join(bad[:BAD_LINES_SHOWN])}{more}",
            "correct them and submit the file again",
        )
    if not tasks:
        raise ConfigurationError(f"{name} holds no task", 'write one a line: {"type": "echo", "params": {}}')
    return tasks


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}", "name a readable file") from None


def _json(text: str | bytes, place: str) -> Any:
    import orjson

    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ConfigurationError(f"{place}: not JSON: {error}", 'write an object such as {"n": 1}') from None


def _task(fields: Any) -> NewTask:
    from pydantic import ValidationError

    from blocks.queue import NewTask

    try:
        return NewTask.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "task"
        raise ConfigurationError(
            f"{place}: {first['msg'].removeprefix('Value error, ')}", "correct it and submit again"
        ) from None
