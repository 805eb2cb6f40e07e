"""docs/how-to/bad-release.md on a real stack: from the dead letters on the board to the redrive, timed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Result, Unmeasured
from benchmarks.options import Options
from benchmarks.parts.gateway import running
from benchmarks.stack import HERE, Stack, until
from docs.chromium import Page, find_chromium, open_page

TYPE = "bench.release"
TASKS = 500
MEANWHILE = 50
"""Tasks that are added while the type is paused."""
GOOD = "handler: bench_handlers:noop\n    version: '2026-11-29'"
BROKEN = "handler: bench_handlers:broken\n    version: '2026-11-30'"
ORGAN = f"""
  - id: release
    task_types: [{TYPE}]
    {{handler}}
    concurrency: 100
    max_attempts: 2
  - id: introspection
    task_types: [health_check]
    handler: organism_flows.serve_apps.organism.handlers.basics:handle
"""
"""With what the canary of `organism bootstrap` needs."""
ENDED = "SELECT count(*) FROM tasks WHERE type = $1 AND status = $2::taskstatus"
LIMIT_S = 120
"""What the story may take, with nobody who reads and thinks."""


class Operator:
    """Somebody at the board, who clicks and waits.

    Args:
        page: The page of the browser.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.clicks = 0
        self.steps: dict[str, float] = {}

    async def step(self, name: str, seen: str) -> None:
        """Wait until ``seen`` is true on the page, and note how long that took."""
        started = time.perf_counter()
        await self.page.until(seen)
        self._add(name, started)

    async def click(self, selector: str, text: str) -> None:
        """Click what begins with ``text``, once it is there."""
        found = (
            f"[...document.querySelectorAll({selector!r})].find(one => one.textContent.startsWith({text!r}))"
        )
        started = time.perf_counter()
        await self.page.until(f"!!{found}")
        await self.page.evaluate(f"{found}.click()")
        self.clicks += 1
        self._add("the board", started)

    async def elsewhere(self, name: str, work: Awaitable[Any]) -> None:
        """Wait for what is not on the board."""
        started = time.perf_counter()
        await work
        self._add(name, started)

    def _add(self, name: str, started: float) -> None:
        self.steps[name] = self.steps.get(name, 0.0) + time.perf_counter() - started


async def measure(stack: Stack, options: Options) -> Result:
    """Release a handler that fails, and go through the page."""
    chromium = find_chromium()
    if chromium is None:
        raise Unmeasured("no chromium on the PATH → install it, for example `apt install chromium`")
    await stack.clear()
    await stack.db.execute("TRUNCATE task_audit, pauses")
    tasks = options.tasks(TASKS)
    before = stack.env["ORGANISM_CONFIG"]
    env = {"ORGANISM_GATEWAY_OPEN": "true", "ORGANISM_HOME": str(stack.home)}
    try:
        await deploy(stack, GOOD)
        async with stack.dispatching() as process:

            def count(status: str, number: int) -> Callable[[], Awaitable[bool]]:
                async def reached() -> bool:
                    return int(await stack.db.fetchval(ENDED, TYPE, status)) >= number

                return reached

            await stack.load(tasks, TYPE)
            await until(count("completed", tasks), "the tasks of the good release", process)
            await deploy(stack, BROKEN)
            await stack.load(tasks, TYPE)
            await until(count("failed", tasks), "the tasks that the release breaks", process)
            async with (
                running(stack, "gateway", "organism_flows.serve_apps.gateway", env=env) as (url, _),
                open_page(chromium) as page,
            ):
                started = time.perf_counter()
                operator = Operator(page)
                await story(operator, url, stack, count, tasks)
                total = time.perf_counter() - started
    finally:
        stack.env["ORGANISM_CONFIG"] = before
        await stack.run("up")
    on_board = operator.steps["the board"]
    note = "; ".join(f"{name} {seconds:.1f} s" for name, seconds in operator.steps.items())
    return Result(
        [
            Figure(
                "release: from the board's line to the last redriven task",
                total,
                "s",
                at_most=LIMIT_S,
                note=note,
            ),
            Figure(
                "release: waiting for the board", on_board, "s", note=f"{operator.clicks} clicks and a reason"
            ),
        ],
        {"steps": operator.steps, "clicks": operator.clicks, "tasks": tasks},
    )


async def story(
    operator: Operator,
    url: str,
    stack: Stack,
    count: Callable[[str, int], Callable[[], Awaitable[bool]]],
    tasks: int,
) -> None:
    """Do what the page says, in its order."""
    await operator.page.go(url)
    await operator.click("main a", "Show: ")
    await operator.click("main a", "Newest of them")
    await operator.step("the board", "document.querySelector('main').innerText.includes('2026-11-30')")
    await operator.click("nav a", "Types")
    await operator.click("main button", f"Pause… {TYPE}")
    await operator.page.until("!!document.querySelector('dialog input')")
    await operator.page.evaluate(
        "(field => { field.value = 'release 2026-11-30 fails'; "
        "field.dispatchEvent(new Event('input', { bubbles: true })); })"
        "(document.querySelector('dialog input'))"
    )
    await operator.click("dialog button", "Pause")
    await operator.step("the board", "document.querySelector('main').innerText.includes('2026-11-30 fails')")
    await stack.load(MEANWHILE, TYPE)
    await operator.elsewhere("`organism bootstrap` of the release before", deploy(stack, GOOD))
    await operator.click("main button", f"Resume {TYPE}")
    await operator.elsewhere(
        "new tasks complete", until(count("completed", tasks + MEANWHILE), "tasks that complete")
    )
    await operator.click("nav a", "Failures")
    await operator.click("main button", "Redrive…")
    await operator.click("dialog button", "Redrive ")
    await operator.elsewhere(
        "all redriven tasks have completed",
        until(count("completed", 2 * tasks + MEANWHILE), "the redriven tasks"),
    )


async def deploy(stack: Stack, handler: str) -> None:
    """Deploy the organism of the benchmarks with a release of one more handler."""
    path = Path(stack.home) / "release.yaml"
    text = (HERE / "organism.yaml").read_text().replace("[handlers]", f"[{HERE / 'handlers'}]")
    path.write_text(text + ORGAN.replace("{handler}", handler))
    stack.env["ORGANISM_CONFIG"] = str(path)
    await stack.run("bootstrap")
