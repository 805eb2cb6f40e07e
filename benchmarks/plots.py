"""Plots of the recorded results, for docs/explanation/performance.md.

A program of its own, because matplotlib is in the environment of the peers:
``python -m benchmarks.plots results.json folder``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks import model

mpl.use("svg")
mpl.rcParams.update({"svg.hashsalt": "organism", "svg.fonttype": "none", "font.size": 10, "figure.dpi": 100})

import matplotlib.pyplot as plt  # noqa: E402

OURS, PEER, FLOOR = "#2563eb", "#94a3b8", "#0f172a"
NAMES = {
    "ours": "Organism Flows",
    "floor": "floor (no organism)",
    "pgqueuer": "PgQueuer",
    "graphile": "graphile-worker, batched",
    "pgboss": "pg-boss, batches",
    "pgboss_results": "pg-boss, with results",
    "pgmq": "pgmq",
    "awa": "awa",
    "consumer": "Serve task_consumer",
    "dbos": "DBOS queue",
    "procrastinate": "Procrastinate",
    "per_call": "old dispatcher's shape",
    "prefect_runs": "a Prefect task run an item",
}


def drain(axes: Any, samples: dict[str, Any]) -> None:
    """Rates as bars on a logarithmic scale, each run a dot."""
    rates = sorted(samples["rates"].items(), key=lambda item: sorted(item[1])[len(item[1]) // 2])
    for row, (name, each) in enumerate(rates):
        middle = sorted(each)[len(each) // 2]
        axes.barh(row, middle, color={"ours": OURS, "floor": FLOOR}.get(name, PEER))
        axes.plot(each, [row] * len(each), "o", color="white", markeredgecolor="black", markersize=4)
        axes.text(max(each) * 1.15, row, f"{middle:,.0f}" if middle >= 100 else f"{middle:.3g}", va="center")
    axes.set_yticks(range(len(rates)), [NAMES[name] for name, _ in rates])
    axes.set_xscale("log")
    axes.set_xlim(right=4 * max(max(each) for _, each in rates))
    axes.set_xlabel("no-op tasks a second")


def trickle(axes: Any, samples: dict[str, Any]) -> None:
    """Share of tasks done within a time, at each rate, beside the shortest way."""
    alone = {rate: each for rate, each in samples.items() if rate.isdecimal()}
    for (rate, each), shade in zip(alone.items(), (0.3, 0.5, 0.75, 1.0), strict=False):
        for name, color, label in (("queued_ms", OURS, ""), ("bare_ms", PEER, "shortest way, ")):
            values = sorted(each[name])
            shares = [(i + 1) / len(values) for i in range(len(values))]
            axes.plot(values, shares, color=color, alpha=shade, label=f"{label}{rate}/s")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds from submit to completed")
    axes.set_ylabel("share of tasks")
    axes.legend(fontsize=8)


def handover(axes: Any, samples: dict[str, Any]) -> None:
    """Pick-up of each task across the handover."""
    values = [seconds * 1000 for seconds in samples["pick_ups_s"]]
    axes.plot([i / 50 for i in range(len(values))], values, ".", markersize=2, color=OURS)
    axes.axvline(samples["first_run_ended_s"], color=PEER, linestyle="--", label="first run has ended")
    axes.set_yscale("log")
    axes.set_xlabel("seconds")
    axes.set_ylabel("milliseconds until the handler is called")
    axes.legend(fontsize=8)


def mixed(axes: Any, samples: dict[str, Any]) -> None:
    """Share of short tasks done within a time, with and without long ones."""
    for (name, each), line in zip(samples.items(), ("-", "--"), strict=False):
        for key, color, label in (("alone_ms", PEER, "without long"), ("together_ms", OURS, "with long")):
            values = sorted(each[key])
            shares = [(i + 1) / len(values) for i in range(len(values))]
            axes.plot(values, shares, line, color=color, label=f"{name}, {label}")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds from submit to completed, short tasks")
    axes.set_ylabel("share of tasks")
    axes.legend(fontsize=8)


def snapshot(axes: Any, samples: dict[str, Any]) -> None:
    """Tasks a second over the drain, with and without the snapshot."""
    for name, color, label in (("without", PEER, "no snapshot"), ("held", OURS, "snapshot held")):
        curve = samples[name]["curve"][:-1]
        axes.plot([at for at, _ in curve], [rate for _, rate in curve], color=color, label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("tasks a second")
    axes.legend(fontsize=8)


def memory(axes: Any, samples: dict[str, Any]) -> None:
    """Resident memory of each group of processes."""
    for name, values in samples["megabytes"].items():
        axes.plot(samples["seconds"][: len(values)], values, label=name)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("resident MB")
    axes.legend(fontsize=8)


def scaling(axes: Any, samples: dict[str, Any]) -> None:
    """Replicas and what they have slots for, tasks in flight, and tasks that wait."""
    seconds = samples["seconds"]
    slots = [count * samples["concurrency"] for count in samples["replicas"]]
    axes.step(seconds, slots, where="post", color=PEER, label="slots of the running replicas")
    axes.plot(seconds, samples["running"], color=OURS, label="tasks in flight")
    axes.set_xlabel("seconds since the tasks were added")
    axes.set_ylabel("tasks")
    other = axes.twinx()
    other.plot(seconds, samples["waiting"], color=FLOOR, linestyle=":", label="tasks in the queue")
    other.set_ylim(bottom=0)
    other.set_ylabel("in the queue")
    lines = [*axes.get_lines(), *other.get_lines()]
    axes.legend(lines, [line.get_label() for line in lines], fontsize=8, loc="upper right")


def scale(axes: Any, samples: dict[str, Any]) -> None:
    """What the model says: tasks a second over the cores of the replicas, and where one Postgres is full."""
    costs = model.Costs.of(samples["runs"])
    cores = [2**power for power in range(15)]
    for (name, ms), shade in zip(model.HANDLERS_MS.items(), (1.0, 0.8, 0.6, 0.45, 0.3), strict=True):
        rates = [costs.of_replicas(count, ms) for count in cores]
        axes.plot(cores, rates, color=OURS, alpha=shade)
        axes.annotate(name, (cores[-1], rates[-1]), xytext=(4, 0), textcoords="offset points", va="center")
    for count, line in ((2, ":"), (8, "--"), (32, "-")):
        label = f"one Postgres of {count} cores is full"
        axes.axhline(costs.of_database(count), color=FLOOR, linestyle=line, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xlim(1, 3 * cores[-1])
    axes.set_xticks(cores[::2], [f"{count:,}" for count in cores[::2]])
    axes.set_yscale("log")
    axes.set_yticks([10.0**power for power in range(-2, 10, 2)])
    axes.set_yticklabels(["0.01", "1", "100", "10,000", "1 million", "100 million"])
    axes.set_xlabel("cores of the replicas")
    axes.set_ylabel("tasks a second")
    axes.legend(fontsize=8, loc="upper left")


def forecast(axes: Any, samples: dict[str, Any]) -> None:
    """Ranges in which tasks were said to begin, over when they did."""
    longest = 0.0
    for (name, said), color in zip(samples.items(), (OURS, FLOOR), strict=False):
        reals = [one["real"] for one in said]
        axes.vlines(
            reals,
            [one["earliest"] for one in said],
            [one["latest"] for one in said],
            color=color,
            alpha=0.25,
            linewidth=1,
            label=name,
        )
        longest = max(longest, *reals)
    axes.plot([0, longest], [0, longest], color=PEER, linestyle="--", label="as it was said")
    axes.set_xlabel("seconds until the task began")
    axes.set_ylabel("seconds, the range that was said")
    axes.legend(fontsize=8)


def fairness(axes: Any, samples: dict[str, Any]) -> None:
    """Share of the others' tasks done within a time, without the key that has a backlog and beside it."""
    for (name, each), color in zip(samples["systems"].items(), (OURS, FLOOR, PEER), strict=False):
        for key, line, label in (("alone_ms", "--", "alone"), ("beside_ms", "-", "beside the backlog")):
            values = sorted(each[key])
            shares = [(i + 1) / len(values) for i in range(len(values))]
            axes.plot(values, shares, line, color=color, label=f"{NAMES[name].split(',')[0]}, {label}")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds from submit to completed, tasks of the other keys")
    axes.set_ylabel("share of tasks")
    axes.legend(fontsize=8)


PARTS = (drain, trickle, handover, mixed, snapshot, memory, scaling, scale, forecast, fairness)
PLOTS = {f.__name__: f for f in PARTS}


def main(results: Path, folder: Path) -> None:
    """Write ``bench-<part>.svg`` for every part that is recorded."""
    for part, entry in json.loads(results.read_text())["parts"].items():
        if part not in PLOTS:
            continue
        figure, axes = plt.subplots(
            figsize=(7, 4.6 if part in ("drain", "scale") else 3.2), layout="constrained"
        )
        PLOTS[part](axes, entry["samples"])
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.savefig(folder / f"bench-{part}.svg", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
