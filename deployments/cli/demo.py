"""The demo: one task for each module of this Python's standard library, and some tasks that must fail."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import orjson
from pydantic import BaseModel

from organism_flows.blocks.errors import OrganismError
from organism_flows.blocks.local_stack.stack_state import queue_dsn
from organism_flows.blocks.queue import NewTask, Queue, TaskResult
from organism_flows.blocks.settings import Settings

MOST_COMPLEX = 5
POLL_S = 0.3
EXPECTED_FAILURES = {
    "no.such.type": "no organ",
    "code.metrics": "does not parse",
    "demo.raise": "raised on purpose",
    "demo.hang": "timed out",
}
"""Types of the tasks that must become dead letters, and a text that the error must contain."""


class Complex(BaseModel):
    """One of the most complex functions found."""

    function: str
    complexity: int
    path: str
    line: int


class Failure(BaseModel):
    """A task that was meant to fail."""

    type: str
    attempts: int
    error: str
    as_expected: bool


class DemoReport(BaseModel):
    """Result of the demo."""

    submitted: int
    by_status: dict[str, int]
    seconds: float
    """Time from the submission to the last settlement."""
    tasks_per_second: float
    lines: int
    """Source lines read by all tasks together."""
    handler_ms_p50: float
    handler_ms_p99: float
    queued_to_done_s_p50: float
    queued_to_done_s_p99: float
    most_complex: list[Complex]
    failures: list[Failure]
    surprises: list[str]
    """Results that were not expected; empty if the demo succeeded."""


def standard_library() -> list[Path]:
    """Return the files of the running Python's standard library, except those that are broken on purpose."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return sorted(
        path
        for path in root.rglob("*.py")
        if not path.name.startswith("bad")
        and not any(part == "site-packages" or part.endswith("data") for part in path.parts)
    )


def make_tasks(domain: str, broken: Path) -> list[NewTask]:
    """Return the tasks for the whole library, with the tasks that must fail spread among them.

    Args:
        domain: Domain of the tasks, which marks those of this demo.
        broken: Path at which a file that does not parse is written.
    """
    broken.write_text("def half_a_function(:\n")
    tasks = [
        NewTask(type="code.metrics", params={"path": str(path)}, domain=domain) for path in standard_library()
    ]
    bad = [
        NewTask(type="no.such.type", domain=domain),
        NewTask(type="code.metrics", params={"path": str(broken)}, domain=domain),
        NewTask(type="demo.raise", domain=domain, max_attempts=2),
        NewTask(type="demo.hang", domain=domain, max_attempts=1),
    ]
    for number, task in enumerate(bad, 1):
        tasks.insert(number * len(tasks) // (len(bad) + 1), task)
    return tasks


async def run(settings: Settings, on_progress: Callable[[int, int], None]) -> DemoReport:
    """Submit the tasks, dispatch until the queue is empty, and return what came out.

    Args:
        settings: Settings of a running stack.
        on_progress: Called with the numbers of tasks done and tasks submitted.
    """
    domain = f"demo-{time.time_ns():x}"
    tasks = await asyncio.to_thread(make_tasks, domain, settings.home / "demo-does-not-parse.py")
    async with Queue(queue_dsn(settings).get_secret_value()) as queue:
        started = time.monotonic()
        await queue.submit(tasks)
        watching = asyncio.create_task(_watch(queue, domain, len(tasks), on_progress))
        try:
            await _dispatch(settings)
        finally:
            watching.cancel()
        seconds = time.monotonic() - started
        rows = await queue.reader.results(domain)
    on_progress(sum(row.finished_at is not None for row in rows), len(tasks))
    return _report(rows, len(tasks), seconds)


async def _dispatch(settings: Settings) -> None:
    """Run the dispatch flow in a process of its own.

    A process that has used Ray and Prefect does not survive them: Ray ends it 60 s after its cluster is gone,
    and Prefect's log sender waits as long for its server. The demo stops both.

    Raises:
        OrganismError: The flow failed.
    """
    command = [
        sys.executable,
        "-P",
        "-m",
        "organism_flows.deployments.cli.main",
        "dispatch",
        "--until-empty",
        "--quiet",
        "--json",
    ]
    process = await asyncio.create_subprocess_exec(
        *command,
        # Lanes report through Prefect's API as usual. This terminal only has to show problems.
        env={
            **os.environ,
            "ORGANISM_HOME": str(settings.home),
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        },
        stdout=asyncio.subprocess.PIPE,
        # We pass on a Ctrl-C ourselves.
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    except BaseException:
        process.terminate()
        await process.wait()
        raise
    if process.returncode != 0:
        answer = orjson.loads(output or b"{}")
        raise OrganismError(
            answer.get("error") or f"the dispatch flow ended with code {process.returncode}",
            answer.get("next_step") or f"read the logs in {settings.home / 'logs'}",
        )


async def _watch(queue: Queue, domain: str, total: int, on_progress: Callable[[int, int], None]) -> None:
    while True:
        on_progress(await queue.reader.finished(domain), total)
        await asyncio.sleep(POLL_S)


def _report(rows: list[TaskResult], submitted: int, seconds: float) -> DemoReport:
    completed = [row for row in rows if row.status == "completed"]
    results = [row.result for row in completed]
    found = sorted(results, key=lambda r: r["complexity"]["max"], reverse=True)[:MOST_COMPLEX]
    waits = [(row.finished_at - row.created_at).total_seconds() for row in completed if row.finished_at]
    failures = [_failure(row) for row in rows if row.status == "failed"]
    return DemoReport(
        submitted=submitted,
        by_status=dict(Counter(row.status for row in rows)),
        seconds=round(seconds, 2),
        tasks_per_second=round(len(rows) / seconds, 1),
        lines=sum(r["lines"] for r in results),
        handler_ms_p50=_quantile([row.elapsed_ms or 0.0 for row in completed], 50),
        handler_ms_p99=_quantile([row.elapsed_ms or 0.0 for row in completed], 99),
        queued_to_done_s_p50=_quantile(waits, 50),
        queued_to_done_s_p99=_quantile(waits, 99),
        most_complex=[
            Complex(
                function=r["complexity"]["function"] or "-",
                complexity=r["complexity"]["max"],
                path=r["path"],
                line=r["complexity"]["line"] or 0,
            )
            for r in found
        ],
        failures=failures,
        surprises=_surprises(rows, submitted, failures),
    )


def _failure(row: TaskResult) -> Failure:
    error = row.error or ""
    expected = EXPECTED_FAILURES.get(row.type)
    return Failure(
        type=row.type,
        attempts=row.attempts,
        error=error,
        as_expected=expected is not None and expected in error,
    )


def _surprises(rows: list[TaskResult], submitted: int, failures: list[Failure]) -> list[str]:
    surprises = []
    if len(rows) != submitted:
        surprises.append(f"{submitted} tasks were submitted and {len(rows)} are in the table")
    unfinished = sum(row.status not in ("completed", "failed") for row in rows)
    if unfinished:
        surprises.append(f"{unfinished} tasks are neither completed nor failed")
    surprises += [f"{f.type} failed with: {f.error}" for f in failures if not f.as_expected]
    counted = Counter(f.type for f in failures if f.as_expected)
    surprises += [
        f"{kind} failed {counted[kind]} times, expected once"
        for kind in EXPECTED_FAILURES
        if counted[kind] != 1
    ]
    return surprises


def _quantile(values: list[float], percent: int) -> float:
    if len(values) < 2:
        return round(values[0], 3) if values else 0.0
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 3)
