"""The picture of a recorded run: short tasks by minute, and below them each run of each long task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

P99, MOST, ENDED, CUT, MARK = "#2563eb", "#94a3b8", "#2563eb", "#f59e0b", "#0f172a"
LABELS = {
    "replica": "kill -9\nreplica",
    "redeploy": "redeploy",
    "flow": "kill -9\ndispatch",
    "postgres": "kill -9\nPostgres",
}


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw a record of `measure` to ``path``, in the format of its suffix."""
    # Matplotlib takes a second to import, and the tests of this folder do without.
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    look: Any = {"svg.hashsalt": "organism", "svg.fonttype": "none", "font.size": 10, "figure.dpi": 100}
    with mpl.rc_context(look):
        figure, (above, below) = plt.subplots(
            2, 1, figsize=(8.5, 5.6), sharex=True, height_ratios=[1.2, 1], layout="constrained"
        )
        _short(above, record)
        _long(below, record)
        for axes in (above, below):
            for event in record["events"]:
                axes.axvline(event["at_s"] / 60, color=MARK, linestyle=":", linewidth=1)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        for event in record["events"]:
            above.text(
                event["at_s"] / 60, 1.02, LABELS[event["kind"]], ha="center", va="bottom", fontsize=8,
                transform=above.get_xaxis_transform(),
            )  # fmt: skip
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata)
        plt.close(figure)


def _short(axes: Any, record: dict[str, Any]) -> None:
    known = [minute for minute in record["per_minute"] if minute["p99_ms"] is not None]
    middles = [minute["minute"] + 0.5 for minute in known]
    for key, color, label in (("max_ms", MOST, "slowest"), ("p99_ms", P99, "p99")):
        axes.plot(middles, [minute[key] for minute in known], "o-", color=color, markersize=3, label=label)
    axes.axhline(1000, color="#dc2626", linewidth=1, linestyle="--", label="1 s")
    axes.set_yscale("log")
    axes.set_yticks([1, 10, 100, 1000, 10_000, 100_000], ["1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"])
    values = [minute[key] for minute in known for key in ("p99_ms", "max_ms")]
    axes.set_ylim(min([5, *values]) / 1.5, max([2000, *values]) * 1.5)
    axes.set_ylabel(f"pick-up of {record['plan']['rate']:g} short\ntasks a second, by minute")
    axes.legend(fontsize=8, loc="upper right", ncols=3)


def _long(axes: Any, record: dict[str, Any]) -> None:
    labels = set()
    for row, long in enumerate(record["long"]):
        for number, run in enumerate(long["runs"]):
            ended = long["status"] == "completed" and number == len(long["runs"]) - 1
            label = "run that completed" if ended else "run that was ended"
            axes.barh(
                row, (run["to_s"] - run["from_s"]) / 60, left=run["from_s"] / 60, height=0.62,
                color=ENDED if ended else CUT, edgecolor="white", label=None if label in labels else label,
            )  # fmt: skip
            labels.add(label)
    axes.set_yticks(range(len(record["long"])), [str(row + 1) for row in range(len(record["long"]))])
    axes.invert_yaxis()
    axes.set_ylabel(f"long tasks\nof {record['plan']['long_minutes']:g} min")
    axes.set_xlabel("minutes")
    axes.set_xlim(0, record["seconds"] / 60)
    if labels:
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False)
