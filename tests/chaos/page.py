"""Reports of chaos runs as tables, and the record of them in docs/."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.chaos.victims import VICTIMS

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "reliability.md"
RECORD = PAGE.with_suffix(".json")


def table(reports: list[dict[str, Any]]) -> str:
    """Recoveries of several runs, as `Report.as_json` has them, by kind of kill, as Markdown."""
    lines = [
        "| Killed | Times | Measured alone | Tasks lost | taken back after, s | "
        "half the rate again after, s | HTTP answers after, s | `organism up` took, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for kind, victim in VICTIMS.items():
        every = [kill for report in reports for kill in report["kills"] if kill["kind"] == kind]
        alone = [kill for kill in every if kill["alone"]]
        if every:
            cells = [
                victim.what,
                str(len(every)),
                str(len(alone)),
                _spread((kill["lost"] for kill in alone), 0),
                _spread((kill["back_s"] for kill in alone), 1),
                _spread((kill["flow_s"] for kill in alone), 1),
                _spread((kill["http_s"] for kill in alone), 1),
                _spread((kill["repaired_s"] for kill in alone), 1),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    found_out = [kill["found_out_s"] for report in reports for kill in report["kills"]]
    if any(found_out):
        lines += ["", f"A poisonous task was a dead letter {_spread(found_out, 1)} s after its first run."]
    return "\n".join(lines)


def write_down(report: dict[str, Any]) -> None:
    """Add a report to the record, in place of one of the same seed and plan, and to the page made of it."""
    reports = json.loads(RECORD.read_text()) if RECORD.exists() else []
    reports = [
        *(known for known in reports if known["plan"] != report["plan"]),
        json.loads(json.dumps(report)),
    ]
    RECORD.write_text(json.dumps(reports, indent=1) + "\n")
    replace_block("chaos", page(reports))


def replace_block(name: str, text: str) -> None:
    """Put ``text`` into the page, between the two marks called ``name``."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, there, rest = PAGE.read_text().partition(begin)
    _, there_too, tail = rest.partition(end)
    assert there, f"{PAGE} has no {begin}"
    assert there_too, f"{PAGE} has no {end}"
    PAGE.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def long_table(record: dict[str, Any]) -> str:
    """A record of the run with long tasks, as Markdown."""
    plan, short, dispatch = record["plan"], record["short"], record["dispatch"]
    p99s = [minute["p99_ms"] for minute in record["per_minute"] if minute["p99_ms"] is not None]
    within = sum(p99 <= 1000 for p99 in p99s)
    completed = sum(long["status"] == "completed" for long in record["long"])
    lines = [
        f"{plan['longs']} tasks of {plan['long_minutes']:g} min and {plan['rate']:g} short ones a second "
        f"for {plan['minutes']:g} min, {plan['replicas']} replicas on {record['cores']} cores: "
        f"**{len(record['violations'])} violations.** {completed} of {len(record['long'])} long tasks and "
        f"{short['completed']:,} of {short['tasks']:,} short ones completed. "
        "From the submission of a short task until its handler began: "
        f"median {_ms(short['p50_ms'])}, p99 {_ms(short['p99_ms'])}, slowest {_ms(short['max_ms'])}; "
        f"the p99 of {within} of {len(p99s)} minutes is at most 1 s. At most "
        f"{dispatch['peak_runs']} dispatch flows and {dispatch['peak_lanes']} lanes were there at once.",
        "",
        "| Event | Minute | Organism answers after, s | Longest time without a short task settled, s | "
        "Allowed, s | Lowest rate in 5 s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for event in record["events"]:
        back = "–" if event["back_s"] is None else f"{event['back_s']:.1f}"
        kept = "–" if event["rate_kept"] is None else f"{event['rate_kept']:.0%}"
        lines.append(
            f"| {event['what']} | {event['at_s'] / 60:.1f} | {back} | {event['gap_s']} | {event['limit_s']} "
            f"| {kept} |"
        )
    lines += [
        "",
        "| Long task | Handler began | Why again | Attempts charged | Status |",
        "|---|---:|---|---:|---|",
    ]
    for number, long in enumerate(record["long"], 1):
        causes = ", ".join(f"{cause} × {times}" for cause, times in long["causes"].items()) or "–"
        # Completing is an attempt, and is none charged.
        charged = long["attempts"] - (long["status"] == "completed")
        lines.append(f"| {number} | {long['begun']} | {causes} | {charged} | {long['status']} |")
    command = f"--minutes {plan['minutes']:g} --long-minutes {plan['long_minutes']:g} --longs {plan['longs']}"
    command += f" --rate {plan['rate']:g} --replicas {plan['replicas']}"
    return "\n".join([*lines, "", f"`make long ARGS='{command}'`"])


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.1f} s"


def page(reports: list[dict[str, Any]]) -> str:
    """The measured part of the page."""
    tasks = sum(sum(report["tasks"].values()) for report in reports)
    cores = sorted({report["cores"] for report in reports})
    lines = [
        f"{len(reports)} runs with {tasks:,} tasks on {' or '.join(map(str, cores))} cores, "
        f"{sum(len(report['kills']) for report in reports)} kills: "
        f"**{sum(len(report['violations']) for report in reports)} violations.**",
        "",
        table(reports),
        "",
        "| Run | Tasks | Lease, s | Seconds | Kills | Violations | Slower than lease + 5 s | "
        "Overlapping runs | Charged for our kill |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    units = [report["units"] for report in reports if report.get("units")]
    for report in reports:
        plan = report["plan"]
        cells = [
            f"`make chaos ARGS='--seed {plan['seed']} --seconds {plan['seconds']:g}{_units_option(plan)}'`",
            f"{sum(report['tasks'].values()):,}",
            f"{report['lease_s']:g}",
            f"{report['seconds']:.0f}",
            str(len(report["kills"])),
            str(len(report["violations"])),
            f"{len(report['slow'])} of {sum(kill['alone'] for kill in report['kills'])}",
            str(report["overlapping_runs"]),
            str(report["charged_by_mistake"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for done in units:
        lines += [
            "",
            f"{done['tasks']} tasks saved each of their units, {done['units']:,} in all: {done['again']} "
            f"were done again, {done['in_flight']:,} were in flight at the kills.",
        ]
    return "\n".join(lines)


def _units_option(plan: dict[str, Any]) -> str:
    return f" --units {plan['units']}" if plan.get("units") else ""


def _spread(values: Iterable[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return f"{statistics.median(known):.{digits}f} (max {max(known):.{digits}f})"
