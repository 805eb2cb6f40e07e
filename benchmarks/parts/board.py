"""The board on a table of ten million tasks: its pages, 500 viewers at once, and what one viewer costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import httpx
import psutil

from benchmarks.figures import Figure, Result, median, spread
from benchmarks.options import Options
from benchmarks.parts.gateway import running
from benchmarks.stack import LOAD_TIMEOUT_S, Stack
from organism_flows.blocks.local_stack.access_token import own_headers
from organism_flows.blocks.settings import Settings

TASKS = 10_000_000
ROUNDS = 5
BOARDS = 500
SECONDS = 30.0
FILL = """
INSERT INTO tasks (type, domain, key, status, created_at, run_after, finished_at, elapsed_ms, organ_id,
                   attempts, error)
SELECT 'type-' || i % 40, 'domain-' || i % 7, 'key-' || i % 5000,
       CASE WHEN i % 50 = 0 THEN 'failed' ELSE 'completed' END::taskstatus,
       now() - i * interval '0.1 s', now() - i * interval '0.1 s',
       now() - i * interval '0.1 s' + interval '2 s', 20, 'organ', 1,
       CASE WHEN i % 50 = 0 THEN 'ValueError: row ' || i || ' is wrong' END
FROM generate_series($1::int, $2::int) i
"""
PAGES: dict[str, dict[str, str]] = {
    "no filter": {},
    "a type": {"type": "type-7"},
    "a status and a type": {"status": "failed", "type": "type-10"},
    "text in the error": {"error": "row 5000 is"},
    "a key that nothing has": {"key": "none"},
}
"""Filters of the page of tasks."""


async def measure(stack: Stack, options: Options) -> Result:
    """Fill the table, ask for each page in turn, then open many boards, then one."""
    await stack.clear()
    tasks = options.tasks(TASKS)
    step = 250_000
    for start in range(1, tasks + 1, step):
        await stack.db.execute(FILL, start, min(start + step - 1, tasks), timeout=LOAD_TIMEOUT_S)
    await stack.db.execute("VACUUM ANALYZE tasks", timeout=LOAD_TIMEOUT_S)
    async with (
        running(stack, "gateway", "organism_flows.serve_apps.gateway") as (url, process),
        httpx.AsyncClient(
            base_url=url, headers=own_headers(Settings(home=stack.home)), timeout=60, trust_env=False
        ) as http,
    ):
        figures = [await page(http, name, query, options) for name, query in PAGES.items()]
        figures += await many(http, options)
        figures.append(await one(http, process, options))
    return Result([Figure("tasks in the table", tasks, "tasks"), *figures])


async def page(http: httpx.AsyncClient, name: str, query: Mapping[str, str], options: Options) -> Figure:
    """Return how long a page of tasks takes, or until the board says that the filter is too broad."""
    took, statuses = [], set()
    for _ in range(options.rounds(ROUNDS)):
        started = time.perf_counter()
        answer = await http.get("/api/tasks", params={**query, "limit": 50})
        took.append(1000 * (time.perf_counter() - started))
        statuses.add(answer.status_code)
    said = "" if statuses == {200} else f"answered {statuses}: the board says that it is too broad; "
    return Figure(
        f"page of tasks, {name}", median(took), "ms", note=f"{said}{spread(took)} ms, {len(took)} requests"
    )


async def many(http: httpx.AsyncClient, options: Options) -> list[Figure]:
    """Return what 500 boards see that ask as the page does, and how many looks served them."""
    seen: set[str] = set()
    took: list[float] = []
    until = time.monotonic() + options.seconds(SECONDS)

    async def board() -> None:
        while time.monotonic() < until:
            started = time.perf_counter()
            answer = (await http.get("/api/overview")).json()
            took.append(1000 * (time.perf_counter() - started))
            seen.add(answer["at"])
            await asyncio.sleep(max(3.0, answer["refresh_s"]))

    await asyncio.gather(*(board() for _ in range(BOARDS)))
    return [
        Figure(f"{BOARDS} boards: requests for each look at the tables", len(took) / len(seen), "requests",
               note=f"{len(took)} requests, {len(seen)} looks"),
        Figure(f"{BOARDS} boards: answer", median(took), "ms", note=f"median; {spread(took)} ms"),
    ]  # fmt: skip


async def one(http: httpx.AsyncClient, gateway: psutil.Process, options: Options) -> Figure:
    """Return the share of one core that the gateway takes for one board, beyond what it takes for none."""
    seconds = options.seconds(SECONDS)
    idle = await used(gateway, asyncio.sleep(seconds))

    async def board() -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            answer: dict[str, Any] = (await http.get("/api/overview")).json()
            await asyncio.sleep(min(left, max(3.0, answer["refresh_s"])))

    busy = await used(gateway, board())
    note = f"{100 * busy:.2f} % with it, {100 * idle:.2f} % without, over {seconds:.0f} s each"
    return Figure("one board: gateway's share of a core", 100 * (busy - idle), "%", at_most=2, note=note)


async def used(process: psutil.Process, work: Any) -> float:
    """Return the processor time that the process uses a second while ``work`` runs."""
    started, before = time.monotonic(), sum(process.cpu_times()[:2])
    await work
    after = sum(process.cpu_times()[:2])
    return float((after - before) / (time.monotonic() - started))
