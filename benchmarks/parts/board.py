"""The board on a table of ten million tasks: its pages, 500 viewers at once, and what one viewer costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psutil

from benchmarks.figures import Figure, Result, median, spread
from benchmarks.options import Options
from benchmarks.parts.gateway import running
from benchmarks.stack import LOAD_TIMEOUT_S, Stack
from docs.chromium import find_chromium, open_page
from organism_flows.blocks.local_stack.access_token import own_headers
from organism_flows.blocks.settings import Settings

TASKS = 10_000_000
FEW = 1000
"""Waiting tasks of the queue whose first page is measured too."""
ROUNDS = 5
SLOW_MS = 3000
"""What takes longer is asked for once."""
BOARDS = 500
SECONDS = 30.0
FILL = """
INSERT INTO tasks (type, domain, key, status, created_at, run_after, finished_at, elapsed_ms, organ_id,
                   attempts, error)
SELECT 'type-' || i % 40, 'domain-' || i % 7, 'key-' || i % 5000,
       CASE WHEN i % 50 = 0 THEN 'failed' WHEN i % 50 = 1 THEN 'queued' ELSE 'completed' END::taskstatus,
       now() - i * interval '0.1 s', now() - i * interval '0.1 s',
       CASE WHEN i % 50 <> 1 THEN now() - i * interval '0.1 s' + interval '2 s' END, 20, 'organ', 1,
       CASE WHEN i % 50 = 0 THEN 'ValueError: row ' || i || ' is wrong' END
