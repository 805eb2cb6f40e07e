"""submit: load files of tasks into the queue, each line once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from prefect import flow
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import BaseModel, Field

from organism_flows.blocks.errors import RejectedRows
from organism_flows.blocks.prefect_blocks.task_queue import TaskQueue
from organism_flows.blocks.queue.files.columns import Columns
from organism_flows.blocks.queue.files.reader import matching
from organism_flows.blocks.queue.stores.file_load import Loaded
from organism_flows.flows.prefect_support.markdown import escaped
from organism_flows.flows.prefect_support.states import EXPECTED_ERRORS, ORGANISM_TAG, failed, show_page

PAGE = "submit-summary"
PROGRESS_LOG_S = 5.0
"""Shortest time between two log lines about the progress of a load, in seconds."""


class SubmitSummary(BaseModel):
    """Result of one run of submit."""

    files: int = 0
    added: int = 0
    earlier: int = 0
    """Number of tasks that an earlier run had added from the same lines."""
    duplicates: int = 0
    """Tasks not added: an unfinished task of the type has the ``dedup_key``, or another task has the id."""
    bad: int = 0
    bad_lines: list[str] = []
    """The first bad lines: file, line and reason."""
    seconds: float = 0.0


def _run_name() -> str:
    return f"submit · {datetime.now():%H:%M}"


@flow(name="submit", version=ORGANISM_TAG, flow_run_name=_run_name, persist_result=False, retries=0)
async def submit(
    files: Annotated[str, Field(min_length=1, max_length=4000)],
    strict: bool = True,
    again: bool = False,
    queue: str = "default",
    type: str | None = None,
    columns: dict[str, str] = {},  # noqa: B006
) -> SubmitSummary:
    """Load files of tasks into the queue. A run that was stopped is continued by running it again.

    Args:
        files: A JSON lines, CSV or Parquet file, or a pattern such as /data/**/*.jsonl. The paths are those
            of the machine that runs the flow.
        strict: Load nothing if any line of any file is bad. Otherwise load the good lines and report the bad
            ones.
        again: Load all lines of files that were loaded before.
        queue: Name of the Task Queue block.
        type: Type of all tasks; the columns of the files are then their params. Empty: the files give it.
        columns: Field of the task for each column, or params.NAME; an empty text leaves the column out.

    Returns:
        The counts of the run.

    Raises:
        ConfigurationError: No file matches, a line is bad, or a file was changed in the part already loaded.
        QueueUnavailable: Postgres cannot be reached.
    """
    logger = get_run_logger()
    began = last_line = time.monotonic()

    def progress(done: Loaded) -> None:
        nonlocal last_line
        if time.monotonic() - last_line > PROGRESS_LOG_S:
            last_line = time.monotonic()
            logger.info("%d of %d tasks are in", done.earlier + done.added, done.checked.tasks)

    try:
        as_tasks = Columns(type, columns)
        paths = matching(files)
        block = await TaskQueue.named(queue)
        async with block.open(application_name="organism-submit", connections=1) as open_queue:
            done = await open_queue.producer.load_files(
                paths, strict=strict, again=again, columns=as_tasks, on_part=progress
            )
    except EXPECTED_ERRORS as error:
        if isinstance(error, RejectedRows):
            await show_page(_page("nothing was submitted", error.first), key=PAGE)
        return failed(error)  # type: ignore[return-value]
    summary = SubmitSummary(
        files=len(paths),
        added=done.added,
        earlier=done.earlier,
        duplicates=done.duplicates,
        bad=done.checked.bad,
        bad_lines=[str(line) for line in done.checked.first_bad],
        seconds=round(time.monotonic() - began, 3),
    )
    line = f"{summary.added} tasks submitted of {summary.files} files"
    for count, what in ((summary.earlier, "had been before"), (summary.duplicates, "are there already")):
        line += f", {count} {what}" if count else ""
    line += f"; {summary.bad} bad lines were left out" if summary.bad else ""
    logger.info(line)
    await show_page(_page(line, summary.bad_lines), key=PAGE)
    return Completed(message=line, data=summary)  # type: ignore[return-value]


def _page(line: str, bad_lines: Sequence[str]) -> str:
    lines = [f"**{escaped(line, 200)}**"]
    if bad_lines:
        lines += ["", "Bad lines, the first of them:", ""]
        lines += [f"- {escaped(bad)}" for bad in bad_lines]
    return "\n".join(lines)
