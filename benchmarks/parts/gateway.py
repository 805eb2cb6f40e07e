"""The gateway beside a bare endpoint of the same statements: submits, one and many, and reads a second."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from subprocess import DEVNULL

import httpx
import psutil

from benchmarks.figures import Figure, Result, Unmeasured, median, spread
from benchmarks.load import rate, request
from benchmarks.options import Options
from benchmarks.peers.drained import PAYLOAD
from benchmarks.stack import ROOT, Stack, until
from organism_flows.blocks.local_stack.access_token import own_headers
from organism_flows.blocks.settings import Settings

SECONDS = 1.0
"""Of each measurement."""
ROUNDS = 15
BULK = 1000
"""Tasks of a bulk request."""
READ = 500
"""Tasks there are to read."""
TASK = {"type": "bench.noop", "params": PAYLOAD}


@dataclass
class Server:
    """One that runs, and what is asked of it."""

    url: str
    process: psutil.Process
    one: str
    many: str
    task: str


async def measure(stack: Stack, options: Options) -> Result:
    """Each way on both servers in turn; ratios are of the two measurements of a round."""
    one, many = (json.dumps(body).encode() for body in (TASK, [TASK] * BULK))
    rates: dict[str, dict[str, list[float]]] = {}
    busy: dict[str, list[float]] = {"gateway": [], "bare": [], "load": []}
    # The bare endpoint gets it as well, and does not look at it.
    token = own_headers(Settings(home=stack.home))
    async with (
        running(stack, "gateway", "organism_flows.serve_apps.gateway") as ours,
        running(
            stack,
            "bare",
            "uvicorn",
            "benchmarks.peers.bare_api:app",
            "--no-access-log",
            "--log-level",
            "warning",
        ) as bare,
    ):
        servers = {
            "gateway": Server(*ours, "/api/tasks", "/api/tasks", "/api/tasks/"),
            "bare": Server(*bare, "/one", "/many", "/task/"),
        }
        for number in range(options.rounds(ROUNDS)):
            await stack.clear()
            await stack.load(READ)
            ids = [str(row["id"]) for row in await stack.db.fetch("SELECT id FROM tasks")]
            for way in ("read", "submit", "bulk"):
                # One right after the other, and neither always first: the machine changes by the minute.
                for name, server in sorted(servers.items(), reverse=bool(number % 2)):
                    requests = {
                        "read": [
                            request(f"{server.url}{server.task}{task_id}", headers=token) for task_id in ids
                        ],
                        "submit": [request(f"{server.url}{server.one}", one, token)],
                        "bulk": [request(f"{server.url}{server.many}", many, token)],
                    }[way]
                    with use(server.process, busy[name]), use(psutil.Process(), busy["load"]):
                        found = await rate(server.url, requests, options.seconds(SECONDS))
                    rates.setdefault(way, {}).setdefault(name, []).append(
                        found * (BULK if way == "bulk" else 1)
                    )
            last = {
                way: {name: round(values[-1]) for name, values in each.items()} for way, each in rates.items()
            }
            stack.say(f"{last}")
    await stack.clear()
    shares = {kind: median(percents) for kind, percents in busy.items()}
    said = ", ".join(f"{kind} {percent:.0f} %" for kind, percent in shares.items())
    figures = []
    for way, what, unit in (
        ("submit", "single submits", "requests/s"),
        ("bulk", f"submits of {BULK:,}", "tasks/s"),
        ("read", "reads of a task", "requests/s"),
    ):
        pairs = rates[way]
        ratio = median([a / b for a, b in zip(pairs["gateway"], pairs["bare"], strict=True)])
        note = f"{median(pairs['gateway']):,.0f} ({spread(pairs['gateway'])}) over "
        note += f"{median(pairs['bare']):,.0f} ({spread(pairs['bare'])}) {unit}"
        figures.append(Figure(f"gateway: {what} over a bare endpoint", ratio, at_least=0.8, note=note))
    figures.append(
        Figure("gateway: processor that the load itself takes", shares["load"], "%", at_most=60, note=said)
    )
    return Result(figures, {"rates": rates, "busy_percent": busy})


@contextmanager
def use(process: psutil.Process, percents: list[float]) -> Iterator[None]:
    """Note how much of a processor ``process`` uses meanwhile, in percent."""
    before, started = process.cpu_times(), time.perf_counter()
    yield
    after, seconds = process.cpu_times(), time.perf_counter() - started
    percents.append(100 * (after.user + after.system - before.user - before.system) / seconds)


@asynccontextmanager
async def running(
    stack: Stack, name: str, module: str, *arguments: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[str, psutil.Process]]:
    """A server on a free port of its own, once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = stack.env | {"ORGANISM_DSN": stack.state.dsn, "ORGANISM_GATEWAY_PORT": str(port)}
    environment |= env or {}
    with (stack.home / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *arguments, *(("--port", str(port)) if arguments else ()),
            env=environment, cwd=ROOT, stdin=DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        async with httpx.AsyncClient(trust_env=False) as http:

            async def ready() -> bool:
                if process.returncode is not None:
                    words = (stack.home / f"{name}.log").read_text()[-1000:]
                    raise Unmeasured(f"the server {name} ended: {words}")
                try:
                    return (await http.get(f"{url}/readyz")).status_code == 200
                except httpx.HTTPError:
                    return False

            await until(ready, f"the server {name}")
        yield url, psutil.Process(process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
