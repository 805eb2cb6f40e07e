"""A stack that has nothing to do: processor time and memory by process, beside what it is added to."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict

import psutil

from benchmarks.costs import tree, used_with_ended
from benchmarks.figures import Figure, Result, Unmeasured
from benchmarks.options import Options
from benchmarks.peers.drained import READY
from benchmarks.stack import ROOT, Stack, line_of, program, running_stack

SETTLE_S = 60.0
"""After a start: runs of the bootstrap end, caches fill."""
PERIOD_S = 600.0
"""All schedules that are on have come round: two runs of verify, one of the watchdog. A shorter look counts
them twice as often or not at all, by the clock."""
BARE_S = 120.0
"""The bare processes have no schedules."""
ROLES = {
    "ServeController": "Serve's controller",
    "ProxyActor": "Serve's proxy",
    "ServeReplica": "Serve's replicas",
}


async def measure(stack: Stack, options: Options) -> Result:
    """Ours with its defaults, then the bare processes, each alone but for the stack of the benchmarks."""
    settle, seconds = options.seconds(SETTLE_S), options.seconds(PERIOD_S)
    everything = {"ORGANISM_WORKER": "true", "ORGANISM_GATEWAY": "true", "ORGANISM_CONFIG": ""}
    async with running_stack(stack.say, everything, join=False) as whole:
        stack.say(f"idle for {settle + seconds:g} s")
        await asyncio.sleep(settle)
        ours = await Use.of({name: ref.pid for name, ref in whole.state.processes.items()}, seconds)
    bare = await beside(stack, settle, options.seconds(BARE_S))
    added = ours.total_percent - bare.total_percent
    return Result(
        [
            Figure("idle: what is added to bare processes", added, "% of a core", at_most=4, note=""),
            Figure("idle: the whole stack", ours.total_percent, "% of a core", at_most=25, note=ours.note),
            Figure("idle: the bare processes", bare.total_percent, "% of a core", note=bare.note),
            Figure("idle: memory of the whole stack", ours.total_mb, "MB", note="proportional set size"),
            Figure("idle: memory of the bare processes", bare.total_mb, "MB", note="proportional set size"),
        ],
        {
            "ours": {"percent": ours.percent, "mb": ours.megabytes},
            "bare": {"percent": bare.percent, "mb": bare.megabytes},
        },
    )


class Use:
    """Processor time and memory of processes by role."""

    def __init__(self, percent: dict[str, float], megabytes: dict[str, float]) -> None:
        self.percent = percent
        self.megabytes = megabytes
        self.total_percent = sum(percent.values())
        self.total_mb = sum(megabytes.values())
        most = sorted(percent.items(), key=lambda entry: -entry[1])
        self.note = ", ".join(f"{role} {used:.1f}" for role, used in most)

    @classmethod
    async def of(cls, roots: dict[str, int], seconds: float) -> Use:
        """Watch the processes below some roots for ``seconds``.

        Processes that end meanwhile are counted with their parents, once they have ended.
        """
        before = {name: times(pid) for name, pid in roots.items()}
        await asyncio.sleep(seconds)
        used: defaultdict[str, float] = defaultdict(float)
        memory: defaultdict[str, float] = defaultdict(float)
        for name, pid in roots.items():
            for process in tree(pid):
                with contextlib.suppress(psutil.Error):
                    role = role_of(name, process)
                    used[role] += used_with_ended(process) - before[name].pop(process.pid, 0.0)
                    memory[role] += process.memory_full_info().pss / 2**20
            # Those that have ended were counted with all that they used, also before.
            used[role_of(name, psutil.Process(pid))] -= sum(before[name].values())
        return cls({role: 100 * each / seconds for role, each in used.items()}, dict(memory))


def times(root: int) -> dict[int, float]:
    """Processor time so far of each process below a root."""
    found = {}
    for process in tree(root):
        with contextlib.suppress(psutil.Error):
            found[process.pid] = used_with_ended(process)
    return found


def role_of(name: str, process: psutil.Process) -> str:
    """What a process is: those of Serve by what they run, all others by their root."""
    command = " ".join(process.cmdline())
    for word, role in ROLES.items():
        if f"ray::{word}" in command:
            return role
    if name == "worker" and "prefect worker" not in command:
        return "flow runs"
    return {"ray": "Ray", "prefect": "Prefect server", "postgres": "Postgres"}.get(name, name)


async def beside(stack: Stack, settle: float, seconds: float) -> Use:
    """Start the bare processes, and watch them."""
    process = await asyncio.create_subprocess_exec(
        *program("bare_stack", foreign=False),
        env=stack.env,  # not this process's own, which names the stack of the benchmarks
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    try:
        if not await line_of(process.stdout, READY):
            raise Unmeasured(f"the bare processes ended with {await process.wait()}")
        await asyncio.sleep(settle)
        roots = {}
        for child in psutil.Process(process.pid).children():
            roots["prefect" if "prefect" in " ".join(child.cmdline()) else "ray"] = child.pid
        use = await Use.of(roots, seconds)
        await process.communicate(b"\n")
        return use
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
