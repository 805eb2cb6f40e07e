"""Reports of chaos runs as tables, and the record of them in docs/."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.chaos.victims import VICTIMS

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
RECORD = PAGE.with_suffix(".json")
BEGIN, END = "<!-- chaos: begin -->", "<!-- chaos: end -->"


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
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n{page(reports)}\n{END}{tail}")


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
    for report in reports:
        plan = report["plan"]
        cells = [
            f"`make chaos ARGS='--seed {plan['seed']} --seconds {plan['seconds']:g}'`",
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
    return "\n".join(lines)


def _spread(values: Iterable[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return f"{statistics.median(known):.{digits}f} (max {max(known):.{digits}f})"
