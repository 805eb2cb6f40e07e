"""`make bench`: measure, print the table, write results, plots and docs/explanation/performance.md."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import psutil

from benchmarks import costs, record
from benchmarks.figures import Result, Unmeasured
from benchmarks.options import Options
from benchmarks.stack import PEERS_PYTHON, Stack, running_stack

PARTS = (
    "drain",
    "trickle",
    "handover",
    "mixed",
    "affinity",
    "bulk",
    "growth",
    "snapshot",
    "memory",
    "scaling",
    "gateway",
    "consumer",
    "tracing",
    "idle",
    "start",
    "scale",
    "reports",
    "board",
    "forecast",
    "release",
    "fairness",
)
LOOK_S = 2.0
BUSY_PERCENT = 15.0
"""Use of the processors, by a stack that has nothing to do and whatever else, above which figures suffer."""


def say(line: str) -> None:
    """Progress, on standard error."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def use(stack: Stack) -> tuple[float, str]:
    """Use of the processors over some seconds, in percent, and the programs beside the benchmarks."""
    ours = {p.pid for role in stack.state.processes.values() for p in costs.tree(role.pid)} | {os.getpid()}
    before = {p: own_time(p) for p in psutil.process_iter() if p.pid not in ours}
    busy = psutil.cpu_percent(LOOK_S)
    shares: Counter[str] = Counter()
    for process, used in before.items():
        with contextlib.suppress(psutil.Error):
            shares[process.name()] += max(round(100 * (own_time(process) - used) / LOOK_S), 0)
    named = [f"{name} {share} %" for name, share in shares.most_common(4) if share > 5]
    return busy, ", ".join(named)


def own_time(process: psutil.Process) -> float:
    """Processor time of a process so far; 0 when it has ended."""
    with contextlib.suppress(psutil.Error):
        return float(sum(process.cpu_times()[:2]))
    return 0.0


async def measure(parts: Sequence[str], options: Options, results: Path) -> int:
    """Run the parts on one stack, record each as it ends; returns how many could not be measured."""
    failures = 0
    async with running_stack(say) as stack:
        for name in parts:
            busy, others = await asyncio.to_thread(use, stack)
            load_average = os.getloadavg()[0]
            say(f"part {name}")
            if busy > BUSY_PERCENT:
                say(f"the processors are {busy:.0f} % busy already: figures will be worse than they should")
                say(f"beside the benchmarks run: {others or 'small things'}")
            started = time.monotonic()
            try:
                result: Result = await import_module(f"benchmarks.parts.{name}").measure(stack, options)
            except Unmeasured as error:
                say(f"error: {name} could not be measured: {error}")
                failures += 1
                continue
            record.add(
                results,
                name,
                result,
                seconds=time.monotonic() - started,
                busy=busy,
                load_average=(load_average, os.getloadavg()[0]),
                others=others,
            )
            for figure in result.figures:
                say("  ".join([*figure.row(), figure.note]))
    return failures


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; none: all")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, recorded nowhere")
    parser.add_argument(
        "--rounds", type=int, help="how often systems take turns, where a part says 3 by itself"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing, write plots and page anew")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="file of the results")
    arguments = parser.parse_args()
    parts = arguments.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    results: Path = record.SCRATCH if arguments.quick else arguments.results
    failures = 0
    # Terminated like interrupted, so that the stack is not left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not arguments.report:
        try:
            failures = asyncio.run(
                measure(parts, Options(quick=arguments.quick, repeat=arguments.rounds), results)
            )
        except Unmeasured as error:
            say(f"error: {error}")
            return 1
        except KeyboardInterrupt:
            say("interrupted; the parts that had ended are recorded")
            return 130
    if results == record.RESULTS and results.exists():
        record.write_page(results)
        subprocess.run([PEERS_PYTHON, "-m", "benchmarks.plots", results, record.IMAGES], check=True)
    print(record.table(results, parts))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