FROM generate_series($2::int, $1::int, -1) i
"""
"""One in fifty is a dead letter, and one in fifty waits. The newest come last: ids grow with time."""
PAGES: dict[str, dict[str, str]] = {
    "no filter": {},
    "a type": {"type": "type-7"},
    "a type that nothing has": {"type": "none"},
    "a domain": {"domain": "domain-3"},
    "a key": {"key": "key-77"},
    "a key that nothing has": {"key": "none"},
    "dead letters": {"status": "failed"},
    "waiting": {"status": "queued"},
    "running, of which there is none": {"status": "running"},
    "a status and a type": {"status": "failed", "type": "type-10"},
    "a status and a type that nothing has": {"status": "failed", "type": "type-7"},
    "text in the error": {"error": "row 5000 is"},
    "text in the error of dead letters": {"error": "row 5000 is", "status": "failed"},
    "a dedup key that nothing has": {"dedup_key": "none"},
    "an organ": {"organ": "organ"},
    "an organ that nothing has": {"organ": "none"},
    "a lane that holds nothing": {"lane": "none"},
    "a run that holds nothing": {"run": "none"},
    "created within the hour": {"created_since": "-1h"},
    "created before a week": {"created_until": "-7d"},
}
"""Filters of the page of tasks."""
OTHERS = {
    "Now": "/api/overview",
    "Failures": "/api/failures",
    "Failures of a type": "/api/failures?type=type-10",
    "Types": "/api/types",
    "limits": "/api/limits",
    "Audit": "/api/audit",
    "a task": "/api/tasks/{task}",
    "why a task waits": "/api/tasks/{task}/why",
}
"""What the other pages ask for."""
OPEN = {"ORGANISM_GATEWAY_OPEN": "true"}
AGES = {"-1h": timedelta(hours=1), "-7d": timedelta(days=7)}
FIRST_MS = 300
STARTS_S = 2.0
"""After which a browser has started: asked for a page before, it takes 0.1 s longer, of two cores."""
FIRST_BYTES = 200_000
NOTE = """
new MutationObserver((_, observer) => {
  if (!document.querySelector('main .verdict')) return;
  observer.disconnect();
  window.shownAt = performance.now();
}).observe(document, { childList: true, subtree: true });
"""
"""Notes when the page of Now says how all is."""
SHOWN = "window.shownAt"
SENT = "performance.getEntries().reduce((sum, one) => sum + (one.transferSize ?? 0), 0)"


async def measure(stack: Stack, options: Options) -> Result:
    """Fill the table, ask for each page in turn, then open many boards, then one."""
    await stack.clear()
    tasks = options.tasks(TASKS)
    await stack.load(FEW)
    async with running(stack, "gateway", "organism_flows.serve_apps.gateway", env=OPEN) as (url, _):
        figures = await first(url, options, FEW)
    await stack.clear()
    await fill(stack, tasks)
    async with (
        running(stack, "gateway", "organism_flows.serve_apps.gateway", env=OPEN) as (url, process),
        httpx.AsyncClient(
            base_url=url, headers=own_headers(Settings(home=stack.home)), timeout=60, trust_env=False
        ) as http,
    ):
        figures += await first(url, options, tasks)
        waiting = await stack.db.fetchval(
            "SELECT id FROM tasks WHERE status = 'queued' ORDER BY run_after DESC LIMIT 1"
        )
        for name, path in OTHERS.items():
            figures.append(await page(http, f"board: {name}", path.format(task=waiting), {}, options))
        for name, query in PAGES.items():
            moments = {key: str(datetime.now(UTC) - AGES[one]) for key, one in query.items() if one in AGES}
            figures.append(await page(http, f"page of tasks, {name}", "/api/tasks", query | moments, options))
        figures += await many(http, options)
        figures.append(await one(http, process, options))
    return Result([Figure("tasks in the table", tasks, "tasks"), *figures])


async def fill(stack: Stack, tasks: int) -> None:
    """Add the tasks with the secondary indexes away, and put them back."""
    indexes = await stack.db.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'tasks' AND indexname <> 'tasks_pkey'"
    )
    for index in indexes:
        await stack.db.execute(f'DROP INDEX "{index["indexname"]}"')
    step = 250_000
    for start in reversed(range(1, tasks + 1, step)):
        await stack.db.execute(FILL, start, min(start + step - 1, tasks), timeout=LOAD_TIMEOUT_S)
    for index in indexes:
        await stack.db.execute(index["indexdef"], timeout=LOAD_TIMEOUT_S)
    await stack.db.execute("VACUUM ANALYZE tasks", timeout=LOAD_TIMEOUT_S)
    await stack.db.execute("CHECKPOINT", timeout=LOAD_TIMEOUT_S)  # else it goes on beside what is measured
    stack.say(f"{tasks:,} tasks are there")


async def first(url: str, options: Options, tasks: int) -> list[Figure]:
    """Return how long it takes until Now shows how all is, and how many bytes that takes, in a browser."""
    chromium = find_chromium()
    if chromium is None:
        return []
    took: dict[float, list[float]] = {STARTS_S: [], 0.0: []}
    sent = []
    for _ in range(options.rounds(ROUNDS)):
        for after, times in took.items():
            async with open_page(chromium) as browser:  # a new profile, with nothing kept
                await browser.run_at_load(NOTE)
                await asyncio.sleep(after)
                await browser.go(url)
                times.append(float(await browser.until(SHOWN)))
                sent.append(float(await browser.evaluate(SENT)))
    open_, starting = took.values()
    return [
        Figure(f"board: first page until Now is shown, {tasks:,} tasks", median(open_), "ms",
               at_most=FIRST_MS, note=f"{spread(open_)} ms, {len(open_)} browsers that keep nothing"),
        Figure(f"board: first page while the browser starts, {tasks:,} tasks", median(starting), "ms",
               note=f"{spread(starting)} ms, {len(starting)} browsers that keep nothing"),
        Figure(f"board: first page, {tasks:,} tasks", median(sent) / 1000, "kB", at_most=FIRST_BYTES / 1000,
               note="all files and answers, as sent"),
    ]  # fmt: skip


async def page(
    http: httpx.AsyncClient, name: str, path: str, query: Mapping[str, str], options: Options
) -> Figure:
    """Return how long an answer takes, or until the board says that the filter is too broad."""
    took, statuses = [], set()
    limit = {"limit": 50} if path == "/api/tasks" else {}
    for _ in range(options.rounds(ROUNDS)):
        started = time.perf_counter()
        answer = await http.get(path, params={**query, **limit} or None)
        took.append(1000 * (time.perf_counter() - started))
        statuses.add(answer.status_code)
        if took[-1] > SLOW_MS:
            break
    said = "" if statuses == {200} else f"answered {statuses}: the board says that it is too broad; "
    return Figure(name, median(took), "ms", note=f"{said}{spread(took)} ms, {len(took)} requests")


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
