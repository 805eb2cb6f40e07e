"""How long starts take: the stack, on an empty folder and again, and single commands on a running stack."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.figures import Figure, Result, Unmeasured, median, spread
from benchmarks.options import Options
from benchmarks.stack import ROOT, Stack, new_home

STEP = re.compile(r"^(\w+): ready \(([\d.]+) s\)", re.MULTILINE)
COMMANDS = {
    "tasks list": ["tasks", "list"],
    "submit": ["submit", "bench.noop"],
    "--help": ["--help"],
}
ONE_TASK = ["dispatch", "--until-empty"]


async def measure(stack: Stack, options: Options) -> Result:
    """Starts of a stack with its defaults, each in turn; then commands on the stack of the benchmarks."""
    rounds = options.rounds(3)
    starts: dict[str, list[tuple[float, str]]] = {"first": [], "second": []}
    for _ in range(rounds):
        home = new_home()
        env = {**stack.env, "ORGANISM_HOME": str(home)}
        for name in ("ORGANISM_WORKER", "ORGANISM_GATEWAY", "ORGANISM_CONFIG"):
            env.pop(name, None)
        try:
            for which in starts:
                starts[which].append(await asyncio.to_thread(timed, ["up"], env))
                stack.say(f"{which} start: {starts[which][-1][0]:.1f} s")
                await asyncio.to_thread(timed, ["down"], env)
        finally:
            shutil.rmtree(home, ignore_errors=True)
    figures = [
        Figure(
            f"start: `organism up`, the {which} time",
            median([seconds for seconds, _ in each]),
            "s",
            at_most=15,
            note=f"{spread([seconds for seconds, _ in each])}; {steps(min(each)[1])}",
        )
        for which, each in starts.items()
    ]
    await stack.clear()
    for name, arguments in COMMANDS.items():
        figures.append(await command(stack, name, arguments, 2 * rounds, at_most=0.4))
    figures.append(await command(stack, "dispatch --until-empty, one task", ONE_TASK, rounds, at_most=3))
    return Result(figures, {name: [seconds for seconds, _ in each] for name, each in starts.items()})


async def command(stack: Stack, name: str, arguments: list[str], rounds: int, *, at_most: float) -> Figure:
    """The fastest of some runs of a command: the others have waited for a busy machine."""
    seconds = []
    for _ in range(rounds):
        if arguments == ONE_TASK:
            await stack.load(1)
        seconds.append((await asyncio.to_thread(timed, arguments, stack.env))[0])
    note = f"shortest of {spread(seconds)}"
    return Figure(f"start: `organism {name}`", min(seconds), "s", at_most=at_most, note=note)


def timed(arguments: list[str], env: dict[str, str]) -> tuple[float, str]:
    """Seconds that an `organism` command takes, and what it says on standard error."""
    started = time.perf_counter()
    command = [str(Path(sys.executable).with_name("organism")), *arguments]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Unmeasured(
            f"organism {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-1000:]}"
        )
    return time.perf_counter() - started, done.stderr


def steps(said: str) -> str:
    """What each component took, longest first; they start beside one another."""
    found = sorted(((float(seconds), name) for name, seconds in STEP.findall(said)), reverse=True)
    return ", ".join(f"{name} {seconds:g}" for seconds, name in found)
